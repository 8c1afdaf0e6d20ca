//! Where a server and its follower live: a namespace, a directory, a runtime.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};

use tempfile::TempDir;

use crate::{daemon::Process, netns::Namespace};

#[derive(Debug)]
pub struct Ground {
    pub ns: Namespace,
    dir: TempDir,
}

impl Ground {
    pub fn new(label: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mesh-peer-").tempdir().context("failed to make a directory for a server")?;
        Ok(Self { ns: Namespace::new("mesh-peers", label)?, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// In a namespace that others are in as well.
    pub fn within(ns: &Namespace) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mesh-peer-").tempdir().context("failed to make a directory for a server")?;
        Ok(Self { ns: ns.alias()?, dir })
    }

    /// Starts a server inside; what it says goes to the file `<name>.log`.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        Process::spawn(command.stdout(log.try_clone()?).stderr(log))
    }

    /// Runs the story inside, on a runtime whose sockets are inside as well.
    pub fn play(&self, story: impl AsyncFnOnce() -> Result<()> + Send) -> Result<()> {
        let told = self.ns.enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(story())
        })?;
        told.with_context(|| self.logs())
    }

    /// The end of what the servers said.
    fn logs(&self) -> String {
        let mut all = String::new();
        for entry in
            fs::read_dir(self.dir.path()).into_iter().flatten().flatten().filter(|e| e.path().extension().is_some_and(|x| x == "log"))
        {
            let text = fs::read(entry.path()).unwrap_or_default();
            let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(1500)..]).into_owned();
            all.push_str(&format!("{}:\n{tail}\n", entry.path().display()));
        }
        all
    }
}
