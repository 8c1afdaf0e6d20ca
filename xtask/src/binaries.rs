//! The binaries that the tests are made of.

use std::{
    fs,
    path::{Path, PathBuf},
};

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
    /// The folder of its package, where cargo would start it.
    pub folder: PathBuf,
}

/// Where unit tests are: in every library, and in the only binary that has some.
const UNITS: [&str; 3] = ["--lib", "--bin", "xtask"];

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

/// Builds these test binaries and the unit tests, at once.
pub fn all(names: &[String]) -> Result<()> {
    let arguments: Vec<&str> = names.iter().flat_map(|name| ["--test", name]).chain(UNITS).collect();
    built(&arguments).map(drop)
}

/// Builds these test binaries; in the order of their names.
pub fn tests(names: &[String]) -> Result<Vec<Binary>> {
    let arguments: Vec<&str> = names.iter().flat_map(|name| ["--test", name]).collect();
    let found: Vec<Binary> = built(&arguments)?.into_iter().filter(|b| names.contains(&b.name)).collect();
    ensure!(found.len() == names.len(), "cargo built {} of {} test binaries", found.len(), names.len());
    Ok(found)
}

/// Builds the unit tests.
pub fn units() -> Result<Vec<Binary>> {
    built(&UNITS)
}

/// Builds the workspace's own binaries; the folder that they are in.
pub fn own() -> Result<PathBuf> {
    build::run(build::Args::default())?;
    Ok(target().join("debug"))
}

fn built(arguments: &[&str]) -> Result<Vec<Binary>> {
    let mut command = cargo(&["test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let messages = output(command.args(arguments))?;
    let mut found: Vec<Binary> = messages.lines().filter_map(executable).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The test binary that one of cargo's messages says was built.
fn executable(message: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?.into();
    if !message.pointer("/profile/test")?.as_bool()? {
        return None;
    }
    let name = message.pointer("/target/name")?.as_str()?.to_owned();
    let folder = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    Some(Binary { name, path, folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_read_from_cargos_messages() {
        let message = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{{"name":"kernel_a"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = executable(&message(true, r#""/t/kernel_a-1""#)).unwrap();
        assert_eq!((found.name.as_str(), found.folder.as_path()), ("kernel_a", Path::new("/w/tests")));
        assert!(executable(&message(false, r#""/t/kernel_a""#)).is_none(), "a program that tests start is no test");
        assert!(executable(&message(true, "null")).is_none());
        assert!(executable("no json").is_none());
    }
}
