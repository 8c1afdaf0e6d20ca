//! Inputs as files: one directory a target.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::Target;

/// The inputs of a target that are kept in the repository, by the names of their files.
pub fn read(target: Target) -> Result<Vec<(String, Vec<u8>)>> {
    let directory = kept(target);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("failed to list {}", directory.display()))? {
        let entry = entry?;
        inputs.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Writes inputs into a directory, by number.
pub fn write(directory: &Path, inputs: &[Vec<u8>]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
    for (number, input) in inputs.iter().enumerate() {
        fs::write(directory.join(format!("seed-{number:04}")), input)?;
    }
    Ok(())
}

fn kept(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(target.name())
}
