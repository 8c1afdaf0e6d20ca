//! `cargo xtask package`: the Debian package, by cargo-deb and the metadata in mesh-userspace/Cargo.toml.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute, target},
};

#[derive(clap::Args)]
pub struct Args {
    /// Without optimisation: quickly built, for tests.
    #[arg(long)]
    pub debug: bool,
    /// Where the package is written, a file or a folder [default: target/debian].
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
}

/// Where shells look for completions, by shell and file.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "mesh"), ("zsh", "_mesh"), ("fish", "mesh.fish")];

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Image])?;
    let (profile, folder) = if args.debug { ("dev", "debug") } else { ("release", "release") };
    execute(&mut cargo(&["build", "--locked", "--package", "mesh-userspace", "--bin", "mesh", "--profile", profile]))?;
    let built = target().join(folder);
    documents(&built.join("mesh"), &built.join("package"))?;
    // What is tested is thrown away: it need not be small.
    let press = if args.debug { &["--fast"][..] } else { &[] };
    let mut deb = cargo(&["deb", "--no-build", "--strip", "--package", "mesh-userspace", "--profile", profile, "--output"]);
    let output = args.output.clone().unwrap_or_else(|| target().join("debian"));
    execute(deb.arg(std::path::absolute(&output)?).args(press))
}

/// What the binary says of itself, as files.
fn documents(mesh: &Path, to: &Path) -> Result<()> {
    let man = to.join("man");
    if man.exists() {
        fs::remove_dir_all(&man).with_context(|| format!("failed to remove {}", man.display()))?;
    }
    fs::create_dir_all(to)?;
    execute(Command::new(mesh).arg("man").arg(&man))?;
    for (shell, file) in COMPLETIONS {
        let script = Command::new(mesh).args(["completions", shell]).output().context("failed to start mesh")?;
        fs::write(to.join(file), script.stdout).with_context(|| format!("failed to write {file}"))?;
    }
    Ok(())
}
