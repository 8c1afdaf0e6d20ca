//! `cargo xtask bench`: starts the benchmark that is asked for.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute},
};

#[derive(clap::Args)]
pub struct Args {
    /// What to measure.
    subject: Subject,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Time to build a slot table.
    Table,
    /// Time to publish a table to the kernel.
    Publish,
    /// Time of the loaded program for one packet.
    Packet,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let mut command = match args.subject {
        Subject::Table => cargo(&["bench", "--locked", "--package", "mesh-userspace", "--bench", "table"]),
        Subject::Publish => cargo(&["run", "--locked", "--release", "--package", "mesh-tests", "--bin", "mesh-bench", "--", "publish"]),
        Subject::Packet => cargo(&["run", "--locked", "--release", "--package", "mesh-tests", "--bin", "mesh-bench", "--", "packet"]),
    };
    if args.json {
        command.arg("--json");
    }
    execute(&mut command)
}
