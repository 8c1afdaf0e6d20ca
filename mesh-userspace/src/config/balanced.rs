//! How a service shares out its flows, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, words::Span};

/// What backends get beyond their configured weight.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// `static` (default); `latency`: who answers its heartbeat more slowly than it could, compared with the others, gets less
    /// (best with a check that takes always the same by itself, and waits where requests wait); `load`: who says in a header
    /// of its answers (`health`: `load_header`) or in its own heartbeats (`heartbeat`) that it is more loaded than the others gets less.
    #[serde(default)]
    pub by: Placed<SignalWord>,
    /// Port of an agent on each backend that says in a line of text what share of its weight it can take (HAProxy's agent-check).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Placed<u16>>,
    /// From one question to the agent to the next. Default 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_interval: Option<Placed<Span>>,
}

/// What a backend's weight follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignalWord {
    /// Its configuration alone.
    #[default]
    Static,
    /// Its latency over its own latency without load.
    Latency,
    /// The load that it reports, in a header or in its heartbeats.
    Load,
}

/// How far backends are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    /// Distance of each zone, at least 1: `{eu-1a: 1, eu-1b: 2}`. A zone's share is its weight divided by its distance.
    pub distances: BTreeMap<String, Placed<u32>>,
    /// Distance of other zones, and of backends without one. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Placed<u32>>,
}

/// How flows are spread over backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerWord {
    /// Stable matching with exact quotas: the fewest flows move.
    #[default]
    ConsistentHash,
    /// Maglev's table.
    Maglev,
    /// A hash ring with virtual nodes.
    Ring,
    /// Each slot of the table draws its backend by weight.
    Random,
    /// The slots of the table are dealt out in turn.
    RoundRobin,
}
