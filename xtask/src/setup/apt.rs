//! Debian's packages.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, ensure};

use super::programs::find;
use crate::workspace::{output, run};

/// The lists are renewed once, and only if something is to be installed.
static UPDATED: AtomicBool = AtomicBool::new(false);

/// Installs these packages; fails with what to do by hand where it can't.
pub fn install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    ensure!(
        find("apt-get").is_some(),
        "there is no apt-get here: install what Debian calls {wanted} with your package manager, then try again"
    );
    let root = nix::unistd::geteuid().is_root();
    ensure!(
        root || find("sudo").is_some(),
        "installing needs root and there is no sudo: run `apt-get install {wanted}` as root, then try again"
    );
    update()?;
    let mut command = apt_get(&["install", "--yes", "--no-install-recommends"]);
    run(command.args(packages))
        .with_context(|| format!("Debian's packages {wanted} could not be installed; install them by hand, then try again"))
}

/// Whether the lists know a package by this name that can be installed.
pub fn offers(package: &str) -> bool {
    if find("apt-cache").is_none() || update().is_err() {
        return false;
    }
    let policy = output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().any(|l| l.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)"))
}

/// Renews the lists of packages, once in a run.
pub fn update() -> Result<()> {
    if UPDATED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    run(&mut apt_get(&["update", "--quiet"])).context("the lists of packages could not be renewed; check the network, then try again")
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() { Command::new("env") } else { Command::new("sudo") };
    // Through `env` or `sudo`, so that no package asks a question.
    command.arg("DEBIAN_FRONTEND=noninteractive").arg("apt-get").args(args);
    // Standard output belongs to the task that needs the packages.
    command.stdout(std::io::stderr());
    command
}
