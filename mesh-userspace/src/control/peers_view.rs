//! What is told of other nodes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::health::Peer;

/// Other nodes whose votes count.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeersView {
    /// So many nodes have to be against a backend.
    pub quorum: u32,
    pub nodes: Vec<PeerView>,
    /// Datagrams with a wrong authentication, and others that were not taken.
    pub forged: u64,
    pub refused: u64,
}

/// One of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerView {
    pub address: SocketAddr,
    /// Milliseconds since it was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Its votes count.
    pub fresh: bool,
    /// Backends that it doubts.
    pub doubts: u32,
}

impl From<Peer> for PeerView {
    fn from(Peer { address, age, fresh, doubts }: Peer) -> Self {
        Self { address, age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)), fresh, doubts }
    }
}
