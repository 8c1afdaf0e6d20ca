//! `cargo xtask setup`: what building, the demo and the tests need, installed where it is missing.
//!
//! Every other task calls [`ensure`], which is silent and quick where all is there.

pub mod apiserver;
mod apt;
pub mod consul;
mod debian;
mod ebpf;
mod programs;
mod python;

pub use apt::update as refresh_packages;
pub use programs::find;
pub use python::{ensure as ensure_python, python};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::toolchain;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if something is missing.
    #[arg(long)]
    check: bool,
    /// Only what this needs (repeatable); everything if not given.
    #[arg(long = "for", value_name = "WHAT")]
    needs: Vec<Need>,
    /// Also the servers that sources of backends and metrics are tested against.
    #[arg(long)]
    with_peers: bool,
}

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Need {
    /// Building the kernel half; all else needs this as well.
    Build,
    /// `cargo xtask demo`.
    Demo,
    /// The tests in network namespaces.
    Test,
    /// The tests in virtual machines.
    Vm,
    /// The tests of sources of backends: the servers that they find them at.
    Peers,
    /// The tests of the container image, the chart and the package.
    Image,
    /// The benchmarks, and the peers that they compare with.
    Bench,
    /// The benchmark that counts instructions, in a virtual machine.
    Counted,
}

pub fn run(args: &Args) -> Result<()> {
    let mut needs = if args.needs.is_empty() { Need::value_variants().to_vec() } else { args.needs.clone() };
    if args.with_peers && !needs.contains(&Need::Peers) {
        needs.push(Need::Peers);
    }
    let needs = needs.as_slice();
    if !args.check {
        ensure(needs)?;
    }
    report(needs)
}

/// Installs what is missing for these, says what it does, and fails with the remedy where it can't.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing = programs::missing(needs);
    if !missing.is_empty() {
        eprintln!("setup: missing: {}", programs::names(&missing));
        apt::install(&programs::packages(&missing))?;
    }
    ebpf::ensure()?;
    if needs.contains(&Need::Peers) {
        // Its tests can do without.
        let _ = consul::ensure();
    }
    if needs.contains(&Need::Image) {
        python::ensure()?;
        debian::ensure()?;
    }
    let missing = programs::missing(needs);
    if !missing.is_empty() {
        bail!("after installing {} still nothing on PATH is called {}", programs::packages(&missing).join(" "), programs::names(&missing));
    }
    Ok(())
}

/// Says what is there; fails with the remedy if something is not.
fn report(needs: &[Need]) -> Result<()> {
    let missing = programs::missing(needs);
    for (name, path) in programs::present(needs) {
        println!("{name:<20} {}", path.display());
    }
    let choice = toolchain::choose();
    if let Ok(choice) = &choice {
        let (tools, linker) = (&choice.toolchain, &choice.linker);
        println!("{:<20} {} ({}, LLVM {})", "rustc with rust-src", tools.name, tools.release, tools.llvm);
        println!("{:<20} {} (LLVM {})", "bpf-linker", linker.path.display(), linker.llvm.map_or_else(|| "?".into(), |l| l.to_string()));
    }
    let programs = (!missing.is_empty()).then(|| format!("missing: {}", programs::names(&missing)));
    let helm = (needs.contains(&Need::Image) && !python::complete()).then(|| String::from("missing: Helm as a Python package"));
    let deb = (needs.contains(&Need::Image) && !debian::complete()).then(|| String::from("missing: cargo-deb"));
    let gaps: Vec<String> = programs.into_iter().chain(helm).chain(deb).chain(choice.err().map(|m| m.to_string())).collect();
    if !gaps.is_empty() {
        bail!("{}; run `cargo xtask setup`", gaps.join("; "));
    }
    println!("setup: complete");
    Ok(())
}
