//! `cargo xtask demo`: the main job, shown on real packets and checked.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute, target},
};

#[derive(clap::Args)]
pub struct Args {
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    /// Leave the topology up to play with.
    #[arg(long)]
    keep: bool,
    /// Only take down what an earlier run has left.
    #[arg(long)]
    clean: bool,
}

/// Sets up, builds, and hands over to the program that performs.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "the demo makes network namespaces and loads programs: run it as root");
    setup::ensure(&[Need::Demo])?;
    // Standard output is the summary's alone.
    execute(&mut cargo(&["build", "--locked", "--package", "mesh-userspace", "--package", "mesh-tests", "--bins"]))?;
    let program = target().join("debug/mesh-demo");
    let mut command = std::process::Command::new(&program);
    for (given, flag) in [(args.json, "--json"), (args.keep, "--keep"), (args.clean, "--clean")] {
        if given {
            command.arg(flag);
        }
    }
    let status = command.status().with_context(|| format!("failed to start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
