//! The files that people write: what is neither built nor downloaded nor generated.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::source::Source;

const SKIPPED: [&str; 4] = ["target", ".git", "Cargo.lock", "proptest-regressions"];

/// Every text file below `root`, by its path from there.
pub fn read(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    walk(root, "", &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn walk(root: &Path, below: &str, sources: &mut Vec<Source>) -> Result<()> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            walk(root, &path, sources)?;
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            sources.push(Source::new(&path, &text));
        }
    }
    Ok(())
}
