//! `cargo xtask build`: all members. The kernel half is built by mesh-userspace's build script.

use std::env::consts::ARCH;

use anyhow::Result;

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute, target},
};

#[derive(clap::Args, Clone, Copy, Default)]
pub struct Args {
    /// With optimisation, as it ships.
    #[arg(long)]
    pub release: bool,
    /// Only `mesh`, with optimisation, as one file that needs no library: for a container image.
    #[arg(long = "static")]
    pub without_libraries: bool,
}

pub fn run(args: Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    if args.without_libraries {
        return build_static();
    }
    let mut command = cargo(&["build", "--locked", "--workspace"]);
    if args.release {
        command.arg("--release");
    }
    execute(&mut command)
}

fn build_static() -> Result<()> {
    // With a target that is named, the flag reaches the binary but no build script and no macro.
    let triple = format!("{ARCH}-unknown-linux-gnu");
    let mut command = cargo(&["build", "--locked", "--release", "--package", "mesh-userspace", "--bin", "mesh", "--target", &triple]);
    execute(command.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    println!("{}", target().join(triple).join("release/mesh").display());
    Ok(())
}
