//! `cargo xtask test`: every proof there is, and exactly what CI runs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::{
    binaries, build,
    failures::run as execute,
    lint,
    setup::{self, Need},
    vm,
    workspace::cargo,
};

#[derive(clap::Args)]
pub struct Args {
    /// Which tests (several may be named); all of them if none is.
    suites: Vec<Suite>,
    /// Kernel for `vm` (repeatable): a version that Debian has a cloud image of, a folder, or a .deb file [default: 6.1 and 6.12].
    #[arg(long = "kernel", value_name = "VERSION|DIR|DEB")]
    kernels: Vec<String>,
    /// Only tests whose names have one of these words.
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// The fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Format, lints, architecture.
    Lint,
    /// Unit and property tests, and fixtures through the engine.
    Host,
    /// Programs run by the kernel on given packets (needs root).
    Kernel,
    /// Daemon, program and real traffic in network namespaces (needs root).
    Netns,
    /// Sources of backends against the real servers of Debian's packages (needs root).
    Peers,
    /// The container image with just the capabilities it asks for (needs root).
    Image,
    /// `kernel` and `netns` inside Debian's stock kernels.
    Vm,
    /// The real kube-apiserver, which is built first; only if it is named (needs root).
    K8s,
}

pub fn run(args: &Args) -> Result<()> {
    let all: Vec<Suite> = Suite::value_variants().iter().copied().filter(|s| *s != Suite::K8s).collect();
    let suites = if args.suites.is_empty() { &all } else { &args.suites };
    let mut done = Vec::new();
    for &suite in suites.iter() {
        println!("\n== {suite:?}");
        let start = Instant::now();
        let result = suite.run(args);
        if result.is_err() {
            eprintln!("error: {suite:?} failed; why stands at the end");
        }
        done.push((suite, start.elapsed(), result));
    }
    summarize(&done)
}

/// What failed and why, and last which suites that were: the end of a long log is what is read first.
fn summarize(done: &[(Suite, Duration, Result<()>)]) -> Result<()> {
    for (suite, _, result) in done {
        if let Err(error) = result {
            println!("\n== What failed in {suite:?}\n{error:#}");
        }
    }
    println!("\n== Summary");
    for (suite, took, result) in done {
        println!(
            "{:<8} {:>6.1} s  {}",
            format!("{suite:?}").to_lowercase(),
            took.as_secs_f64(),
            if result.is_ok() { "ok" } else { "FAILED" }
        );
    }
    let failed = done.iter().filter(|(_, _, result)| result.is_err()).count();
    ensure!(failed == 0, "{failed} of {} failed", done.len());
    Ok(())
}

impl Suite {
    fn run(self, args: &Args) -> Result<()> {
        match self {
            Self::Lint => lint::run(),
            Self::Host => host(&args.words),
            Self::Kernel => integration("kernel_", &[Need::Test], &args.words),
            Self::Netns => integration("netns_", &[Need::Test], &args.words),
            Self::Peers => peers(&args.words),
            Self::Image => integration("image_", &[Need::Test, Need::Image], &args.words),
            Self::Vm => vm::run(&args.kernels, &args.words),
            Self::K8s => k8s(&args.words),
        }
    }
}

fn host(words: &[String]) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let mut command = cargo(&["test", "--locked", "--no-fail-fast", "--workspace", "--lib", "--bins"]);
    // The engine's own tests, and the ledger's.
    command.args(["--test", "engine", "--test", "ledger"]);
    for name in binaries::named("host_")? {
        command.args(["--test", &name]);
    }
    execute(command.arg("--").args(words))
}

/// Runs the files `tests/tests/<prefix>*.rs`. They find the binaries that they start beside themselves.
fn integration(prefix: &str, needs: &[Need], words: &[String]) -> Result<()> {
    execute(&mut prepared(prefix, needs, words)?)
}

/// The same with Consul, where it can be had, which its tests find by a variable.
fn peers(words: &[String]) -> Result<()> {
    let mut command = prepared("peer_", &[Need::Test, Need::Peers], words)?;
    if let Some(consul) = setup::consul::ensure() {
        command.env("MESH_CONSUL", consul);
    }
    execute(&mut command)
}

/// The same with the real API server of Kubernetes, which its test finds by a variable.
fn k8s(words: &[String]) -> Result<()> {
    let server = setup::apiserver::ensure()?;
    execute(prepared("k8s_", &[Need::Test, Need::Peers], words)?.env("MESH_KUBE_APISERVER", server))
}

fn prepared(prefix: &str, needs: &[Need], words: &[String]) -> Result<std::process::Command> {
    let mut command = cargo(&["test", "--locked", "--workspace"]);
    for name in binaries::named(prefix)? {
        command.args(["--test", &name]);
    }
    setup::ensure(needs)?;
    become_root(&mut command)?;
    build::run(build::Args::default())?;
    command.args(["--no-fail-fast", "--", "--show-output"]).args(words);
    Ok(command)
}

/// The tests load programs and make namespaces, cargo need not: only the test binaries are started through sudo.
fn become_root(command: &mut std::process::Command) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if which::which("sudo").is_err() {
        bail!("these tests need root, and there is no sudo: run `cargo xtask test` as root");
    }
    let arch = std::env::consts::ARCH.to_uppercase();
    command.env(format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"), "sudo --preserve-env");
    Ok(())
}
