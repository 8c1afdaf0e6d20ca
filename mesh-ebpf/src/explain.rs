//! The program that only looks: the engine on the same maps, with copies in place of all that it writes to.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use mesh_common::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, FlowBucket, FlowLogStats, FlowRecord, Fragmented, LedgerBucket,
        LedgerCrowd, LedgerStats, LedgerTags, NatBucket, NatFlow, NatGauges, ReasonStats, Schedule, ScheduleStats, ServiceInfo, SlotWord,
        SlotsRefused, SlotsSeen, Vip,
    },
    answer::Said,
    explain::explain,
    flow_log::Beginning,
    fragment::Course,
    icmp::Relayed,
    nat::Opening,
    patch::Quote,
    shared::Shared,
    tables::Tables,
};

use crate::{
    global::{
        mesh_explain_choose, mesh_explain_cost, mesh_explain_follow, mesh_explain_guard, mesh_explain_open, mesh_explain_owner,
        mesh_explain_pick,
    },
    maps::Maps,
    packet::XdpFrame,
};

/// Tells what the balancer would make of the packet that it is run with. It is attached nowhere.
#[xdp(frags)]
#[inline(always)]
pub fn mesh_explain(ctx: XdpContext) -> u32 {
    let Some(out) = Copies.explained() else { return xdp_action::XDP_ABORTED };
    let mut frame = XdpFrame::new(&ctx);
    explain(&mut frame, &Copies, out) as u32
}

/// The tables as they stand in the maps; what the engine writes to is a copy, and what it counts is not there.
pub struct Copies;

/// Copies a value word by word.
macro_rules! copied {
    ($from:expr, $to:expr, $($word:literal)+) => {{
        let (from, to) = ($from?, $to?);
        $( to.store::<u64, { 8 * $word }>(from.load::<u64, { 8 * $word }>()); )+
        Some(to)
    }};
}

const MAPS: &Maps = &Maps;

