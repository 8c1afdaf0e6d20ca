//! A Rust toolchain with rust-src and a bpf-linker that fits it.

use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{apt, programs::find};
use crate::{
    toolchain::{self, Missing},
    workspace::run,
};

/// Debian's newest Rust, the one that its browsers are built with, and its sources.
const DEBIAN_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Versions of bpf-linker that take a feature for each LLVM of [`LLVMS`].
const BPF_LINKER: &str = "^0.13";
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// rustup and binstall wait for long where there is no way to the network.
const PATIENCE_SECONDS: &str = "180";

/// Gets what is missing; fails with the remedy where it can't.
pub fn ensure() -> Result<()> {
    let Err(missing) = toolchain::choose() else { return Ok(()) };
    eprintln!("setup: {missing}");
    if missing == Missing::Source {
        source()?;
    }
    match toolchain::choose() {
        Ok(_) => return Ok(()),
        Err(Missing::Source) => bail!("{}; install one with `rustup toolchain install stable --component rust-src`", Missing::Source),
        Err(Missing::Linker | Missing::OldLinker { .. }) => linker()?,
    }
    let missing = toolchain::choose().err();
    missing.map_or(Ok(()), |m| Err(anyhow!("{m}; install one with `cargo install bpf-linker`, with LLVM's development files in place")))
}

/// rust-src for the active toolchain through rustup, else Debian's toolchain with its sources.
fn source() -> Result<()> {
    if toolchain::rustup() {
        let added = run(patiently("rustup").args(["component", "add", "rust-src"]));
        if added.is_ok() && !matches!(toolchain::choose(), Err(Missing::Source)) {
            return Ok(());
        }
        eprintln!("setup: rustup has no rust-src that helps; trying Debian's packages");
    }
    apt::install(&DEBIAN_RUST)
}

/// A bpf-linker made ready by others where cargo-binstall is there, else one built against Debian's LLVM.
fn linker() -> Result<()> {
    let needs_linker = || toolchain::choose().is_err();
    if find("cargo-binstall").is_some() {
        let got = run(patiently("cargo").args(["binstall", "--no-confirm", "--force", "bpf-linker"]));
        if got.is_ok() && !needs_linker() {
            return Ok(());
        }
        eprintln!("setup: no ready-made bpf-linker fits; building one");
    }
    let least = toolchain::toolchains().iter().map(|t| t.llvm).min().context("no toolchain has rust-src")?;
    let llvm = LLVMS.filter(|llvm| *llvm >= least).find(|llvm| apt::offers(&format!("llvm-{llvm}-dev")));
    let llvm = llvm.with_context(|| format!("no package llvm-N-dev with N from {least} to {}: install bpf-linker by hand", LLVMS.end()))?;
    let (dev, clang) = (format!("llvm-{llvm}-dev"), format!("clang-{llvm}"));
    apt::install(&[dev.as_str(), clang.as_str(), "libzstd-dev", "zlib1g-dev"])?;
    build_linker(llvm)
}

fn build_linker(llvm: u32) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force", "--no-default-features", "--features"]);
    cargo.arg(format!("llvm-{llvm}")).env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    run(&mut cargo).context("bpf-linker could not be built; `cargo install` above says why")
}

fn patiently(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args([PATIENCE_SECONDS, program]);
    command
}
