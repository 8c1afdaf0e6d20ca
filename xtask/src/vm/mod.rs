//! `cargo xtask test vm`: the kernel and namespace tests inside Debian's stock kernels.
//!
//! The guest has no disk: an initramfs holds the test binaries, the programs that they start, and an init that runs them. They are the binaries
//! that run outside, too, with their libraries, so nothing is built for this but init.

mod counted;
mod initramfs;
mod kernel;
mod qemu;
mod report;

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};

pub use self::counted::counted;
use self::{initramfs::Archive, kernel::Kernel, qemu::Machine, report::Report};
use crate::{
    binaries::{self, Binary},
    setup::{self, Need, find},
    tally::Tally,
    workspace,
};

/// The oldest kernel that mesh runs on, and the newest stable one of Debian's.
const DEFAULT_KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Test binaries that run inside: they load every program, send every fixture through them, and attach, publish, adopt and resolve by the data plane
/// itself. Random inputs say no more of an old kernel than the fixtures do, and where the daemon judges backends by the millisecond, emulation makes
/// them look dead.
const INSIDE: [&str; 9] = [
    "kernel_agent",
    "kernel_clock",
    "kernel_explain",
    "kernel_fixtures",
    "kernel_flow_log",
    "kernel_handshake",
    "kernel_passage",
    "netns_dataplane",
    "netns_nexthop",
];

/// Programs of the project that the tests start, and init.
const OWN: [&str; 2] = ["mesh", "mesh-peer"];
const INIT: &str = "mesh-vm-init";

/// Boots each kernel, all at once, and runs the tests in it; with `words` only those whose names have one of them.
pub fn run(kernels: &[String], words: &[String]) -> Result<Tally> {
    let kernels: Vec<&str> = if kernels.is_empty() { DEFAULT_KERNELS.to_vec() } else { kernels.iter().map(String::as_str).collect() };
    setup::ensure(&[Need::Vm])?;
    let tests = binaries::tests(&INSIDE.map(str::to_owned))?;
    let own = binaries::own()?;
    let cache = workspace::target().join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("failed to make {}", cache.display()))?;
    let kernels = kernels.iter().map(|k| kernel::get(k, &cache, kernel::MODULES)).collect::<Result<Vec<_>>>()?;

    let work = Scratch::new(&cache)?;
    let programs = work.0.join("programs");
    let arguments: Vec<String> = std::iter::once("--show-output".to_owned()).chain(words.iter().cloned()).collect();
    pack_programs(&tests, &arguments, &[], &own, &programs, &work.0).context("failed to pack the guests' programs")?;

    let start = Instant::now();
    let outcomes: Vec<Result<Report>> = thread::scope(|scope| {
        let guests: Vec<_> = kernels.iter().map(|kernel| scope.spawn(|| guest(kernel, &programs, &work.0))).collect();
        guests.into_iter().map(|g| g.join().unwrap_or_else(|_| Err(anyhow!("the thread of a guest panicked")))).collect()
    });
    println!("\nvirtual machines: {:.1} s", start.elapsed().as_secs_f64());
    summarize(&kernels, outcomes)
}

fn summarize(kernels: &[Kernel], outcomes: Vec<Result<Report>>) -> Result<Tally> {
    let (mut bad, mut sum) = (Vec::new(), Tally::default());
    for (kernel, outcome) in kernels.iter().zip(outcomes) {
        let name = &kernel.name;
        match &outcome {
            Ok(report) => {
                report.verifier().iter().for_each(|line| println!("[{name}] {line}"));
                println!("[{name}] {}", report.tally());
            }
            Err(error) => println!("[{name}] {error:#}"),
        }
        let verdict = outcome.as_ref().map_err(|e| format!("{e:#}")).and_then(|r| r.verdict().map_err(|e| format!("{e:#}")));
        bad.extend(verdict.err().map(|why| format!("[{name}] {why}")));
        outcome.into_iter().for_each(|report| sum.add(report.into_tally()));
    }
    ensure!(bad.is_empty(), "{} of {} kernels failed:\n{}", bad.len(), kernels.len(), bad.join("\n"));
    Ok(sum)
}

fn guest(kernel: &Kernel, programs: &Path, work: &Path) -> Result<Report> {
    let label: String = kernel.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    let initramfs = work.join(format!("initramfs-{label}"));
    // The kernel takes several archives, one after the other, for one.
    fs::copy(programs, &initramfs).with_context(|| format!("failed to write {}", initramfs.display()))?;
    pack_modules(kernel, File::options().append(true).open(&initramfs)?)?;
    qemu::boot(&Machine {
        image: &kernel.image,
        initramfs: &initramfs,
        console: work.join(format!("console-{label}")),
        name: &kernel.name,
        counted: false,
    })
}

/// `tests` are run with `arguments`, one after the other; `tools` are programs of this machine beside `ip`.
fn pack_programs(tests: &[Binary], arguments: &[String], tools: &[&str], own: &Path, to: &Path, scratch: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(to)?));
    archive.console()?;
    for folder in ["proc", "sys", "tmp", "run", "root"] {
        archive.folder(folder)?;
    }
    archive.program("init", &own.join(INIT), scratch)?;
    for name in OWN {
        archive.program(name, &own.join(name), scratch)?;
    }
    for test in tests {
        archive.program(&format!("tests/{}", test.name), &test.path, scratch)?;
    }
    archive.file("arguments", arguments.join("\n").as_bytes())?;
    for tool in ["ip"].iter().chain(tools) {
        let path = find(tool).with_context(|| format!("no `{tool}` to put into the guests"))?;
        archive.program(&format!("usr/sbin/{tool}"), &path, scratch)?;
    }
    archive.finish()
}

fn pack_modules(kernel: &Kernel, to: File) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(to));
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), &fs::read(module)?)?;
        order += &format!("{name}\n");
    }
    archive.file("modules/order", order.as_bytes())?;
    archive.finish()
}

/// A folder that ends with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> Result<Self> {
        remove_stale(cache)?;
        let folder = cache.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

/// Removes what runs that were killed have left.
fn remove_stale(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache).with_context(|| format!("failed to list {}", cache.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("run-") else { continue };
        if !Path::new("/proc").join(pid).exists() {
            fs::remove_dir_all(entry.path()).with_context(|| format!("failed to remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
