//! /init of a test's virtual machine: mounts, loads modules, runs every binary in /tests and powers off.
//!
//! It reports on the second serial port, which the kernel never writes to, in lines that begin with `vm: `. `vm: done` says that all has run:
//! the machine also ends when the kernel panics.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        termios::tcdrain,
    },
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, sync},
};

const PORT: &str = "/dev/ttyS1";
const MOUNTS: [(&str, &str); 6] = [
    ("sysfs", "/sys"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"),
    ("cgroup2", "/sys/fs/cgroup"),
];
/// MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel itself unpacks the module.
const COMPRESSED: i32 = 4;

fn main() {
    if let Err(error) = prepare().and_then(|()| run()) {
        println!("vm: error {error:#}");
    }
    let _ = io::stdout().flush();
    let _ = tcdrain(io::stdout());
    sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // A first process that returned would panic the kernel.
    loop {
        std::thread::park();
    }
}

/// Makes the machine one that tests can run on.
fn prepare() -> Result<()> {
    attach("proc", "/proc")?;
    attach("devtmpfs", "/dev")?;
    let port = File::options().read(true).write(true).open(PORT).context("failed to open the port to report on")?;
    dup2_stdin(&port)?;
    dup2_stdout(&port)?;
    dup2_stderr(&port)?;
    println!("vm: init {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    for (kind, at) in MOUNTS {
        attach(kind, at)?;
    }
    for name in fs::read_to_string("/modules/order")?.lines() {
        load(&Path::new("/modules").join(name)).with_context(|| format!("failed to load module {name}"))?;
    }
    Ok(())
}

fn attach(kind: &str, at: &str) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("failed to make {at}"))?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).with_context(|| format!("failed to mount {kind} at {at}"))
}

fn load(module: &Path) -> Result<()> {
    let packed = module.extension().is_some_and(|e| e != "ko");
    let flags = ModuleInitFlags::from_bits_retain(if packed { COMPRESSED as _ } else { 0 });
    match finit_module(File::open(module)?, c"", flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn run() -> Result<()> {
    let mut tests: Vec<_> = fs::read_dir("/tests")?.flatten().map(|entry| entry.path()).collect();
    tests.sort();
    let arguments = fs::read_to_string("/arguments")?;
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("vm: start {name}");
        let start = Instant::now();
        let status = Command::new(&test)
            .args(arguments.lines())
            .envs([("PATH", "/usr/sbin"), ("HOME", "/root"), ("TMPDIR", "/tmp"), ("MESH_VM", "1"), ("RUST_BACKTRACE", "1")])
            .status();
        let code = status.map_or_else(|e| e.to_string().replace(' ', "_"), |s| s.code().map_or(String::from("signal"), |c| c.to_string()));
        println!("\nvm: exit {name} {code} {} ms", start.elapsed().as_millis());
    }
    println!("vm: done");
    Ok(())
}