impl Tables for Copies {
    #[inline(always)]
    fn config(&self) -> Option<Shared<'_, Config>> {
        MAPS.config()
    }

    #[inline(always)]
    fn vip(&self, position: u32) -> Option<Shared<'_, Vip>> {
        MAPS.vip(position)
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<Shared<'_, ServiceInfo>> {
        MAPS.service(id)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<SlotWord> {
        MAPS.slot(index)
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<Shared<'_, Backend>> {
        MAPS.backend(index)
    }

    #[inline(always)]
    fn slots_seen(&self, index: u32) -> Option<Shared<'_, SlotsSeen>> {
        copied!(MAPS.slots_seen(index), self.scratch_seen(), 0)
    }

    #[inline(always)]
    fn slots_refused(&self, index: u32) -> Option<Shared<'_, SlotsRefused>> {
        copied!(MAPS.slots_refused(index), self.scratch_refused(), 0)
    }

    #[inline(always)]
    fn ledger_tags(&self, index: u32) -> Option<Shared<'_, LedgerTags>> {
        copied!(MAPS.ledger_tags(index), self.scratch_tags(), 0)
    }

    #[inline(always)]
    fn ledger_crowd(&self) -> Option<Shared<'_, LedgerCrowd>> {
        copied!(MAPS.ledger_crowd(), self.scratch_crowd(), 0)
    }

    #[inline(always)]
    fn ledger_bucket(&self, index: u32) -> Option<Shared<'_, LedgerBucket>> {
        copied!(MAPS.ledger_bucket(index), self.scratch_ledger(), 0 1 2 3 4 5 6 7)
    }

    #[inline(always)]
    fn ledger_stats(&self) -> Option<Shared<'_, LedgerStats>> {
        None
    }

    #[inline(always)]
    fn follow(&self, slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
        mesh_explain_follow(slot, base, hash, sent)
    }

    #[inline(always)]
    fn owner(&self, slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
        mesh_explain_owner(slot, base, key, sent, asked)
    }

    #[inline(always)]
    fn nat_bucket(&self, index: u32) -> Option<Shared<'_, NatBucket>> {
        copied!(MAPS.nat_bucket(index), self.scratch_bucket(), 0 1 2 3 4 5 6 7)
    }

    #[inline(always)]
    fn nat_flow(&self, index: u32) -> Option<Shared<'_, NatFlow>> {
        copied!(MAPS.nat_flow(index), self.scratch_flow(), 0 1 2 3 4 5 6 7)
    }

    #[inline(always)]
    fn nat_gauges(&self) -> Option<Shared<'_, NatGauges>> {
        copied!(MAPS.nat_gauges(), self.scratch_gauges(), 0)
    }

    #[inline(always)]
    fn opening(&self) -> Option<Shared<'_, Opening>> {
        self.scratch_opening()
    }

    #[inline(always)]
    fn open_flow(&self) -> u64 {
        mesh_explain_open()
    }

    #[inline(always)]
    fn quote(&self) -> Option<Shared<'_, Quote>> {
        None
    }

    #[inline(always)]
    fn relayed(&self) -> Option<Shared<'_, Relayed>> {
        None
    }

    #[inline(always)]
    fn course(&self) -> Option<Shared<'_, Course>> {
        None
    }

    #[inline(always)]
    fn fragmented(&self, _: u32) -> Option<Shared<'_, Fragmented>> {
        None
    }

    #[inline(always)]
    fn left(&self) -> Option<Shared<'_, u64>> {
        None
    }

    #[inline(always)]
    fn said(&self) -> Option<Shared<'_, Said>> {
        None
    }

    #[inline(always)]
    fn guard(&self, source: [u64; 2], limits: u64, question: u64, list: u32) -> u32 {
        mesh_explain_guard(source[0], source[1], limits, question, list)
    }

    #[inline(always)]
    fn listed(&self, list: u32, source: [u64; 2]) -> u32 {
        MAPS.listed(list, source)
    }

    #[inline(always)]
    fn pacer(&self, index: u32) -> Option<Shared<'_, u64>> {
        copied!(MAPS.pacer(index), self.scratch_pacer(), 0)
    }

    #[inline(always)]
    fn quic(&self, key: u64) -> u32 {
        MAPS.quic(key)
    }

    #[inline(always)]
    fn schedule(&self, id: u32) -> Option<Shared<'_, Schedule>> {
        copied!(MAPS.schedule(id), self.scratch_schedule(), 0 1 2 3)
    }

    #[inline(always)]
    fn backend_load(&self, index: u32) -> Option<Shared<'_, BackendLoad>> {
        copied!(MAPS.backend_load(index), self.scratch_load(), 0 1 2 3)
    }

    #[inline(always)]
    fn flow_bucket(&self, index: u32) -> Option<Shared<'_, FlowBucket>> {
        copied!(MAPS.flow_bucket(index), self.scratch_remembered(), 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    }

    #[inline(always)]
    fn schedule_stats(&self) -> Option<Shared<'_, ScheduleStats>> {
        None
    }

    #[inline(always)]
    fn choose(&self, sent: u64) -> u64 {
        mesh_explain_choose(sent)
    }

    #[inline(always)]
    fn pick(&self) -> u64 {
        mesh_explain_pick()
    }

    #[inline(always)]
    fn cost(&self, base: u32, index: u16, scheduler: u32) -> u64 {
        mesh_explain_cost(base, index as u32, scheduler)
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        MAPS.tick()
    }

    #[inline(always)]
    fn reason_stats(&self, _: u32) -> Option<Shared<'_, ReasonStats>> {
        None
    }

    #[inline(always)]
    fn backend_stats(&self, _: u32) -> Option<Shared<'_, BackendStats>> {
        None
    }

    #[inline(always)]
    fn backend_signals(&self, _: u32) -> Option<Shared<'_, BackendSignals>> {
        None
    }

    #[inline(always)]
    fn watched(&self, _: u32) -> Option<Shared<'_, u64>> {
        None
    }

    #[inline(always)]
    fn note_handshake(&self, _: u64, _: u32, _: u32) {}

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        MAPS.nanoseconds()
    }

    #[inline(always)]
    fn tell_flow(&self, _: Beginning) {}

    #[inline(always)]
    fn told(&self, _: u32) -> Option<Shared<'_, u64>> {
        None
    }

    #[inline(always)]
    fn put_flow_record(&self, _: FlowRecord) -> bool {
        false
    }

    #[inline(always)]
    fn flow_log_stats(&self) -> Option<Shared<'_, FlowLogStats>> {
        None
    }
}
