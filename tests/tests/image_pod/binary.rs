//! The static binary that goes into the image.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The one that `cargo xtask test image` has made, as `cargo xtask build --static` makes what ships, but not optimised.
pub fn built() -> Result<PathBuf> {
    let path =
        std::env::var_os("MESH_STATIC_BIN").context("run this by `cargo xtask test image`, or name a static binary by MESH_STATIC_BIN")?;
    Ok(path.into())
}
