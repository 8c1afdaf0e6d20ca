//! Debian's packages.

use std::{
    fs,
    path::{Path, PathBuf},
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

/// Lists of packages beside the system's, which stays as it is: the same archives, read for something else.
pub struct Lists {
    folder: PathBuf,
}

impl Lists {
    /// Renews the lists below `folder`, of what `change` makes of each of the system's files of archives; `None` leaves one out.
    pub fn fetch(folder: &Path, change: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let sources = folder.join("sources");
        fs::create_dir_all(&sources)?;
        fs::create_dir_all(folder.join("lists/partial"))?;
        let mut found = 0;
        let system = Path::new("/etc/apt/sources.list.d");
        let files = fs::read_dir(system).into_iter().flatten().flatten().map(|e| e.path()).chain([PathBuf::from("/etc/apt/sources.list")]);
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let (name, kind) = (file.file_name().unwrap_or_default(), file.extension().and_then(|e| e.to_str()));
            if !matches!(kind, Some("list" | "sources")) || !text.contains("debian") {
                continue;
            }
            let Some(changed) = change(&text) else { continue };
            fs::write(sources.join(name), changed)?;
            found += 1;
        }
        ensure!(found > 0, "apt knows no archive of Debian: add one to {}", system.display());
        let lists = Self { folder: folder.to_owned() };
        run(&mut lists.apt_get(&["update", "--quiet"])).context("the lists could not be had")?;
        Ok(lists)
    }

    /// A command that runs in the folder and knows these lists only.
    pub fn apt_get(&self, args: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        let folder = self.folder.display();
        for option in [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={folder}/sources"),
            format!("Dir::State::Lists={folder}/lists"),
            // Beside the system's, which has other lists' contents.
            format!("Dir::Cache::pkgcache={folder}/packages"),
            format!("Dir::Cache::srcpkgcache={folder}/source-packages"),
        ] {
            command.args(["--option", &option]);
        }
        command.current_dir(&self.folder).args(args).stdout(std::io::stderr());
        command
    }
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() { Command::new("env") } else { Command::new("sudo") };
    // Through `env` or `sudo`, so that no package asks a question.
    command.arg("DEBIAN_FRONTEND=noninteractive").arg("apt-get").args(args);
    // Standard output belongs to the task that needs the packages.
    command.stdout(std::io::stderr());
    command
}
