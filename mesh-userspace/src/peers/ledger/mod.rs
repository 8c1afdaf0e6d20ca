//! How balancers keep each other's flows: what slots on their way and their flows are, told to all peers.
//!
//! [`Machine`] is pure: messages and the time in, messages out. It brings two things to each peer: this node's *report* of its slots, whole and in its
//! newest version, until it is acknowledged; and *entries* of the ledger, each once, in numbered messages that are sent again until they were taken in. A
//! report counts for the other side only with the entries that were made before it. What follows from reports is for
//! [`mesh_common::ledger::among`] to say. [`wire`] is how it looks in datagrams.

mod awaited;
pub mod link;
mod machine;
mod peer;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::{BTreeMap, HashMap};

use mesh_common::ledger::among::Progress;

use crate::model::{BackendId, VipAddr};

pub use machine::{Machine, Options, Standing, View};
pub use peer::Counts;

/// What a node says of the slots of its services, by VIP.
pub type Report = HashMap<VipAddr, Words>;

/// What it says of one service's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Words {
    pub log2_slots: u8,
    /// The node has no such service whose flows nobody translates: it has no say in it.
    pub foreign: bool,
    /// Slots that are not at rest; where the report is full, all.
    pub slots: BTreeMap<u32, Said>,
}

/// What it says of one slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Said {
    pub target: Option<BackendId>,
    pub default: Option<BackendId>,
    /// The target that it prepares to change to.
    pub asks: Option<BackendId>,
    pub progress: Progress,
    /// The slot is at rest: nothing is wanted of others.
    pub rest: bool,
}

/// A flow that is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub vip: VipAddr,
    /// The lower 48 bits of the flow's hash.
    pub hash: u64,
    pub backend: BackendId,
    pub kind: Kind,
    /// Ticks since it was used, up to 0x7fff.
    pub age: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Pending { isn: u32 },
    Flow,
}
