use std::{io, net::SocketAddr, os::unix::process::ExitStatusExt, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use super::ProbeError;
use crate::health::ExecCheck;

/// Of what a command complains about, so much is kept.
const COMPLAINT: usize = 200;

/// Runs the command and waits for its end.
pub(super) async fn run(address: SocketAddr, check: &ExecCheck) -> Result<(), ProbeError> {
    let mut child = command(address, check).spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ProbeError::Exec(format!("can't be started: {e}")),
        _ => ProbeError::Local(e),
    })?;
    let _family = child.id().and_then(|id| i32::try_from(id).ok()).map(Family);
    let stderr = child.stderr.take();
    let complaint = async {
        match stderr {
            Some(stderr) => first_line(stderr).await,
            None => String::new(),
        }
    };
    tokio::pin!(complaint);
    // A grandchild may hold the pipe open after the command has ended: then its complaint is not waited for.
    let status = tokio::select! {
        biased;
        said = &mut complaint => (child.wait().await, said),
        status = child.wait() => (status, String::new()),
    };
    let (status, said) = status;
    let status = status.map_err(ProbeError::Local)?;
    if status.success() {
        return Ok(());
    }
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    };
    Err(ProbeError::Exec(if said.is_empty() { end } else { format!("{end}: {said}") }))
}

fn command(address: SocketAddr, check: &ExecCheck) -> Command {
    let mut command = Command::new(&check.program);
    command
        .args(&check.args)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("MESH_ADDRESS", address.ip().to_string())
        .env("MESH_PORT", address.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// The command with all that it started. However the check ends, nothing of them is left.
struct Family(i32);

impl Drop for Family {
    fn drop(&mut self) {
        // That nobody is left is no error. Nor is the number another group's by now: numbers come round only after all others.
        let _ = killpg(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

/// Reads to the end, so that the command never waits for a reader, and keeps the beginning.
async fn first_line(mut stderr: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut buf) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = stderr.read(&mut buf).await {
        let room = COMPLAINT - kept.len();
        kept.extend_from_slice(&buf[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).lines().next().unwrap_or_default().trim().to_owned()
}
