//! One network namespace, entered by threads and by commands.

use std::{fs::File, os::unix::process::CommandExt, path::Path, process::Command, thread};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const NETNS_DIR: &str = "/run/netns";

/// A named network namespace that ends with this value, unless it is kept.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    keep: bool,
}

impl Namespace {
    /// Makes `<group>-<pid>-<label>` with loopback up. `group` is what [`remove_stale`] looks for.
    pub fn new(group: &str, label: &str) -> Result<Self> {
        let name = format!("{group}-{}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let file = match File::open(Path::new(NETNS_DIR).join(&name)) {
            Ok(file) => file,
            Err(e) => {
                let _ = run(Command::new("ip").args(["netns", "del", &name]));
                return Err(e).with_context(|| format!("failed to open namespace {name}"));
            }
        };
        let ns = Self { name, file, keep: false };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another handle, which doesn't end the namespace.
    pub fn alias(&self) -> Result<Self> {
        let file = self.file.try_clone().with_context(|| format!("failed to share namespace {}", self.name))?;
        Ok(Self { name: self.name.clone(), file, keep: true })
    }

    /// Leaves the namespace behind when this value goes.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// `ip <words>` inside.
    pub fn ip(&self, words: &str) -> Result<()> {
        run(self.command("ip").args(words.split_whitespace()))
    }

    /// Writes a sysctl of this namespace; `key` with slashes, as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| std::fs::write(&path, value))?.with_context(|| format!("failed to set {key}={value} in {}", self.name))
    }

    /// A command that runs inside. Only the network is another one: /sys, and with it the BPF file system, stays the caller's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = self.file.try_clone();
        // SAFETY: between fork and exec the closure only calls setns(2), which is async-signal-safe, on a descriptor that it owns.
        unsafe {
            command.pre_exec(move || match &file {
                Ok(file) => setns(file, CloneFlags::CLONE_NEWNET).map_err(Into::into),
                Err(_) => Err(std::io::ErrorKind::NotFound.into()),
            });
        }
        command
    }

    /// Runs `f` on a thread of its own inside. Sockets that it makes stay in the namespace wherever they are used.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("failed to enter {}", self.name))?;
                Ok(f())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<thread::JoinHandle<T>> {
        // A new thread begins in the namespace of the one that makes it.
        self.enter(|| thread::spawn(f))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep {
            let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
        }
    }
}

/// Ends what runs in namespaces of `group` whose maker is no longer there (a run that was killed, or kept), and deletes them. Returns their names.
pub fn remove_stale(group: &str) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Ok(Vec::new()) };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(group).and_then(|r| r.strip_prefix('-')) else { continue };
        let Some(pid) = rest.split('-').next().and_then(|p| p.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            end_processes(&name)?;
            run(Command::new("ip").args(["netns", "del", &name]))?;
            removed.push(name);
        }
    }
    Ok(removed)
}

fn end_processes(namespace: &str) -> Result<()> {
    let pids = Command::new("ip").args(["netns", "pids", namespace]).output().context("failed to list processes of a namespace")?;
    for pid in String::from_utf8_lossy(&pids.stdout).lines().filter_map(|line| line.trim().parse().ok()) {
        // One that has ended by itself meanwhile is as good.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Ok(())
}

/// Runs a command to its end; an error says what it was and what it printed.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_goes_with_its_value_and_a_command_sees_it() -> Result<()> {
        let ns = Namespace::new("mesh-unit", "a")?;
        let name = ns.name().to_owned();
        let links = ns.command("ip").args(["-o", "link"]).output()?;
        assert_eq!(String::from_utf8(links.stdout)?.lines().count(), 1, "only loopback");
        drop(ns);
        assert!(!Path::new(NETNS_DIR).join(name).exists());
        Ok(())
    }
}
