//! One boot of a virtual machine, and what it said.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::report::Report;

const MEMORY_MIB: u32 = 1024;
/// From QEMU's start to the first line of /init.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// The same where KVM runs the machine. Some machines have a /dev/kvm that hangs.
const KVM_BOOT_LIMIT: Duration = Duration::from_secs(20);
const RUN_LIMIT: Duration = Duration::from_secs(1800);

/// For the kernel under emulation. An emulated time stamp counter is not steady enough for the kernel's checks. Without random addresses the code
/// that was translated for one process serves the next of the same program; what protects and accounts memory only costs time here.
const EMULATED: &str = " no_timer_check clocksource=hpet tsc=unstable norandmaps mitigations=off init_on_alloc=0 cgroup_disable=memory";

/// What to boot.
pub struct Machine<'a> {
    pub image: &'a Path,
    pub initramfs: &'a Path,
    /// The kernel's own messages go here.
    pub console: PathBuf,
    /// In front of every line that is shown.
    pub name: &'a str,
    /// One CPU, emulated, whose clock goes by the instructions that it executes: one a nanosecond.
    pub counted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Tcg,
    /// TCG that counts.
    Icount,
}

enum Line {
    Guest(String),
    Qemu(String),
}

/// Boots the machine and follows it to its end.
pub fn boot(machine: &Machine) -> Result<Report> {
    if machine.counted {
        let report = attempt(machine, Accelerator::Icount)?;
        return report.with_context(|| format!("{}: no sign of /init within {BOOT_LIMIT:?}\n{}", machine.name, tail(&machine.console)));
    }
    if kvm_works() {
        if let Some(report) = attempt(machine, Accelerator::Kvm)? {
            return Ok(report);
        }
        println!("[{}] /dev/kvm does not boot it; emulating", machine.name);
    }
    let report = attempt(machine, Accelerator::Tcg)?;
    report.with_context(|| format!("{}: no sign of /init within {BOOT_LIMIT:?}\n{}", machine.name, tail(&machine.console)))
}

/// A /dev/kvm alone says little: a paravirtual one can't boot a stock kernel.
fn kvm_works() -> bool {
    let modules = ["kvm_intel", "kvm_amd"].iter().any(|m| Path::new("/sys/module").join(m).exists());
    modules && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// `None`: the guest's /init never spoke.
fn attempt(machine: &Machine, accelerator: Accelerator) -> Result<Option<Report>> {
    let boot_limit = if accelerator == Accelerator::Kvm { KVM_BOOT_LIMIT } else { BOOT_LIMIT };
    let mut qemu = Running::start(command(machine, accelerator))?;
    let start = Instant::now();
    let mut report = Report::default();
    loop {
        let limit = if report.started() { RUN_LIMIT } else { boot_limit };
        match qemu.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(Line::Guest(line)) => {
                if let Some(shown) = report.take(&line) {
                    println!("[{}] {shown}", machine.name);
                }
            }
            Ok(Line::Qemu(line)) if line.contains("KVM internal error") => return Ok(None),
            Ok(Line::Qemu(line)) => println!("[{}] qemu: {line}", machine.name),
            Err(RecvTimeoutError::Timeout) if !report.started() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("{}: not done within {RUN_LIMIT:?}\n{}", machine.name, tail(&machine.console)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = qemu.child.wait().context("failed to wait for QEMU")?;
    ensure!(status.success(), "{}: QEMU: {status}", machine.name);
    // QEMU ends well when the guest panics, too.
    ensure!(report.done(), "{}: the guest ended before its work was done\n{}", machine.name, tail(&machine.console));
    Ok(Some(report))
}

/// The kernel writes to the first serial port (a file), /init to the second (our pipe), so that neither cuts the other's lines.
fn command(machine: &Machine, accelerator: Accelerator) -> Command {
    let mut append = String::from("console=ttyS0 panic=-1 quiet");
    if accelerator != Accelerator::Kvm {
        append += EMULATED;
    }
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // With a thread per CPU, TCG's patching of code under a running CPU can crash the guest. String instructions are emulated byte by byte, and would
        // count as one each, however long they are: the guest is told that they are not fast.
        Accelerator::Tcg | Accelerator::Icount => ("tcg,thread=single", "max,-erms,-fsrm"),
    };
    let cpus = if accelerator == Accelerator::Icount { "1" } else { "2" };
    // QEMU ends with us even where we are killed.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", accel, "-cpu", cpu, "-M", "q35", "-smp", cpus, "-m", &format!("{MEMORY_MIB}M")])
        .args(["-nographic", "-nodefaults", "-no-reboot"])
        .args(["-serial", &format!("file:{}", machine.console.display()), "-serial", "stdio"])
        .arg("-kernel")
        .arg(machine.image)
        .arg("-initrd")
        .arg(machine.initramfs)
        .args(["-append", &append])
        .args((accelerator == Accelerator::Icount).then_some(["-icount", "shift=0,sleep=off"]).into_iter().flatten())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    qemu
}

/// A QEMU that ends with this value.
struct Running {
    child: Child,
    lines: mpsc::Receiver<Line>,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.spawn().context("failed to start qemu-system-x86_64")?;
        let (to, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            follow(stdout, to.clone(), Line::Guest);
        }
        if let Some(stderr) = child.stderr.take() {
            follow(stderr, to, Line::Qemu);
        }
        Ok(Self { child, lines })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends every line on; the channel closes when both pipes have.
fn follow(from: impl Read + Send + 'static, to: Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send(kind(text)).is_err() {
                return;
            }
        }
    });
}

fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    format!("the end of {}:\n{}", console.display(), lines[lines.len().saturating_sub(30)..].join("\n"))
}
