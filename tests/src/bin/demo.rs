//! `cargo xtask demo` runs this.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use clap::Parser;
use mesh_tests::demo::{self, Options};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Shows mesh's main job on real packets in network namespaces of its own, and checks itself.
#[derive(Parser)]
struct Args {
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

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.clean {
        eprintln!("removed {} namespaces", demo::clean()?);
        return Ok(ExitCode::SUCCESS);
    }
    clean_up_on_signals()?;
    let summary = demo::perform(Options { keep: args.keep }, &STOP)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("\n{summary}");
    }
    Ok(if summary.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ctrl-C and SIGTERM end the demo between two lines of its script, so that everything is taken down on the way out.
fn clean_up_on_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action) }.context("failed to set a signal handler")?;
    }
    Ok(())
}
