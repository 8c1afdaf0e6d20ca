//! buildah and podman without a daemon, in a mount namespace of their own: the BPF file system, and with it all that a pod pins, ends with it.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{deploy, netns::Namespace, peer};
use tempfile::TempDir;

const TAG: &str = "localhost/mesh:test";
const LIMIT: Duration = Duration::from_secs(60);

/// Mounts the BPF file system at $1 and leaves the hybrid cgroup mount, which crun takes for a whole cgroup 2.
const PREPARE: &str =
    "umount -l /sys/fs/cgroup/unified 2>/dev/null; mount -t bpf bpf \"$1/bpf\" && touch \"$1/ready\" && exec sleep infinity";

/// Soft limits that a caller without CAP_SYS_RESOURCE can keep.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";

pub struct Engine {
    directory: TempDir,
    holder: Child,
}

impl Engine {
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("mesh-image-").tempdir()?;
        for name in ["bpf", "xdg", "context", "state", "run", "etc"] {
            fs::create_dir(directory.path().join(name))?;
        }
        fs::write(directory.path().join("containers.conf"), CONTAINERS_CONF)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", PREPARE, "sh"]).arg(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: between fork and exec the closure only calls prctl(2), which is async-signal-safe.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into));
        }
        let holder = command.spawn().context("failed to start unshare")?;
        let mut engine = Self { directory, holder };
        engine.wait_until("a mount namespace with a BPF file system", |e| Ok(e.path("ready").exists()))?;
        Ok(engine)
    }

    /// Packs the binary by the last stages of deploy/Dockerfile.
    pub fn pack(&self, binary: &Path) -> Result<()> {
        fs::copy(binary, self.path("context/mesh")).with_context(|| format!("failed to copy {}", binary.display()))?;
        let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/Dockerfile");
        let mut command = self.tool(self.inside("buildah"));
        command.args(["bud", "--isolation", "chroot", "--build-arg", "BINARY=prebuilt", "--tag", TAG, "--file"]).arg(dockerfile);
        said(command.arg(self.path("context")))?;
        Ok(())
    }

    /// Every file of the image.
    pub fn files(&self) -> Result<Vec<String>> {
        let id = said(self.podman().args(["create", "--pull=never", TAG]))?;
        let archive = self.path("image.tar");
        said(self.podman().args(["export", "--output"]).arg(&archive).arg(id.trim()))?;
        let list = said(Command::new("tar").arg("tf").arg(&archive))?;
        // Places that the engine itself mounts.
        let mounted = |name: &&str| !["dev/", "etc/", "proc/", "run/", "sys/"].iter().any(|dir| name.starts_with(dir));
        Ok(list.lines().filter(mounted).map(str::to_owned).collect())
    }

    /// Runs the image's binary once, without any capability.
    pub fn once(&self, args: &[&str]) -> Result<String> {
        said(self.podman().args(["run", "--rm", "--pull=never", "--cgroups=disabled", "--network=none", "--cap-drop=all", TAG]).args(args))
    }

    /// Starts the pod's container in `ns` as deploy/daemonset.yaml says, but with these capabilities.
    pub fn start<'a>(&'a self, ns: &'a Namespace, config: &str, capabilities: &[String]) -> Result<Pod<'a>> {
        fs::write(self.path("etc/mesh.yaml"), config)?;
        let container = deploy::container()?;
        let security = &container.security_context;
        let name = ns.name().to_owned();
        let log = self.path(&format!("{name}.log"));
        let mut command = self.podman_of(ns.command("nsenter"));
        command.args(["run", "--rm", "--pull=never", "--cgroups=disabled", "--network=host", "--name", &name]);
        command.arg(format!("--user={}:{}", security.run_as_user, security.run_as_group));
        command.args(security.capabilities.drop.iter().map(|c| format!("--cap-drop={}", c.to_lowercase())));
        command.args(capabilities.iter().map(|c| format!("--cap-add={c}")));
        command.args(["--security-opt=seccomp=unconfined", "--read-only", "--read-only-tmpfs=false"]);
        if !security.allow_privilege_escalation {
            command.arg("--security-opt=no-new-privileges");
        }
        for mount in &container.volume_mounts {
            let source = match mount.name.as_str() {
                "config" => "etc",
                "bpffs" => "bpf",
                "state" => "state",
                "run" => "run",
                other => bail!("nothing is known of volume {other}"),
            };
            let mode = if mount.read_only { ":ro" } else { "" };
            command.arg(format!("--volume={}:{}{mode}", self.path(source).display(), mount.mount_path));
        }
        command
            .arg(TAG)
            .args(&container.args)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let child = command.spawn().context("failed to start podman")?;
        Ok(Pod { engine: self, ns, name, log, child })
    }

    /// Removes what pods have left on the node: pins and state.
    pub fn forget(&self) -> Result<()> {
        said(self.inside("sh").args(["-c", "rm -rf \"$1/bpf/mesh\" \"$1/state\"/* \"$1/run\"/*", "sh"]).arg(self.directory.path()))?;
        Ok(())
    }

    fn podman(&self) -> Command {
        self.podman_of(Command::new("nsenter"))
    }

    fn podman_of(&self, nsenter: Command) -> Command {
        let mut podman = self.tool(self.enter(nsenter, "podman"));
        podman.args(["--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime=crun", "--tmpdir"]).arg(self.path("tmp"));
        podman
    }

    /// A program in the engine's mount namespace.
    fn inside(&self, program: &str) -> Command {
        self.enter(Command::new("nsenter"), program)
    }

    fn enter(&self, mut nsenter: Command, program: &str) -> Command {
        nsenter.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).args(["--", program]);
        nsenter
    }

    /// What buildah and podman both are told: nothing of theirs is outside the directory.
    fn tool(&self, mut command: Command) -> Command {
        command.arg("--storage-driver=vfs").arg("--root").arg(self.path("store")).arg("--runroot").arg(self.path("runroot"));
        command.env("XDG_RUNTIME_DIR", self.path("xdg")).env("CONTAINERS_CONF", self.path("containers.conf"));
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn wait_until(&mut self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !holds(self)? {
            if let Some(status) = self.holder.try_wait()? {
                bail!("no {what}: unshare ended with {status}; it needs CAP_SYS_ADMIN");
            }
            ensure!(Instant::now() < end, "no {what} within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = said(self.podman().args(["rm", "--all", "--force", "--time=0"]));
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running container; ends with this value.
pub struct Pod<'a> {
    engine: &'a Engine,
    ns: &'a Namespace,
    name: String,
    log: PathBuf,
    child: Child,
}

impl Pod<'_> {
    /// Waits until `/readyz` says yes. An error has the daemon's log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.http("/readyz") {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > end => bail!("not ready within {LIMIT:?} ({e:#}); its log:\n{}", self.log()),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `GET path` at the port of metrics and probes; an error unless the answer is 200.
    pub fn http(&self, path: &str) -> Result<String> {
        let at = SocketAddr::from(([127, 0, 0, 1], 9108));
        Ok(self.ns.enter(|| peer::get(at, path, Duration::from_secs(5)))??)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `mesh <args>` inside.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        said(self.engine.podman().args(["exec", &self.name, "/mesh"]).args(args))
    }

    /// A field of /proc/PID/status.
    pub fn proc_status(&self, field: &str) -> Result<String> {
        let pid = said(self.engine.podman().args(["inspect", "--format={{.State.Pid}}", &self.name]))?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("no {field} in:\n{status}"))?.trim().to_owned())
    }

    /// Ends the container at once (SIGKILL), as the kernel does when memory is short.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    /// Ends it as the kubelet does in a rolling update: SIGTERM, and time to leave; it must not need all of that.
    pub fn terminate(mut self) -> Result<()> {
        said(self.engine.podman().args(["kill", "--signal=TERM", &self.name]))?;
        let end = Instant::now() + LIMIT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "still there {LIMIT:?} after SIGTERM; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(self.log().contains("stopped: "), "it did not stop by itself:\n{}", self.log());
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        said(self.engine.podman().args(["rm", "--force", "--ignore", "--time=0", &self.name]))?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if self.end().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end; what it printed.
fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("failed to start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
