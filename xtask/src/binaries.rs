//! The binaries that the tests are made of.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    build,
    workspace::{cargo, output, root, target},
};

/// A test binary.
#[derive(Clone, Debug)]
pub struct Binary {
    pub name: String,
    pub path: PathBuf,
}

/// Names of the files `tests/tests/<prefix>*.rs`, each a test binary.
pub fn named(prefix: &str) -> Result<Vec<String>> {
    let folder = root().join("tests/tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let files = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = files.filter_map(|f| Some(f.strip_suffix(".rs")?.to_owned())).filter(|n| n.starts_with(prefix)).collect();
    names.sort();
    ensure!(!names.is_empty(), "no file {}/{prefix}*.rs", folder.display());
    Ok(names)
}

/// Builds these test binaries.
pub fn tests(names: &[String]) -> Result<Vec<Binary>> {
    let mut command = cargo(&["test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    for name in names {
        command.args(["--test", name]);
    }
    let messages = output(&mut command)?;
    let found: Vec<Binary> = messages.lines().filter_map(executable).filter(|b| names.contains(&b.name)).collect();
    ensure!(found.len() == names.len(), "cargo built {} of {} test binaries", found.len(), names.len());
    Ok(found)
}

/// Builds the workspace's own binaries; the folder that they are in.
pub fn own() -> Result<PathBuf> {
    build::run(build::Args::default())?;
    Ok(target().join("debug"))
}

/// What one of cargo's messages says was built.
fn executable(message: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?.into();
    let name = message.pointer("/target/name")?.as_str()?.to_owned();
    Some(Binary { name, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let built = r#"{"reason":"compiler-artifact","target":{"name":"kernel_a","kind":["test"]},"executable":"/t/kernel_a-1"}"#;
        assert_eq!(executable(built).map(|b| b.name), Some(String::from("kernel_a")));
        assert!(executable(r#"{"reason":"compiler-artifact","target":{"name":"mesh"},"executable":null}"#).is_none());
        assert!(executable("no json").is_none());
    }
}
