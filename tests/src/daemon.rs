//! The real daemon as a child process, and its CLI.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Namespace;

/// For how long a test waits for what has to come.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A `mesh run` of its own instance, with files of its own. Ends, with all that it loaded, with this value.
#[derive(Debug)]
pub struct Daemon {
    ns: Namespace,
    instance: String,
    directory: TempDir,
    child: Option<Child>,
    keep: bool,
}

impl Daemon {
    /// Starts the daemon in `ns` with this configuration (YAML without `instance`, `state_dir` and `api`, which are added) and waits until it is ready, and new
    /// flows go where they belong: on a busy machine one backend may be found well, and get all slots, before the next.
    pub fn start(ns: &Namespace, config: &str) -> Result<Self> {
        let mut daemon = Self::new(ns, config)?;
        daemon.launch()?;
        daemon.wait_ready(Duration::from_secs(90))?;
        daemon.until("new flows go to the slots' new owners", || {
            let moving = daemon.json(&["ledger", "ls"])?;
            Ok(!moving.as_array().into_iter().flatten().any(|row| row["stage"] == "prepare" || row["stage"] == "learn"))
        })?;
        Ok(daemon)
    }

    /// Writes the files, starts nothing.
    pub fn new(ns: &Namespace, config: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("mesh-").tempdir().context("failed to make a directory for the daemon's files")?;
        let daemon = Self { ns: ns.alias()?, instance: ns.name().to_owned(), directory, child: None, keep: false };
        daemon.write_config(config)?;
        Ok(daemon)
    }

    /// Replaces the configuration file at once, as an editor does.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let (state, socket) = (self.path("state"), self.socket());
        let head = format!("instance: {}\nstate_dir: {}\napi:\n  socket: {}\n", self.instance, state.display(), socket.display());
        let new = self.path("mesh.yaml.new");
        fs::write(&new, head + config)?;
        fs::rename(&new, self.config_path()).context("failed to put the configuration in place")
    }

    pub fn config_path(&self) -> PathBuf {
        self.path("mesh.yaml")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("mesh.sock")
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where programs, maps and links are pinned.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/mesh").join(&self.instance).join(format!("v{}", mesh_common::abi::VERSION))
    }

    /// What the daemon has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts the process; its log is appended.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon runs already");
        let log = fs::File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = self.ns.command(mesh_binary()?);
        command.arg("run").arg("--config").arg(self.config_path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("failed to start mesh")?);
        Ok(())
    }

    /// Waits until tables are published and the first health round is done.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                bail!("mesh ended with {status}; its log:\n{}", self.log());
            }
            if self.json(&["status"]).is_ok_and(|status| status["ready"] == true) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("mesh was not ready within {limit:?}; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `holds` is true, for a minute at most.
    pub fn until(&self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !holds()? {
            if Instant::now() > end {
                let events = self.ok(&["events"]).unwrap_or_default();
                bail!("not within {LIMIT:?}: {what}; events:\n{events}\nlog:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until what sources said is kept for the next start, and has this word in it.
    pub fn wait_written(&self, word: &str) -> Result<()> {
        let file = self.path("state").join(format!("{}.sources.json", self.instance));
        self.until(&format!("`{word}` in {}", file.display()), || Ok(fs::read_to_string(&file).unwrap_or_default().contains(word)))
    }

    /// Runs `mesh --socket ... <args>`.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.ns.command(mesh_binary()?).arg("--socket").arg(self.socket()).args(args).output().context("failed to start mesh")
    }

    /// The same, and it must succeed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        ensure!(output.status.success(), "mesh {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with `-o json`, parsed.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("mesh {args:?} printed no JSON: {text}"))
    }

    /// Sends a signal to the running daemon.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the daemon does not run")?;
        kill(Pid::from_raw(child.id() as i32), signal).context("failed to signal the daemon")
    }

    /// Ends the process with this signal and waits for it. What it loaded stays.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        if let Some(mut child) = self.child.take() {
            wait(&mut child, Duration::from_secs(20))?;
        }
        Ok(())
    }

    /// The same, and what it loaded goes too: the next one finds nothing in the kernel.
    pub fn leave(&mut self, signal: Signal) -> Result<()> {
        self.stop(signal)?;
        let config = self.config_path();
        self.ok(&["detach", "--config", &config.to_string_lossy()])?;
        ensure!(!self.pins().exists(), "{} is still there", self.pins().display());
        Ok(())
    }

    /// Leaves daemon and files behind when this value goes. Returns the directory.
    pub fn keep(&mut self) -> PathBuf {
        self.keep = true;
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// An error that tells what the daemon logged, after its causes: what is cut short is cut at the end.
pub trait Logged {
    fn logged(self, daemon: &Daemon) -> Self;
}

impl<T> Logged for Result<T> {
    fn logged(self, daemon: &Daemon) -> Self {
        self.map_err(|error| anyhow!("{error:#}; log of the daemon:\n{}", daemon.log()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if self.child.is_some() && self.stop(Signal::SIGTERM).is_err() {
            let _ = self.stop(Signal::SIGKILL);
        }
        if let Ok(mesh) = mesh_binary() {
            let _ = self.ns.command(mesh).arg("detach").arg("--config").arg(self.config_path()).output();
        }
    }
}

/// Waits until `holds` is true, for [`LIMIT`] at most.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds()? {
        ensure!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The binary beside this one, or the one that `MESH_BIN` names.
pub fn mesh_binary() -> Result<PathBuf> {
    sibling("MESH_BIN", "mesh")
}

/// The server beside this binary, or the one that `MESH_PEER_BIN` names.
pub fn peer_binary() -> Result<PathBuf> {
    sibling("MESH_PEER_BIN", "mesh-peer")
}

fn sibling(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("failed to find this binary")?;
    // Tests run from target/<profile>/deps, binaries from target/<profile>.
    here.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()).with_context(|| {
        format!("no `{name}` beside {}: build it first (`cargo xtask build`), or say where it is by {variable}", here.display())
    })
}

/// Waits for a child up to `limit`, then kills it.
pub fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("process {} did not end within {limit:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child process that ends with this value.
#[derive(Debug)]
pub struct Process(Option<Child>);

impl Process {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("failed to start {command:?}"))?;
        Ok(Self(Some(child)))
    }

    pub fn id(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Leaves it running when this value goes.
    pub fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
