//! Consul, which Debian had up to release 11: its package from there, unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::apt::Lists;
use crate::workspace::{run, target};

/// The last release that has the package.
const RELEASE: &str = "bullseye";

/// The program, kept for the next time; `None`, and a word of why, where it can't be had: its tests are then left out.
pub fn ensure() -> Option<PathBuf> {
    let folder = target().join("consul");
    let program = folder.join("consul");
    if program.is_file() {
        return Some(program);
    }
    match fetch(&folder, &program) {
        Ok(()) => Some(program),
        Err(error) => {
            eprintln!("setup: no Consul can be had ({error:#}); the source is tested against a server in the test itself only");
            None
        }
    }
}

fn fetch(folder: &Path, program: &Path) -> Result<()> {
    eprintln!("setup: Consul is fetched from Debian's archive of release {RELEASE}, once");
    let lists = Lists::fetch(folder, of_release)?;
    run(&mut lists.apt_get(&["download", "consul"])).context("Debian's package consul could not be had")?;
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let package = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb")).context("no package was downloaded")?;
    let tree = folder.join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree))?;
    fs::rename(tree.join("usr/bin/consul"), program).context("the package has no consul")?;
    fs::remove_dir_all(&tree)?;
    fs::remove_dir_all(folder.join("lists")).context("failed to remove the lists")
}

/// The same archives of that release; those of updates alone have other names there, and are left out.
fn of_release(text: &str) -> Option<String> {
    let is_release = |suite: &str| suite.chars().all(|c| c.is_ascii_lowercase());
    let stanza = |stanza: &str| {
        let suites = stanza.lines().find_map(|line| line.strip_prefix("Suites:"))?;
        let line = |line: &str| if line.starts_with("Suites:") { format!("Suites: {RELEASE}\n") } else { format!("{line}\n") };
        suites.split_whitespace().any(is_release).then(|| stanza.lines().map(line).collect::<String>())
    };
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let suite = words.iter().position(|word| word.contains("://"))? + 1;
        let ours = words.first() == Some(&"deb") && words.get(suite).is_some_and(|suite| is_release(suite));
        ours.then(|| [&words[..suite], &[RELEASE], &words[suite + 1..]].concat().join(" ") + "\n")
    };
    let changed: Vec<String> =
        if text.contains("Suites:") { text.split("\n\n").filter_map(stanza).collect() } else { text.lines().filter_map(line).collect() };
    (!changed.is_empty()).then(|| changed.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_those_of_the_release() {
        let stanzas = "Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nSuites: bookworm-security\n";
        assert_eq!(of_release(stanzas).as_deref(), Some("Types: deb\nURIs: http://a/debian\nSuites: bullseye\nComponents: main\n"));
        let lines = "deb [signed-by=/k] http://a/debian bookworm main\ndeb http://a/debian/ bookworm main\ndeb http://a/debian-security bookworm-security main\n# x\n";
        let wanted = "deb [signed-by=/k] http://a/debian bullseye main\n\ndeb http://a/debian/ bullseye main\n";
        assert_eq!(of_release(lines).as_deref(), Some(wanted));
        assert_eq!(of_release("deb http://a/tools x-y main\n"), None);
    }
}
