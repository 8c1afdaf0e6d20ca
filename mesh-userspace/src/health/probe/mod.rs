//! Asking one target once. A probe never fails to answer: whatever happens is an [`Outcome`].

mod http;
mod tcp;

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Check, CheckKind};

/// What one check brought.
#[derive(Debug)]
pub struct Outcome {
    /// From the start to the end of the answer, or to the error.
    pub elapsed: Duration,
    pub result: Result<(), ProbeError>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("connecting failed: {0}")]
    Connect(#[source] io::Error),
    /// Nothing was asked, because this host could not: no file descriptor, no local port, no such source address.
    #[error("this host can't ask: {0}; look at its open files limit, local ports and the check's source address")]
    Local(#[source] io::Error),
    #[error("status {got}, expected {expected}")]
    Status { got: u16, expected: String },
    #[error("no HTTP answer: {0}")]
    Http(String),
}

/// Whom a failed check tells something about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The target answered wrongly or refused: certain, however late we were.
    Target,
    /// Silence: the target's, or our own if we were not awake to hear it.
    Silence,
    /// Ours.
    Own,
}

impl ProbeError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Timeout(_) => Fault::Silence,
            Self::Local(_) => Fault::Own,
            Self::Connect(_) | Self::Status { .. } | Self::Http(_) => Fault::Target,
        }
    }
}

/// Runs `check` once, within its timeout. Cancel safe: dropping it closes the connection.
pub async fn probe(check: &Check) -> Outcome {
    let start = Instant::now();
    let ask = async {
        let stream = tcp::connect(check).await?;
        match &check.kind {
            CheckKind::Tcp => Ok(()),
            CheckKind::Http(http) => http::get(stream, check.address, http).await,
        }
    };
    let result = tokio::time::timeout(check.timeout, ask).await.unwrap_or(Err(ProbeError::Timeout(check.timeout)));
    Outcome { elapsed: start.elapsed(), result }
}

#[cfg(test)]
mod tests;
