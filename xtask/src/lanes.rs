//! Test binaries, several at once where they mostly wait.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::{Pid, SysconfVar, geteuid, sysconf},
};

use crate::{binaries::Binary, tally::Tally};

/// How test binaries are run.
#[derive(Debug, Default)]
pub struct How {
    /// So many at once.
    pub lanes: usize,
    /// As root: they load programs and make namespaces.
    pub root: bool,
    /// What libtest is told.
    pub arguments: Vec<String>,
    pub variables: Vec<(&'static str, OsString)>,
}

/// Runs them to their end and shows what they say, the binary's name in front of each line.
pub fn run(tests: Vec<Binary>, how: &How) -> Result<Tally> {
    if how.root && !geteuid().is_root() && which::which("sudo").is_err() {
        bail!("these tests need root, and there is no sudo: run `cargo xtask test` as root");
    }
    let queue = Mutex::new(tests.into_iter());
    let sum = Mutex::new(Tally::default());
    // By itself: what a `while let` looks at lives as long as its body, and so would the lock.
    let next = || locked(&queue).next();
    thread::scope(|scope| {
        for _ in 0..how.lanes.max(1) {
            scope.spawn(|| {
                while let Some(test) = next() {
                    let tally = how.one(&test).unwrap_or_else(|error| lost(&test, &error));
                    locked(&sum).add(tally);
                }
            });
        }
    });
    Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that could not be followed to its end.
fn lost(test: &Binary, error: &anyhow::Error) -> Tally {
    println!("[{}] {error:#}", test.name);
    let mut tally = Tally::default();
    tally.broken.push(format!("{} ({error:#})", test.name));
    tally
}

impl How {
    fn one(&self, test: &Binary) -> Result<Tally> {
        let start = Instant::now();
        let (said, to) = std::io::pipe()?;
        let mut command = self.command(test);
        command.stdin(Stdio::null()).stdout(to.try_clone()?).stderr(to);
        let mut child = command.spawn().with_context(|| format!("failed to start {}", test.path.display()))?;
        // It holds the pipe's other end.
        drop(command);
        let mut tally = Tally::default();
        for line in BufReader::new(said).split(b'\n') {
            let line = line?;
            if let Some(shown) = tally.take(String::from_utf8_lossy(&line).trim_end()) {
                println!("[{}] {shown}", test.name);
            }
        }
        let computed = computed(&child);
        let status = child.wait()?;
        if !status.success() {
            tally.broken.push(format!("{} ({status})", test.name));
        }
        let (took, computed) = (start.elapsed().as_secs_f64(), computed.unwrap_or_default().as_secs_f64());
        println!("[{}] {tally} in {took:.1} s, of which {computed:.1} s computing", test.name);
        Ok(tally)
    }

    fn command(&self, test: &Binary) -> Command {
        let mut command = if self.root && !geteuid().is_root() {
            let mut sudo = Command::new("sudo");
            sudo.arg("--preserve-env").arg(&test.path);
            sudo
        } else {
            Command::new(&test.path)
        };
        command.args(&self.arguments).envs(self.variables.iter().map(|(name, value)| (name, value))).current_dir(&test.folder);
        command
    }
}

/// The CPU time of a process that has ended and of those that it waited for; it is left to be waited for itself.
fn computed(child: &Child) -> Option<Duration> {
    let id = i32::try_from(child.id()).ok()?;
    waitid(Id::Pid(Pid::from_raw(id)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).ok()?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|ticks| *ticks > 0)?;
    // proc_pid_stat(5): fields 14 to 17 are utime, stime, cutime and cstime; the name, the second field, ends with the last bracket.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    let spent: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>().ok()?;
    Some(Duration::from_millis(spent * 1000 / ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Tally> {
        let shell = Binary { name: String::from("shell"), path: which::which("sh")?, folder: "/".into() };
        run(vec![shell], &How { lanes: 1, arguments: vec!["-c".into(), script.into()], ..How::default() })
    }

    #[test]
    fn what_fails_is_in_the_verdict() -> Result<()> {
        let good = shell("echo 'test result: ok. 3 passed; 0 failed; 0 ignored'")?;
        assert!(good.verdict().is_ok());
        assert_eq!(good.to_string(), "3 passed, 0 failed");
        let bad = shell("echo 'failures:'; echo '---- t stdout ----'; echo 'Error: broken' >&2; exit 3")?;
        let error = bad.verdict().unwrap_err().to_string();
        assert!(error.contains("shell (exit status: 3)\n---- t stdout ----\nError: broken"), "{error}");
        Ok(())
    }

    #[test]
    fn all_are_run_whatever_becomes_of_one() -> Result<()> {
        let there = || Binary { name: String::from("there"), path: "/bin/true".into(), folder: "/".into() };
        let absent = Binary { path: "/nowhere/absent".into(), name: String::from("absent"), ..there() };
        let sum = run(vec![absent, there(), there()], &How { lanes: 2, ..How::default() })?;
        assert!(sum.broken.len() == 1 && sum.broken[0].starts_with("absent (failed to start"), "{:?}", sum.broken);
        Ok(())
    }

    #[test]
    fn lanes_run_side_by_side() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("mesh-lanes-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        // Each waits until the other has come.
        let script = "echo > $$; n=0; until [ $(ls | wc -l) = 2 ]; do n=$((n+1)); [ $n -lt 2000 ] || exit 1; sleep 0.01; done";
        let waits = |name: &str| Ok::<_, anyhow::Error>(Binary { name: name.into(), path: which::which("sh")?, folder: folder.clone() });
        let sum = run(vec![waits("a")?, waits("b")?], &How { lanes: 2, arguments: vec!["-c".into(), script.into()], ..How::default() });
        fs::remove_dir_all(&folder)?;
        sum?.verdict()
    }

    #[test]
    fn time_spent_by_children_counts() -> Result<()> {
        let script = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; true";
        let mut child = Command::new("sh").args(["-c", script]).spawn()?;
        assert!(computed(&child).context("/proc tells it")? > Duration::ZERO);
        child.wait()?;
        Ok(())
    }
}
