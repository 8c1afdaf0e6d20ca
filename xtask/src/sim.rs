//! `cargo xtask sim`: starts the simulation that is asked for.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute, target},
};

#[derive(clap::Args)]
pub struct Args {
    /// What to simulate.
    subject: Subject,
    /// Heartbeats are sent over loopback for so many seconds, and as root as many more with real-time priority.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// False alarms of detection rules, and their times to detect; drawn in target/sim/detect.svg.
    Detect,
}

pub fn run(args: &Args) -> Result<()> {
    let Subject::Detect = args.subject;
    setup::ensure(&[Need::Build])?;
    let mut command = cargo(&["run", "--locked", "--package", "mesh-tests", "--bin", "mesh-sim", "--", "detect"]);
    let picture = target().join("sim/detect.svg");
    execute(command.args(["--seconds", &args.seconds.to_string(), "--svg"]).arg(picture))
}
