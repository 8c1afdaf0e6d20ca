//! What is promised to flows while slots change their owners, as written -> as meant.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{placed::Placed, resolve::Findings, words::Span};

/// What is promised to the flows of services that nothing translates, while slots change their owners.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The longest time from a SYN to the end of its handshake; a planned change begins so much later. Default 3s.
    pub handshake: Option<Placed<Span>>,
    /// The longest silence of a flow after which it still finds its backend. Default 300s.
    pub idle: Option<Placed<Span>>,
    /// So long flows that are left are waited for, before they are remembered one by one. Default 60s.
    pub patience: Option<Placed<Span>>,
}

/// What is promised to the flows of `dsr`, `dnat` and `tunnel` services while slots change their owners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ledger {
    pub handshake: Duration,
    pub idle: Duration,
    pub patience: Duration,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(3), idle: Duration::from_secs(300), patience: Duration::from_secs(60) }
    }
}

pub fn resolve(written: &Written, findings: &mut Findings<'_>) -> Ledger {
    let d = Ledger::default();
    // The kernel half tells ages apart up to an hour.
    let mut one = |span: &Option<Placed<Span>>, default: Duration, most: u64| match span {
        None => default,
        Some(s) if (Duration::from_millis(200)..=Duration::from_secs(most)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), format!("write 200ms to {most}s"));
            default
        }
    };
    Ledger {
        handshake: one(&written.handshake, d.handshake, 60),
        idle: one(&written.idle, d.idle, 1800),
        patience: one(&written.patience, d.patience, 1800),
    }
}
