//! How a service shares out its flows, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, words::Span};
use crate::{
    model::{self, Choosing},
    table::Scheduler,
};

/// What backends get beyond their configured weight.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// `static` (default); `latency`: who takes longer for its heartbeat, or for its connections (up to the first FIN; one of 4 is timed, in every mode; those
    /// of several seconds say nothing), than it would without load, compared with the others, gets less (best with connections of a request each, or
    /// with a check that takes always the same by itself, and waits where requests wait); `load`: who says in a header
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
    /// Each new flow goes to a backend drawn at random, by weight.
    Random,
    /// New flows are given in turn, by weight.
    RoundRobin,
    /// To who has the fewest live flows for its weight.
    LeastConnections,
    /// To who has the lowest product of live flows and time to answer a handshake for its weight.
    LeastResponseTime,
    /// To the one of two drawn at random that has fewer live flows for its weight.
    TwoChoices,
    /// By the hash, unless that backend has half as many flows again as all have on average: then to the second choice of the hash.
    HashUnlessCrowded,
}

impl SchedulerWord {
    /// What a service of this table and this choice was given.
    pub fn of(table: Scheduler, choosing: Choosing) -> Self {
        match (choosing.scheduler, table) {
            (model::Scheduler::Hash, Scheduler::Maglev) => Self::Maglev,
            (model::Scheduler::Hash, Scheduler::Ring) => Self::Ring,
            (model::Scheduler::Hash, _) => Self::ConsistentHash,
            (model::Scheduler::Random, _) => Self::Random,
            (model::Scheduler::RoundRobin, _) => Self::RoundRobin,
            (model::Scheduler::LeastConnections, _) => Self::LeastConnections,
            (model::Scheduler::LeastResponseTime, _) => Self::LeastResponseTime,
            (model::Scheduler::TwoChoices, _) => Self::TwoChoices,
            (model::Scheduler::HashUnlessCrowded, _) => Self::HashUnlessCrowded,
        }
    }

    /// The word itself.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsistentHash => "consistent-hash",
            Self::Maglev => "maglev",
            Self::Ring => "ring",
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::LeastResponseTime => "least-response-time",
            Self::TwoChoices => "two-choices",
            Self::HashUnlessCrowded => "hash-unless-crowded",
        }
    }
}

/// How sources stay with backends.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// For how long after its last new flow. Default 10m, from 1s to 18h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Placed<Span>>,
}
