//! What the engine asks of tables in vectors.

use core::cell::Cell;

use super::HostTables;
use crate::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, FlowBucket, FlowLogStats, FlowRecord, Fragmented, LedgerBucket,
        LedgerCrowd, LedgerStats, LedgerTags, NatBucket, NatFlow, NatGauges, ReasonStats, Schedule, ScheduleStats, ServiceInfo, SlotWord,
        SlotsRefused, SlotsSeen, SourcePrefix, Vip,
    },
    answer::Said,
    flow_log::{self, Beginning},
    fragment::Course,
    guard, handshake,
    icmp::Relayed,
    ledger::places,
    nat::{Opening, open_flow},
    patch::Quote,
    schedule,
    shared::Shared,
    tables::Tables,
};

impl Tables for HostTables {
    fn config(&self) -> Option<Shared<'_, Config>> {
        Some(Shared::of(&self.config))
    }

    fn vip(&self, position: u32) -> Option<Shared<'_, Vip>> {
        self.vips.get(position as usize).map(Shared::of)
    }

    fn service(&self, id: u32) -> Option<Shared<'_, ServiceInfo>> {
        self.services.get(id as usize).map(Shared::of)
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.slots.get(index as usize).map(Cell::get)
    }

    fn backend(&self, index: u32) -> Option<Shared<'_, Backend>> {
        self.backends.get(index as usize).map(Shared::of)
    }

    fn slots_seen(&self, index: u32) -> Option<Shared<'_, SlotsSeen>> {
        self.slots_seen.get(index as usize).map(Shared::of)
    }

    fn slots_refused(&self, index: u32) -> Option<Shared<'_, SlotsRefused>> {
        self.slots_refused.get(index as usize).map(Shared::of)
    }

    fn ledger_tags(&self, index: u32) -> Option<Shared<'_, LedgerTags>> {
        self.ledger_tags.get(index as usize).map(Shared::of)
    }

    fn ledger_crowd(&self) -> Option<Shared<'_, LedgerCrowd>> {
        Some(Shared::of(&self.ledger_crowd))
    }

    fn ledger_bucket(&self, index: u32) -> Option<Shared<'_, LedgerBucket>> {
        self.ledger.get(index as usize).map(Shared::of)
    }

    fn ledger_stats(&self) -> Option<Shared<'_, LedgerStats>> {
        Some(Shared::of(&self.ledger_stats))
    }

    fn follow(&self, slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
        places::follow(self, slot, base, hash, sent)
    }

    fn owner(&self, slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
        schedule::owner(self, slot, base, key, sent, asked)
    }

    fn nat_bucket(&self, index: u32) -> Option<Shared<'_, NatBucket>> {
        self.nat_index.get(index as usize).map(Shared::of)
    }

    fn nat_flow(&self, index: u32) -> Option<Shared<'_, NatFlow>> {
        self.nat_flows.get(index as usize).map(Shared::of)
    }

    fn nat_gauges(&self) -> Option<Shared<'_, NatGauges>> {
        Some(Shared::of(&self.nat_gauges))
    }

    fn opening(&self) -> Option<Shared<'_, Opening>> {
        Some(Shared::of(&self.opening))
    }

    fn open_flow(&self) -> u64 {
        open_flow(self)
    }

    fn quote(&self) -> Option<Shared<'_, Quote>> {
        Some(Shared::of(&self.quote))
    }

    fn relayed(&self) -> Option<Shared<'_, Relayed>> {
        Some(Shared::of(&self.relayed))
    }

    fn course(&self) -> Option<Shared<'_, Course>> {
        Some(Shared::of(&self.course))
    }

    fn fragmented(&self, index: u32) -> Option<Shared<'_, Fragmented>> {
        self.fragmented.get(index as usize).map(Shared::of)
    }

    fn left(&self) -> Option<Shared<'_, u64>> {
        Some(Shared::of(&self.left))
    }

    fn said(&self) -> Option<Shared<'_, Said>> {
        Some(Shared::of(&self.said))
    }

    fn guard(&self, source: [u64; 2], limits: u64, question: u64, list: u32) -> u32 {
        guard::guard(self, source, limits, question, list)
    }

    fn listed(&self, list: u32, source: [u64; 2]) -> u32 {
        SourcePrefix::longest(&self.prefixes, &SourcePrefix::key(list, source))
    }

    fn quic(&self, key: u64) -> u32 {
        self.quic.get(&key).copied().unwrap_or(SlotWord::NONE).into()
    }

    fn pacer(&self, index: u32) -> Option<Shared<'_, u64>> {
        self.pacers.get(index as usize).map(Shared::of)
    }

    fn schedule(&self, id: u32) -> Option<Shared<'_, Schedule>> {
        self.schedules.get(id as usize).map(Shared::of)
    }

    fn backend_load(&self, index: u32) -> Option<Shared<'_, BackendLoad>> {
        self.backend_loads.get(index as usize).map(Shared::of)
    }

    fn flow_bucket(&self, index: u32) -> Option<Shared<'_, FlowBucket>> {
        self.remembered.get(index as usize).map(Shared::of)
    }

    fn schedule_stats(&self) -> Option<Shared<'_, ScheduleStats>> {
        Some(Shared::of(&self.schedule_stats))
    }

    fn choose(&self, sent: u64) -> u64 {
        schedule::choose(self, sent)
    }

    fn pick(&self) -> u64 {
        schedule::pick(self)
    }

    fn cost(&self, base: u32, index: u16, scheduler: u32) -> u64 {
        schedule::cost(self, base, index, scheduler)
    }

    fn tick(&self) -> u32 {
        self.now.get()
    }

    fn reason_stats(&self, index: u32) -> Option<Shared<'_, ReasonStats>> {
        self.reason_stats.get(index as usize).map(Shared::of)
    }

    fn backend_stats(&self, index: u32) -> Option<Shared<'_, BackendStats>> {
        self.backend_stats.get(index as usize).map(Shared::of)
    }

    fn backend_signals(&self, index: u32) -> Option<Shared<'_, BackendSignals>> {
        self.backend_signals.get(index as usize).map(Shared::of)
    }

    fn watched(&self, index: u32) -> Option<Shared<'_, u64>> {
        self.watched.get(index as usize).map(Shared::of)
    }

    fn note_handshake(&self, hash: u64, stats: u32, step: u32) {
        handshake::note(self, hash, stats, step);
    }

    fn nanoseconds(&self) -> u64 {
        self.nanoseconds.get()
    }

    fn tell_flow(&self, beginning: Beginning) {
        flow_log::tell(self, beginning);
    }

    fn told(&self, index: u32) -> Option<Shared<'_, u64>> {
        self.told.get(index as usize).map(Shared::of)
    }

    fn put_flow_record(&self, record: FlowRecord) -> bool {
        self.flow_records.borrow_mut().push(record);
        true
    }

    fn flow_log_stats(&self) -> Option<Shared<'_, FlowLogStats>> {
        Some(Shared::of(&self.flow_log_stats))
    }
}
