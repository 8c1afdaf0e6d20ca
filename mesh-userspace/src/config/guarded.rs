//! As written: backends, and what keeps them from more than they can take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, words::Span};

/// One instance behind a VIP; also the body of the API's request to add one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Address, with or without the port.
    pub address: Placed<String>,
    /// Port, where `address` has none. Default: the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Placed<u16>>,
    /// Share of new flows relative to the other backends, 0 to 65535. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Placed<i64>>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it stands, such as `eu-1a`; see the service's `locality`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Flows at once that it can carry: `mesh plan` tells which change would push it beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Placed<u32>>,
    /// 1 to 255: it is a backup, which gets nothing while enough of the others can be used; those of the lowest number stand in first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Placed<u32>>,
    /// Its server id, in services with `quic`: a number, of which the last `server_id_length` bytes count and others have to be 0. Default: the last bytes of
    /// its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id: Option<Placed<u32>>,
    /// Flows that it may have at once (`nat`). Default: as its service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<Placed<u32>>,
    /// New flows that it may be given within a second. Default: as its service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_rate: Option<Placed<u32>>,
}

/// The circuit breaker of each backend. Open it lets no new flows through, half-open a share of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Opens when this percent of a backend's flows fail: handshakes that don't end well (one of 16 is looked at), and RSTs. What all backends have alike
    /// counts only where answers come by (`nat`). Default 50; 0 = it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Placed<u32>>,
    /// Flows within the window before their share counts. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Placed<u32>>,
    /// Opens when so many flows fail in a row: refused (`nat`), or of the handshakes that are looked at, not ended well within a second. Default 5;
    /// 0 = they do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive: Option<Placed<u32>>,
    /// Opens when the heartbeat takes so many times what it takes without load, and others' does not. Default: it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Placed<u32>>,
    /// What is older does not count. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Placed<Span>>,
    /// How long it is open the first time; twice as long after each trial that fails. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Placed<Span>>,
    /// How long it is open at most. Default 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open: Option<Placed<Span>>,
    /// Percent of its weight that a backend has while it is half-open. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_share: Option<Placed<u32>>,
    /// How long it is half-open, if nothing goes wrong. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Placed<Span>>,
    /// Percent of the service's weight that breakers take out at most. Default 100: then backups stand in, and then `when_empty` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_share: Option<Placed<u32>>,
}
