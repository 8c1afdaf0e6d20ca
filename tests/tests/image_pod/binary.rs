//! The static binary that goes into the image.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

const TARGET: &str = if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

/// Builds it as deploy/Dockerfile does, but not optimised; `MESH_STATIC_BIN` names one that is there already.
pub fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MESH_STATIC_BIN") {
        return Ok(path.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&root).args(["build", "--locked", "--quiet", "--package", "mesh-userspace", "--bin", "mesh", "--target", TARGET]);
    let output = cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").output().context("failed to start cargo")?;
    ensure!(output.status.success(), "the static build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(folder.join(TARGET).join("debug/mesh"))
}
