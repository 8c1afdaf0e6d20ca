//! `cargo xtask sim`: starts the simulation that is asked for.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute},
};

#[derive(clap::Args)]
pub struct Args {
    /// What to simulate.
    subject: Subject,
    /// Heartbeats are sent over loopback for so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// False alarms of detection rules, and their times to detect.
    Detect,
}

pub fn run(args: &Args) -> Result<()> {
    let Subject::Detect = args.subject;
    setup::ensure(&[Need::Build])?;
    let mut command = cargo(&["run", "--locked", "--package", "mesh-tests", "--bin", "mesh-sim", "--", "detect"]);
    execute(command.args(["--seconds", &args.seconds.to_string()]))
}
