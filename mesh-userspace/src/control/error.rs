use serde::{Deserialize, Serialize};

/// Why a request was not done. Each kind has its HTTP status and its exit code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "error", content = "message")]
pub enum ControlError {
    /// It names something that isn't there.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// It can't be right, whatever is there.
    #[error("{0}")]
    Invalid(String),
    /// It is right, but there is no room for it, or the daemon is stopping.
    #[error("{0}")]
    Unavailable(String),
    /// The daemon failed: the kernel or the disk refused.
    #[error("{0}")]
    Internal(String),
}
