//! What is told of other nodes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    events::millis,
    health::Peer,
    peers::ledger::{Counts, Standing, View},
};

/// Other nodes whose votes count.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeersView {
    /// So many nodes have to be against a backend.
    pub quorum: u32,
    pub nodes: Vec<PeerView>,
    /// Datagrams with a wrong authentication, and others that were not taken.
    pub forged: u64,
    pub refused: u64,
    /// Version of what this node says of its slots.
    #[serde(default)]
    pub epoch: u64,
    /// It does not know yet what the others know.
    #[serde(default)]
    pub joining: bool,
    /// How often there was no room for an entry of another node; it is told again until there is.
    #[serde(default)]
    pub no_room: u64,
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
    #[serde(default)]
    pub flows: FlowsView,
}

/// How a node takes part in changes of slots whose flows nobody translates.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlowsView {
    pub state: FlowsState,
    /// Version of what it says of its slots, and how many of our versions it has not taken in yet.
    pub epoch: u64,
    pub behind: u64,
    /// Services it has slots on their way of.
    pub moving: u32,
    /// Entries that it acknowledged, those that are on their way to it, and those that were taken in from it.
    pub sent: u64,
    pub waiting: u64,
    pub received: u64,
    /// Messages that were sent once more, and messages of it that were not understood.
    pub again: u64,
    pub garbled: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowsState {
    /// Changes wait for it.
    Here,
    /// It was not heard yet, and is waited for.
    Awaited,
    /// It is being told what others know, and is waited for.
    Joining,
    /// Nobody waits for it.
    #[default]
    Lost,
    /// It has another `hash_key`.
    Stranger,
}

impl FlowsState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Awaited => "awaited",
            Self::Joining => "joining",
            Self::Lost => "lost",
            Self::Stranger => "stranger",
        }
    }
}

impl FlowsView {
    /// `epoch`: version of what this node says.
    pub fn of(view: &View, epoch: u64) -> Self {
        let state = match view.standing {
            Standing::Here => FlowsState::Here,
            Standing::Awaited => FlowsState::Awaited,
            Standing::Joining => FlowsState::Joining,
            Standing::Lost => FlowsState::Lost,
            Standing::Stranger => FlowsState::Stranger,
        };
        let Counts { sent, received, again, garbled, given_up: _ } = view.counts;
        let moving = view.report.values().filter(|words| words.slots.values().any(|said| !said.rest)).count() as u32;
        Self {
            state,
            epoch: view.version,
            behind: epoch.saturating_sub(view.heard),
            moving,
            sent,
            waiting: view.waiting,
            received,
            again,
            garbled,
        }
    }
}

impl From<Peer> for PeerView {
    fn from(Peer { address, age, fresh, doubts }: Peer) -> Self {
        Self { address, age_ms: age.map(millis), fresh, doubts, flows: FlowsView::default() }
    }
}
