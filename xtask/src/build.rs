//! `cargo xtask build`: all members. The kernel half is built by mesh-userspace's build script.

use std::path::PathBuf;

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
        println!("{}", without_libraries(Profile::Release)?.display());
        return Ok(());
    }
    let mut command = cargo(&["build", "--locked", "--workspace"]);
    if args.release {
        command.arg("--release");
    }
    execute(&mut command)
}

/// Cargo's profiles.
#[derive(Clone, Copy, Debug)]
pub enum Profile {
    Dev,
    Release,
}

/// Builds `mesh` as one file that needs no library; where it is.
///
/// Only what links it is told so: all that it is made of is shared with every other build. Its own folder keeps it apart from the `mesh` that needs
/// libraries.
pub fn without_libraries(profile: Profile) -> Result<PathBuf> {
    let (name, folder) = match profile {
        Profile::Dev => ("dev", "debug"),
        Profile::Release => ("release", "release"),
    };
    let to = target().join("static");
    let shared = format!("build.build-dir={:?}", target().display().to_string());
    let mut command = cargo(&["rustc", "--locked", "--package", "mesh-userspace", "--bin", "mesh", "--profile", name, "--config", &shared]);
    execute(command.arg("--target-dir").arg(&to).args(["--", "-C", "target-feature=+crt-static"]))?;
    Ok(to.join(folder).join("mesh"))
}
