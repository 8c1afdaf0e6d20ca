//! cargo-deb, which makes the Debian package.

use anyhow::{Context as _, Result};

use super::programs::find;
use crate::workspace::{cargo, run};

const VERSION: &str = "^3.8";

/// Builds it where it is missing.
pub fn ensure() -> Result<()> {
    if complete() {
        return Ok(());
    }
    eprintln!("setup: missing: cargo-deb");
    let mut install = cargo(&["install", "cargo-deb", "--version", VERSION, "--locked"]);
    run(&mut install).context("cargo-deb could not be built; `cargo install` above says why")
}

/// Whether cargo finds it.
pub fn complete() -> bool {
    find("cargo-deb").is_some() || cargo(&["deb", "--version"]).output().is_ok_and(|output| output.status.success())
}
