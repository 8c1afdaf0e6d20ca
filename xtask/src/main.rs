//! mesh's project tasks: one file each, `cargo xtask --help` lists them.

mod bench;
mod binaries;
mod build;
mod demo;
mod failures;
mod fuzz;
mod generate;
mod lanes;
mod lint;
mod package;
mod setup;
mod sim;
mod tally;
mod test;
mod tidy;
#[allow(dead_code, reason = "the build script of mesh-userspace uses the rest")]
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// mesh's project tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, the demo and the tests need; does nothing where all is there.
    Setup(setup::Args),
    /// Show the main job on real packets in network namespaces of its own, and check it.
    Demo(demo::Args),
    /// Write anew what is generated: the configuration's document and schema, the plain manifests.
    Generate,
    /// Build everything: the kernel half, the `mesh` binary and what tests it.
    Build(build::Args),
    /// Make the Debian package.
    Package(package::Args),
    /// Check format, clippy's lints (warnings are errors), the kernel half's warnings and `tidy`.
    Lint,
    /// Check the architecture's invariants.
    Tidy,
    /// Run the tests, the fastest first; all of them if none is named. This is what CI runs.
    Test(test::Args),
    /// Measure tables, publication or the packet path.
    Bench(bench::Args),
    /// Look for inputs that break something, guided by what code they reach.
    Fuzz(fuzz::Args),
    /// Simulate what decides: failure detection, slots that move, weights.
    Sim(sim::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo(args) => return demo::run(&args),
        Task::Generate => generate::run()?,
        Task::Setup(args) => setup::run(&args)?,
        Task::Build(args) => build::run(args)?,
        Task::Package(args) => package::run(&args)?,
        Task::Lint => lint::run()?,
        Task::Tidy => tidy::run()?,
        Task::Test(args) => test::run(&args)?,
        Task::Bench(args) => bench::run(&args)?,
        Task::Fuzz(args) => fuzz::run(&args)?,
        Task::Sim(args) => sim::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
