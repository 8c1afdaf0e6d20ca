use std::{fmt, io, path::Path};

use super::Target;
use crate::{api::ClientError, control::ControlError};

/// What went wrong, what to do about it, and the exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    /// Empty where the message says it already.
    pub remedy: String,
}

impl Failure {
    pub const ERROR: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_FOUND: u8 = 3;
    pub const CONFLICT: u8 = 4;
    pub const UNREACHABLE: u8 = 5;
    pub const FORBIDDEN: u8 = 6;

    pub(super) fn usage(message: String) -> Self {
        Self { code: Self::USAGE, message, remedy: String::new() }
    }

    pub(super) fn of(error: ClientError, target: &Target) -> Self {
        let (code, remedy) = match &error {
            ClientError::Unreachable { socket, source } => (Self::UNREACHABLE, unreachable(socket, source, target)),
            ClientError::Silent { .. } => (Self::UNREACHABLE, "it may still be starting, or hang: look at its log".to_owned()),
            ClientError::Forbidden { .. } => (
                Self::FORBIDDEN,
                "run this as root, or set `api.group` in the daemon's configuration and become a member of that group".to_owned(),
            ),
            ClientError::Refused(ControlError::NotFound(_)) => (Self::NOT_FOUND, String::new()),
            ClientError::Refused(ControlError::Conflict(_) | ControlError::Invalid(_)) => (Self::CONFLICT, String::new()),
            ClientError::Refused(_) => (Self::ERROR, String::new()),
            ClientError::Garbled { .. } => {
                (Self::ERROR, "look at the daemon's log; `mesh --version` and `mesh status` should agree".into())
            }
        };
        Self { code, message: error.to_string(), remedy }
    }
}

fn unreachable(socket: &Path, source: &io::Error, target: &Target) -> String {
    let start = "start one with `mesh run --config FILE`";
    if source.kind() != io::ErrorKind::NotFound {
        return format!("it has stopped: {start}");
    }
    let others = sockets_beside(socket);
    if others.is_empty() {
        return format!("{start}, or name its socket with --socket");
    }
    let option = if target.socket.is_some() { "--socket" } else { "--instance" };
    format!("{start}, or name another with {option}; there are {}", others.join(", "))
}

/// Other daemons' sockets in the same directory.
fn sockets_beside(socket: &Path) -> Vec<String> {
    let Some(entries) = socket.parent().and_then(|d| d.read_dir().ok()) else { return Vec::new() };
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    let mut found: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "sock")).map(|p| p.display().to_string()).collect();
    found.sort();
    found
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self { code: Self::ERROR, message: format!("can't print: {e}"), remedy: String::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n{}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
