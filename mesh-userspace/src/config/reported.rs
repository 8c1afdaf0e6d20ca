//! As written: how heartbeats are judged, and those that backends send themselves.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, words::Span};

/// `vip` or `direct`: what probes ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ThroughWord {
    Vip,
    Direct,
}

/// How what is known of a backend is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DetectorWord {
    /// What several channels say is summed: probes, pulses, traffic, hints of the network.
    Phi,
    /// Only probes count: `rise` and `fall` of them in a row.
    RiseFall,
}

/// What the backend's kernel is asked many times a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PulseWord {
    /// A TCP SYN to the backend's port; no process sees a connection.
    Syn,
    /// An echo request.
    Icmp,
    None,
}

/// What is expected of backends that report themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// How long a beat holds that says nothing else. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Placed<Span>>,
    /// Whether a backend that nobody has named is added by its first beat. Default false.
    #[serde(default)]
    pub register: bool,
    /// After so long without a beat a backend that registered itself is forgotten. Default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget: Option<Placed<Span>>,
}

/// A listener for heartbeats over TCP: `PUT /v1/services/SERVICE/backends/ADDRESS:PORT/heartbeat` with the token.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatListener {
    /// Address and port to listen at.
    pub listen: Placed<String>,
    /// File with the token that requests have to carry (`Authorization: Bearer TOKEN`), 16 characters at least. It is not encrypted on the way.
    pub token_file: Placed<PathBuf>,
}
