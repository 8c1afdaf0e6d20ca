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

/// Version of this contract. Pins live under `mesh/<instance>/v<VERSION>/`, so that two versions never share a map.
pub const VERSION: u32 = 11;

/// Names of the maps in the object and of their pins.
pub mod map {
    /// One [`super::Config`]; mmapped.
    pub const CONFIG: &str = "CONFIG";
    /// [`super::Vip`] by perfect-hash position, two halves; mmapped.
    pub const VIPS: &str = "VIPS";
    /// [`super::ServiceInfo`] by service id; mmapped.
    pub const SERVICES: &str = "SERVICES";
    /// [`super::SlotWord`] by arena index; mmapped.
    pub const SLOTS: &str = "SLOTS";
    /// [`super::SlotsSeen`] by arena index / 2; mmapped.
    pub const SLOTS_SEEN: &str = "SLOTS_SEEN";
    /// [`super::SlotsRefused`] by arena index / 4; mmapped.
    pub const SLOTS_REFUSED: &str = "SLOTS_REFUSED";
    /// [`super::LedgerTags`] by bucket; mmapped.
    pub const LEDGER_TAGS: &str = "LEDGER_TAGS";
    /// One [`super::LedgerCrowd`]; mmapped.
    pub const LEDGER_CROWD: &str = "LEDGER_CROWD";
    /// [`super::LedgerBucket`] by flow hash; mmapped.
    pub const LEDGER: &str = "LEDGER";
    /// [`super::LedgerStats`], one element, per CPU.
    pub const LEDGER_STATS: &str = "LEDGER_STATS";
    /// [`super::Backend`] by `Vip::backend_base` + service-local index; mmapped.
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::NatBucket`] by flow hash: the way from a client's packet to its flow; mmapped.
    pub const NAT_INDEX: &str = "NAT_INDEX";
    /// [`super::NatFlow`] by reverse hash: the flows themselves; mmapped.
    pub const NAT_FLOWS: &str = "NAT_FLOWS";
    /// One [`super::NatGauges`]; mmapped.
    pub const NAT_GAUGES: &str = "NAT_GAUGES";
    /// [`super::BackendStats`] by `Backend::stats`, per CPU.
    pub const BACKEND_STATS: &str = "BACKEND_STATS";
    /// [`super::BackendSignals`] by `Backend::stats`; mmapped.
    pub const BACKEND_SIGNALS: &str = "BACKEND_SIGNALS";
    /// [`super::FRAGMENTED`] entries of [`super::Fragmented`] by a hash of what the fragments of a packet share; mmapped by tests.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// One of [`crate::guard::PACERS`] words; mmapped by tests.
    pub const PACERS: &str = "PACERS";
    /// Verdict by list and address (a trie of [`super::SourcePrefix`]).
    pub const SOURCES: &str = "SOURCES";
    /// Service-local index of a backend by [`super::quic_key`] (a hash).
    pub const QUIC_IDS: &str = "QUIC_IDS";
    /// [`super::Schedule`] by service id; mmapped.
    pub const SCHEDULES: &str = "SCHEDULES";
    /// [`super::BackendLoad`] by `Backend::stats`; mmapped.
    pub const BACKEND_LOADS: &str = "BACKEND_LOADS";
    /// [`super::FlowBucket`] by a hash of the flow, or of the source: who has which backend; mmapped.
    pub const FLOWS: &str = "FLOWS";
    /// [`super::ScheduleStats`], one element, per CPU.
    pub const SCHEDULE_STATS: &str = "SCHEDULE_STATS";
    /// [`super::ReasonStats`] by service id x [`super::REASONS`] + reason, per CPU.
    pub const REASON_STATS: &str = "REASON_STATS";
    /// Ring of [`super::FlowRecord`]; not pinned, as the following one: they belong to one daemon.
    pub const FLOW_RECORDS: &str = "FLOW_RECORDS";
    /// [`super::FlowLogStats`], one element, per CPU.
    pub const FLOW_LOG_STATS: &str = "FLOW_LOG_STATS";
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
    /// The balancer as a TC ingress classifier.
    pub const TC: &str = "mesh_tc";
    /// Tells what the balancer would make of a packet, and leaves no trace: an XDP program that is attached nowhere.
    pub const EXPLAIN: &str = "mesh_explain";
}
