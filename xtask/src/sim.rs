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
    /// `detect`: heartbeats are sent over loopback for so many seconds, and as root as many more with real-time priority.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// False alarms of detection rules, and their times to detect; drawn in target/sim/detect.svg.
    Detect,
    /// Slots that one change moves, by builder; drawn in target/sim/tables.svg.
    Tables,
    /// Slots that failures and weights that jitter move; drawn in target/sim/churn.svg.
    Churn,
    /// Connections that changes of the table break, by who keeps them; drawn in target/sim/breaking.svg.
    Breaking,
    /// Latency under equal, ideal and controlled weights; drawn in target/sim/weights.svg.
    Weights,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let name = match args.subject {
        Subject::Detect => "detect",
        Subject::Tables => "tables",
        Subject::Churn => "churn",
        Subject::Breaking => "breaking",
        Subject::Weights => "weights",
    };
    let mut command = cargo(&["run", "--locked", "--package", "mesh-tests", "--bin", "mesh-sim", "--", name]);
    if let Subject::Detect = args.subject {
        command.args(["--seconds", &args.seconds.to_string()]);
    }
    execute(command.arg("--svg").arg(target().join("sim").join(name).with_extension("svg")))
}
