//! What is told of a weight.

use serde::{Deserialize, Serialize};

/// What a backend's weight is made of, and why.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WeightView {
    /// Factors on the configured weight.
    pub slow_start: f64,
    pub dynamic: f64,
    pub locality: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Latency of the heartbeat, and without load, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unloaded_us: Option<u64>,
    /// For how long connections that were timed stay, and stay without load, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stay_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stay_unloaded_us: Option<u64>,
    /// Latency of both kinds over what it is without load, smoothed; and the mean of all backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inflation: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
    /// Load that it reports, in a header of its answers or in its heartbeats, 0 to 1 of what it can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Factor that its agent asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<f64>,
    /// In words, one thing a line.
    pub why: Vec<String>,
}
