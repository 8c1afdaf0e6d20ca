//! Lookups: what the engine may ask of the maps. Every answer is a place in shared memory, or `None` where the index is beyond the map.

use crate::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, FlowBucket, FlowLogStats, FlowRecord, Fragmented, LedgerBucket,
        LedgerCrowd, LedgerStats, LedgerTags, NatBucket, NatFlow, NatGauges, ReasonStats, Schedule, ScheduleStats, ServiceInfo, SlotWord,
        SlotsRefused, SlotsSeen, Vip,
    },
    answer::Said,
    flow_log::Beginning,
    fragment::Course,
    icmp::Relayed,
    nat::Opening,
    patch::Quote,
    shared::Shared,
};

/// The published tables, and the counters.
pub trait Tables {
    fn config(&self) -> Option<Shared<'_, Config>>;
    /// Entry `position` of the VIP table.
    fn vip(&self, position: u32) -> Option<Shared<'_, Vip>>;
    /// A service by its id.
    fn service(&self, id: u32) -> Option<Shared<'_, ServiceInfo>>;
    /// Word `index` of the arena.
    fn slot(&self, index: u32) -> Option<SlotWord>;
    fn backend(&self, index: u32) -> Option<Shared<'_, Backend>>;
    /// What packets of slot `index` of the arena have to tell.
    fn slots_seen(&self, index: u32) -> Option<Shared<'_, SlotsSeen>>;
    fn slots_refused(&self, index: u32) -> Option<Shared<'_, SlotsRefused>>;
    fn ledger_tags(&self, index: u32) -> Option<Shared<'_, LedgerTags>>;
    fn ledger_crowd(&self) -> Option<Shared<'_, LedgerCrowd>>;
    fn ledger_bucket(&self, index: u32) -> Option<Shared<'_, LedgerBucket>>;
    /// This CPU's counters of the ledger.
    fn ledger_stats(&self) -> Option<Shared<'_, LedgerStats>>;
    /// Follows a slot that is not at rest, by [`crate::ledger::places::follow`], whose word is passed on; where that runs is for the owner of the
    /// tables to say.
    fn follow(&self, slot: u32, base: u32, hash: u64, sent: u64) -> u64;
    /// The same where a scheduler may have been asked, by [`crate::schedule::owner`].
    fn owner(&self, slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64;
    fn nat_bucket(&self, index: u32) -> Option<Shared<'_, NatBucket>>;
    fn nat_flow(&self, index: u32) -> Option<Shared<'_, NatFlow>>;
    fn nat_gauges(&self) -> Option<Shared<'_, NatGauges>>;
    /// Room for what [`Tables::open_flow`] is to open.
    fn opening(&self) -> Option<Shared<'_, Opening>>;
    /// Opens a flow, by [`crate::nat::open_flow`], whose word is passed on; where that runs is for the owner of the tables to say.
    fn open_flow(&self) -> u64;
    /// Room for what an answer quotes.
    fn quote(&self) -> Option<Shared<'_, Quote>>;
    /// Room for what becomes of an ICMP error.
    fn relayed(&self) -> Option<Shared<'_, Relayed>>;
    /// Room for what becomes of a fragment.
    fn course(&self) -> Option<Shared<'_, Course>>;
    /// A packet whose fragments are followed: one of [`crate::abi::FRAGMENTED`] entries.
    fn fragmented(&self, index: u32) -> Option<Shared<'_, Fragmented>>;
    /// Why a packet ends that this CPU leaves to another program, as [`crate::account::process_left`] takes it.
    fn left(&self) -> Option<Shared<'_, u64>>;
    /// How many errors this CPU has said lately.
    fn said(&self) -> Option<Shared<'_, Said>>;
    /// Whether a packet is kept out, by [`crate::guard::guard`]; where that runs is for the owner of the tables to say.
    fn guard(&self, source: [u64; 2], limits: u64, question: u64, list: u32) -> u32;
    /// What list `list` says of a source: verdict of its longest prefix, see [`crate::abi::SourcePrefix`]; 0 = it says nothing.
    fn listed(&self, list: u32, source: [u64; 2]) -> u32;
    /// One of [`crate::guard::PACERS`] words.
    fn pacer(&self, index: u32) -> Option<Shared<'_, u64>>;
    /// Service-local index of a backend by [`crate::abi::quic_key`]; [`crate::abi::SlotWord::NONE`] = nobody has that server id.
    fn quic(&self, key: u64) -> u32;
    /// How a service chooses, by its id.
    fn schedule(&self, id: u32) -> Option<Shared<'_, Schedule>>;
    /// What a backend carries, by `Backend::stats`.
    fn backend_load(&self, index: u32) -> Option<Shared<'_, BackendLoad>>;
    /// Remembered flows and sources.
    fn flow_bucket(&self, index: u32) -> Option<Shared<'_, FlowBucket>>;
    /// This CPU's counters of choices.
    fn schedule_stats(&self) -> Option<Shared<'_, ScheduleStats>>;
    /// Chooses a backend for what [`Tables::opening`] describes, by [`crate::schedule::choose`], whose word is passed on; where that runs is for the
    /// owner of the tables to say.
    fn choose(&self, sent: u64) -> u64;
    /// Picks one, by [`crate::schedule::pick`]; likewise.
    fn pick(&self) -> u64;
    /// What a flow would cost a backend, by [`crate::schedule::cost`]; likewise.
    fn cost(&self, base: u32, index: u16, scheduler: u32) -> u64;
    /// Ticks (2^27 ns, see [`crate::abi::NatConfig::TICK_SHIFT`]) of the coarse monotonic clock.
    fn tick(&self) -> u32;
    /// This CPU's counters by service id x [`crate::abi::REASONS`] + reason.
    fn reason_stats(&self, index: u32) -> Option<Shared<'_, ReasonStats>>;
    /// This CPU's counters by `Backend::stats`.
    fn backend_stats(&self, index: u32) -> Option<Shared<'_, BackendStats>>;
    /// Every CPU's, by `Backend::stats`.
    fn backend_signals(&self, index: u32) -> Option<Shared<'_, BackendSignals>>;
    /// A handshake that is being watched: one of [`crate::handshake::WATCHED`] words.
    fn watched(&self, index: u32) -> Option<Shared<'_, u64>>;
    /// Notes a step of a handshake, by [`crate::handshake::note`]; where that runs is for the owner of the tables to say.
    fn note_handshake(&self, hash: u64, stats: u32, step: u32);
    /// Nanoseconds of a clock that never goes back. Asked for steps of handshakes that are watched, and beginnings that are told, only.
    fn nanoseconds(&self) -> u64;
    /// Tells of a flow, by [`crate::flow_log::tell`]; where that runs is for the owner of the tables to say.
    fn tell_flow(&self, beginning: Beginning);
    /// A flow that was told: one of [`crate::flow_log::TOLD`] words.
    fn told(&self, index: u32) -> Option<Shared<'_, u64>>;
    /// Puts a record into the ring; whether there was room.
    fn put_flow_record(&self, record: FlowRecord) -> bool;
    /// This CPU's counters of records.
    fn flow_log_stats(&self) -> Option<Shared<'_, FlowLogStats>>;
}
