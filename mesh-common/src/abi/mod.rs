//! The bytes that the two halves meet at: map names, map values, and nothing else.
//!
//! Every multi-byte field that a packet carries is kept as network-order bytes; every number that only mesh uses is native-endian.
//! Types are [`bytemuck::Pod`]; their size and layout are asserted beside them, and any change to one raises [`VERSION`].

mod addr;
pub mod agent;
mod backend;
pub mod clock;
mod config;
mod explained;
mod flow;
mod fragment;
mod ledger;
mod nat;
pub mod probe;
mod quic;
mod reason;
mod schedule;
mod service;
mod slot;
mod sources;
mod stats;
mod table;
#[cfg(feature = "user")]
mod user;

pub use addr::{Addr, Family, Proto};
pub use agent::{AgentLink, AgentStats, AgentVip, agent_v4};
pub use backend::{Backend, BackendState, GUE_PORT};
pub use config::{Config, DISPLACEMENTS, NAT_RANGES, NAT_SOURCES, NatConfig, NatPorts, NatSource, PortGap, VipHalf};
pub use explained::Explained;
pub use flow::{FlowLogStats, FlowRecord};
pub use fragment::{FRAGMENT_WAYS, FRAGMENTED, Fragmented};
pub use ledger::{
    LEDGER_WAYS, LedgerBucket, LedgerConfig, LedgerCrowd, LedgerEntry, LedgerStats, LedgerTags, LedgerWord, SlotsRefused, SlotsSeen,
};
pub use nat::{NAT_WAYS, NatBucket, NatFlow, NatGauges};
pub use quic::{QUIC_ID_MOST, quic_key, quic_length, quic_service};
pub use reason::{Action, REASONS, Reason};
pub use schedule::{BackendLoad, FLOW_WAYS, FlowBucket, FlowEntry, FlowWord, Schedule, ScheduleStats, Scheduler};
pub use service::{Mode, ServiceFlags, ServiceInfo, TableRef, Vip, VipKey, VipKind};
pub use slot::{Slot, SlotFlags, SlotWord};
pub use sources::{SOURCE_PREFIXES, SourcePrefix};
pub use stats::{BackendSignals, BackendStats, ReasonStats, TIME_STEPS};
pub use table::{Fact, Table};

/// Version of this contract. Pins live under `mesh/<instance>/v<VERSION>/`, so that two versions never share a map.
pub const VERSION: u32 = 14;

/// Names of the maps in the object and of their pins; [`Table`] names those that the loader makes.
pub mod map {
    /// [`super::LedgerStats`], one element, per CPU.
    pub const LEDGER_STATS: &str = "LEDGER_STATS";
    /// [`super::BackendStats`] by `Backend::stats`, per CPU.
    pub const BACKEND_STATS: &str = "BACKEND_STATS";
    /// Verdict by list and address (a trie of [`super::SourcePrefix`]).
    pub const SOURCES: &str = "SOURCES";
    /// Service-local index of a backend by [`super::quic_key`] (a hash).
    pub const QUIC_IDS: &str = "QUIC_IDS";
    /// [`super::ScheduleStats`], one element, per CPU.
    pub const SCHEDULE_STATS: &str = "SCHEDULE_STATS";
    /// [`super::ReasonStats`] by service id x [`super::REASONS`] + reason, per CPU.
    pub const REASON_STATS: &str = "REASON_STATS";
    /// Ring of [`super::FlowRecord`]; not pinned, as the following one: they belong to one daemon.
    pub const FLOW_RECORDS: &str = "FLOW_RECORDS";
    /// [`super::FlowLogStats`], one element, per CPU.
    pub const FLOW_LOG_STATS: &str = "FLOW_LOG_STATS";
    /// The one program that [`super::program::XDP`] leaves packets to, [`super::program::XDP_REST`].
    pub const XDP_REST: &str = "XDP_REST";
    /// One [`super::Explained`], the last that [`super::program::EXPLAIN`] told; mmapped.
    pub const EXPLAINED: &str = "EXPLAINED";
}

/// Names of what is set in the object before it is loaded.
pub mod global {
    /// A tick that the clock stands still at, for tests; 0 = it goes.
    pub const STILL: &str = "STILL";
    /// Nanoseconds of a jiffy; 0 = the kernel is asked for the time.
    pub const JIFFY: &str = "JIFFY";
    /// What the coarse monotonic clock said at jiffy 0, in nanoseconds; it wraps around.
    pub const JIFFY_ZERO: &str = "JIFFY_ZERO";
}

/// Names of the programs in the object and of their pins.
pub mod program {
    /// The balancer as an XDP program (`xdp.frags`).
    pub const XDP: &str = "mesh_xdp";
    /// The same for packets that are not as nearly all are; called by the one above, and attached nowhere.
    pub const XDP_REST: &str = "mesh_xdp_rest";
    /// The balancer as a TC ingress classifier.
    pub const TC: &str = "mesh_tc";
    /// Tells what the balancer would make of a packet, and leaves no trace: an XDP program that is attached nowhere.
    pub const EXPLAIN: &str = "mesh_explain";
}
