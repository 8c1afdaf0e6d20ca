//! What the daemon tells about the health of backends, and what backends tell it.

use serde::{Deserialize, Serialize};

use crate::{
    config::words::Span,
    health::{
        breaker::{Circuit, Reading},
        detector::{Phase, Signals},
    },
};

/// What the heartbeat knows of a backend.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HealthView {
    /// `up`, `down`, `unknown`, or `unchecked` where the service has no heartbeat.
    pub health: String,
    /// The way that probes take, where it is not simply to the backend's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// When that became so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// When the last probe ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_ms: Option<u64>,
    /// Round trip of the last probe that was answered, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// What was wrong with the last probe, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Probes so far, and those that failed.
    pub probes: u64,
    pub failures: u64,
    /// What all channels say together, where they are summed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<SuspicionView>,
    /// Its own heartbeat, where the service expects one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<BeatView>,
}

/// How a backend's circuit breaker stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BreakerView {
    pub state: Circuit,
    /// Until it will be tried again, or trusted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// What was seen of its flows, of late.
    #[serde(flatten)]
    pub reading: Reading,
}

/// How many flows a backend may have, and has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitView {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_rate: Option<u32>,
    /// Flows that it has (`nat`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Which limit is reached, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<String>,
}

/// Body of a heartbeat that a backend sends itself; all of it may be left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// How long it holds. Default: the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// How loaded it is: 1 = it has as much to do as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// It can't serve.
    #[serde(default)]
    pub failing: bool,
    /// For one that registers itself: as of a backend in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What is known of a backend's own heartbeat.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BeatView {
    pub alive: bool,
    pub ttl_ms: u64,
    /// Since the last one; none came since the daemon's start if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
}

/// How strongly a backend is suspected, by channel, as phi: -log10 of the probability that a live backend looks like this.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SuspicionView {
    /// `up`, `soft`, `down` or `recovering`.
    pub phase: Phase,
    /// The sum.
    pub phi: f64,
    #[serde(flatten)]
    pub signals: Signals,
    /// For flaps; doubles the time until it is trusted again with each, and halves in a minute.
    pub penalty: f64,
    /// Pulses without an answer in a row.
    pub unanswered: u32,
    /// Round trip of pulses, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse_rtt_us: Option<u64>,
}

/// RSTs: what clients sent, and what the backend sent where its answers come by. Each goes on from 0 after 2^32 - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResetsView {
    pub client: u32,
    pub backend: u32,
}
