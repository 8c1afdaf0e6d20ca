//! The API server of Kubernetes, built from Debian's own source package, and kept for the next time.
//!
//! The package is no part of any release that has binaries, and its vendored reflect2 breaks with the Go that Debian has: that of Debian's own
//! package takes its place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::apt::{self, Lists};
use crate::workspace::{run, target};

const PACKAGES: [&str; 6] = ["golang-go", "golang-github-modern-go-reflect2-dev", "rsync", "patch", "make", "xz-utils"];
const REFLECT: &str = "/usr/share/gocode/src/github.com/modern-go/reflect2";

/// The program; the first time it is built, which takes some ten minutes and 3 GB below the target folder.
pub fn ensure() -> Result<PathBuf> {
    let folder = target().join("k8s");
    let program = folder.join("kube-apiserver");
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("setup: kube-apiserver is built from Debian's source package, once; that takes some ten minutes");
    apt::install(&PACKAGES)?;
    download(&folder)?;
    let tree = unpack(&folder)?;
    build(&folder, &tree)?;
    let built = tree.join("_output/local/bin/linux/amd64/kube-apiserver");
    // Whole or not at all: the next run takes what is there.
    let new = folder.join("kube-apiserver.new");
    fs::copy(&built, &new).with_context(|| format!("the build left no {}", built.display()))?;
    fs::rename(&new, &program)?;
    fs::remove_dir_all(folder.join("gopath")).context("failed to remove what the build left")?;
    Ok(program)
}

/// Fetches the source package by lists of our own: the system's need not name sources.
fn download(folder: &Path) -> Result<()> {
    let lists = Lists::fetch(folder, |text| Some(of_sources(text)))?;
    run(&mut lists.apt_get(&["source", "--download-only", "kubernetes"])).context("Debian's source package kubernetes could not be had")
}

/// The same archives, for source packages.
fn of_sources(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("deb ") {
        Some(rest) => format!("deb-src {rest}\n"),
        None if line.starts_with("Types:") => "Types: deb-src\n".to_owned(),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Unpacks what was downloaded, with Debian's patches; the tree of the sources.
fn unpack(folder: &Path) -> Result<PathBuf> {
    let (tree, debian) = (folder.join("gopath/src/k8s.io/kubernetes"), folder.join("debian"));
    for dir in [&tree, &debian] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
    }
    run(Command::new("tar").arg("-xf").arg(file(folder, ".orig.tar.")?).arg("--strip-components=1").arg("-C").arg(&tree))?;
    run(Command::new("tar").arg("-xf").arg(file(folder, ".debian.tar.")?).arg("--strip-components=1").arg("-C").arg(&debian))?;
    let series = fs::read_to_string(debian.join("patches/series")).context("the package has no list of patches")?;
    for patch in series.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        run(Command::new("patch").current_dir(&tree).args(["--strip=1", "--input"]).arg(debian.join("patches").join(patch)))?;
    }
    let vendored = tree.join("vendor/github.com/modern-go/reflect2");
    fs::remove_dir_all(&vendored).with_context(|| format!("there is no {}", vendored.display()))?;
    run(Command::new("cp").args(["--recursive", REFLECT]).arg(&vendored))?;
    Ok(tree)
}

fn build(folder: &Path, tree: &Path) -> Result<()> {
    let version = version(&file(folder, ".orig.tar.")?)?;
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let stamp = folder.join("version");
    let text = format!(
        "KUBE_GIT_COMMIT='debian'\nKUBE_GIT_TREE_STATE='archive'\nKUBE_GIT_VERSION='v{version}'\nKUBE_GIT_MAJOR='{major}'\nKUBE_GIT_MINOR='{minor}'\n"
    );
    fs::write(&stamp, text)?;
    let mut make = Command::new("make");
    make.current_dir(tree).args(["WHAT=cmd/kube-apiserver", "GOLDFLAGS=-s -w"]).stdout(std::io::stderr());
    make.env_remove("GOFLAGS").env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("KUBE_GIT_VERSION_FILE", &stamp);
    make.env("HOME", folder).env("GOPATH", folder.join("gopath"));
    run(&mut make).context("kube-apiserver could not be built")
}

/// `kubernetes_1.20.5+really1.20.2.orig.tar.gz` is 1.20.2.
fn version(file: &Path) -> Result<String> {
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let all = name.strip_prefix("kubernetes_").and_then(|n| n.split_once(".orig.")).map(|(version, _)| version);
    let all = all.with_context(|| format!("{name} tells no version"))?;
    Ok(all.rsplit_once("really").map_or(all, |(_, really)| really).to_owned())
}

fn file(folder: &Path, part: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.flatten().map(|e| e.path());
    let found = files.find(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("kubernetes_") && n.contains(part)));
    found.with_context(|| format!("no kubernetes_*{part}* was downloaded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_sources() {
        assert_eq!(of_sources("deb http://a b c\n# x\n"), "deb-src http://a b c\n# x\n");
        assert_eq!(of_sources("Types: deb\nURIs: http://a\n"), "Types: deb-src\nURIs: http://a\n");
    }

    #[test]
    fn versions_are_in_the_name() {
        let of = |name: &str| version(Path::new(name)).ok();
        assert_eq!(of("a/kubernetes_1.20.5+really1.20.2.orig.tar.gz").as_deref(), Some("1.20.2"));
        assert_eq!(of("kubernetes_1.33.4.orig.tar.xz").as_deref(), Some("1.33.4"));
        assert_eq!(of("kubernetes.tar"), None);
    }
}
