//! `cargo xtask build`: all members. The kernel half is built by mesh-userspace's build script.

use anyhow::Result;

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute},
};

#[derive(clap::Args, Clone, Copy, Default)]
pub struct Args {
    /// With optimisation, as it ships.
    #[arg(long)]
    pub release: bool,
}

pub fn run(args: Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let mut command = cargo(&["build", "--locked", "--workspace"]);
    if args.release {
        command.arg("--release");
    }
    execute(&mut command)
}
