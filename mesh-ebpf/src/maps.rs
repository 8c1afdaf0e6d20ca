//! The maps, and the engine's lookups in them. The one file with `unsafe` for map memory.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
};
use mesh_common::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, FRAGMENTED, FlowBucket, FlowLogStats, FlowRecord, Fragmented,
        LedgerBucket, LedgerCrowd, LedgerStats, LedgerTags, NatBucket, NatFlow, NatGauges, REASONS, ReasonStats, SOURCE_PREFIXES, Schedule,
        ScheduleStats, ServiceInfo, SlotWord, SlotsRefused, SlotsSeen, SourcePrefix, Vip,
    },
    answer::Said,
    flow_log::{self, Beginning},
    fragment::Course,
    guard, handshake,
    icmp::Relayed,
    nat::Opening,
    patch::Quote,
    shared::Shared,
    tables::Tables,
};

use crate::global::{
    mesh_choose, mesh_cost, mesh_follow, mesh_guard, mesh_note_handshake, mesh_open_flow, mesh_owner, mesh_pick, mesh_tell_flow,
};

/// Sizes that the object is built with; the loader sets others before it creates the maps.
mod size {
    pub const SERVICES: u32 = 1024;
    pub const VIPS: u32 = 2 * 4096;
    pub const SLOTS: u32 = 1 << 20;
    pub const BACKENDS: u32 = 1 << 14;
    pub const LEDGER_BUCKETS: u32 = 1 << 14;
    pub const NAT_FLOWS: u32 = 1 << 16;
    pub const NAT_BUCKETS: u32 = 1 << 15;
    pub const FLOW_BUCKETS: u32 = 1 << 12;
}

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static VIPS: Array<Vip> = Array::with_max_entries(size::VIPS, BPF_F_MMAPABLE);
#[map]
static SERVICES: Array<ServiceInfo> = Array::with_max_entries(size::SERVICES, BPF_F_MMAPABLE);
#[map]
static SLOTS: Array<u64> = Array::with_max_entries(size::SLOTS, BPF_F_MMAPABLE);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(size::BACKENDS, BPF_F_MMAPABLE);
#[map]
static SLOTS_SEEN: Array<SlotsSeen> = Array::with_max_entries(size::SLOTS / SlotsSeen::SLOTS, BPF_F_MMAPABLE);
#[map]
static SLOTS_REFUSED: Array<SlotsRefused> = Array::with_max_entries(size::SLOTS / SlotsRefused::SLOTS, BPF_F_MMAPABLE);
#[map]
static LEDGER_TAGS: Array<LedgerTags> = Array::with_max_entries(size::LEDGER_BUCKETS, BPF_F_MMAPABLE);
#[map]
static LEDGER_CROWD: Array<LedgerCrowd> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static LEDGER: Array<LedgerBucket> = Array::with_max_entries(size::LEDGER_BUCKETS, BPF_F_MMAPABLE);
#[map]
static LEDGER_STATS: PerCpuArray<LedgerStats> = PerCpuArray::with_max_entries(1, 0);
#[map]
static NAT_INDEX: Array<NatBucket> = Array::with_max_entries(size::NAT_BUCKETS, BPF_F_MMAPABLE);
#[map]
static NAT_FLOWS: Array<NatFlow> = Array::with_max_entries(size::NAT_FLOWS, BPF_F_MMAPABLE);
#[map]
static NAT_GAUGES: Array<NatGauges> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static REASON_STATS: PerCpuArray<ReasonStats> = PerCpuArray::with_max_entries(size::SERVICES * REASONS, 0);
#[map]
static BACKEND_STATS: PerCpuArray<BackendStats> = PerCpuArray::with_max_entries(size::BACKENDS, 0);
#[map]
static BACKEND_SIGNALS: Array<BackendSignals> = Array::with_max_entries(size::BACKENDS, BPF_F_MMAPABLE);
/// Handshakes that are being watched.
#[map]
static WATCHED: Array<u64> = Array::with_max_entries(handshake::WATCHED, 0);
/// How new connections are paced.
#[map]
static PACERS: Array<u64> = Array::with_max_entries(guard::PACERS, BPF_F_MMAPABLE);
/// Packets whose fragments are followed.
#[map]
static FRAGMENTS: Array<Fragmented> = Array::with_max_entries(FRAGMENTED, BPF_F_MMAPABLE);
/// Flows that the daemon was told of.
#[map]
static TOLD: Array<u64> = Array::with_max_entries(flow_log::TOLD, 0);
#[map]
static FLOW_RECORDS: RingBuf = RingBuf::with_byte_size(flow_log::RING, 0);
#[map]
static FLOW_LOG_STATS: PerCpuArray<FlowLogStats> = PerCpuArray::with_max_entries(1, 0);
/// How services choose.
#[map]
static SCHEDULES: Array<Schedule> = Array::with_max_entries(size::SERVICES, BPF_F_MMAPABLE);
#[map]
static BACKEND_LOADS: Array<BackendLoad> = Array::with_max_entries(size::BACKENDS, BPF_F_MMAPABLE);
/// What was chosen, where nobody translates.
#[map]
static FLOWS: Array<FlowBucket> = Array::with_max_entries(size::FLOW_BUCKETS, BPF_F_MMAPABLE);
#[map]
static SCHEDULE_STATS: PerCpuArray<ScheduleStats> = PerCpuArray::with_max_entries(1, 0);
/// Who may use a service.
#[map]
static SOURCES: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(SOURCE_PREFIXES, 0);
/// Backends by server id.
#[map]
static QUIC_IDS: HashMap<u64, u32> = HashMap::with_max_entries(2 * size::BACKENDS, BPF_F_NO_PREALLOC);
/// Tick of this CPU's last log line.
#[map]
static LAST_REPORT: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// What [`mesh_open_flow`] is to open. A program runs to its end before the next one does on its CPU.
#[map]
static OPENING: PerCpuArray<Opening> = PerCpuArray::with_max_entries(1, 0);

/// What an answer quotes.
#[map]
static QUOTES: PerCpuArray<Quote> = PerCpuArray::with_max_entries(1, 0);
/// What becomes of an ICMP error.
#[map]
static RELAYED: PerCpuArray<Relayed> = PerCpuArray::with_max_entries(1, 0);
/// What becomes of a fragment.
#[map]
static COURSE: PerCpuArray<Course> = PerCpuArray::with_max_entries(1, 0);
/// Errors that this CPU has said lately.
#[map]
static SAID: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// The tables as they stand in the maps.
pub struct Maps;

macro_rules! look_up {
    ($map:ident, $index:expr) => {{
        let place = NonNull::new($map.get_ptr_mut($index)?)?;
        // SAFETY: the kernel answers with an entry of the map, which is as big as the map's value type, aligned to 8 bytes, and stays until the
        // program ends. Map values are plain old data, and nobody makes references to them.
        Some(unsafe { Shared::new(place) })
    }};
}

mod copies;
mod time;

impl Tables for Maps {
    #[inline(always)]
    fn config(&self) -> Option<Shared<'_, Config>> {
        look_up!(CONFIG, 0)
    }

    #[inline(always)]
    fn vip(&self, position: u32) -> Option<Shared<'_, Vip>> {
        look_up!(VIPS, position)
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<Shared<'_, ServiceInfo>> {
        look_up!(SERVICES, id)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<SlotWord> {
        let word: Shared<'_, u64> = look_up!(SLOTS, index)?;
        Some(SlotWord(word.load::<u64, 0>()))
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<Shared<'_, Backend>> {
        look_up!(BACKENDS, index)
    }

    #[inline(always)]
    fn slots_seen(&self, index: u32) -> Option<Shared<'_, SlotsSeen>> {
        look_up!(SLOTS_SEEN, index)
    }

    #[inline(always)]
    fn slots_refused(&self, index: u32) -> Option<Shared<'_, SlotsRefused>> {
        look_up!(SLOTS_REFUSED, index)
    }

    #[inline(always)]
    fn ledger_tags(&self, index: u32) -> Option<Shared<'_, LedgerTags>> {
        look_up!(LEDGER_TAGS, index)
    }

    #[inline(always)]
    fn ledger_crowd(&self) -> Option<Shared<'_, LedgerCrowd>> {
        look_up!(LEDGER_CROWD, 0)
    }

    #[inline(always)]
    fn ledger_bucket(&self, index: u32) -> Option<Shared<'_, LedgerBucket>> {
        look_up!(LEDGER, index)
    }

    #[inline(always)]
    fn ledger_stats(&self) -> Option<Shared<'_, LedgerStats>> {
        look_up!(LEDGER_STATS, 0)
    }

    #[inline(always)]
    fn follow(&self, slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
        mesh_follow(slot, base, hash, sent)
    }

    #[inline(always)]
    fn owner(&self, slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
        mesh_owner(slot, base, key, sent, asked)
    }

    #[inline(always)]
    fn nat_bucket(&self, index: u32) -> Option<Shared<'_, NatBucket>> {
        look_up!(NAT_INDEX, index)
    }

    #[inline(always)]
    fn nat_flow(&self, index: u32) -> Option<Shared<'_, NatFlow>> {
        look_up!(NAT_FLOWS, index)
    }

    #[inline(always)]
    fn nat_gauges(&self) -> Option<Shared<'_, NatGauges>> {
        look_up!(NAT_GAUGES, 0)
    }

    #[inline(always)]
    fn opening(&self) -> Option<Shared<'_, Opening>> {
        look_up!(OPENING, 0)
    }

    #[inline(always)]
    fn open_flow(&self) -> u64 {
        mesh_open_flow()
    }

    #[inline(always)]
    fn quote(&self) -> Option<Shared<'_, Quote>> {
        look_up!(QUOTES, 0)
    }

    #[inline(always)]
    fn relayed(&self) -> Option<Shared<'_, Relayed>> {
        look_up!(RELAYED, 0)
    }

    #[inline(always)]
    fn course(&self) -> Option<Shared<'_, Course>> {
        look_up!(COURSE, 0)
    }

    #[inline(always)]
    fn fragmented(&self, index: u32) -> Option<Shared<'_, Fragmented>> {
        look_up!(FRAGMENTS, index)
    }

    #[inline(always)]
    fn said(&self) -> Option<Shared<'_, Said>> {
        look_up!(SAID, 0)
    }

    #[inline(always)]
    fn guard(&self, source: [u64; 2], limits: u64, question: u64, list: u32) -> u32 {
        mesh_guard(source[0], source[1], limits, question, list)
    }

    #[inline(always)]
    fn listed(&self, list: u32, source: [u64; 2]) -> u32 {
        SOURCES.get(Key::new(SourcePrefix::KEY_BITS, SourcePrefix::key(list, source))).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn pacer(&self, index: u32) -> Option<Shared<'_, u64>> {
        look_up!(PACERS, index)
    }

    #[inline(always)]
    fn quic(&self, key: u64) -> u32 {
        let found: Option<Shared<'_, u32>> = (|| look_up!(QUIC_IDS, key))();
        found.map_or(SlotWord::NONE as u32, |index| index.load::<u32, 0>())
    }

    #[inline(always)]
    fn schedule(&self, id: u32) -> Option<Shared<'_, Schedule>> {
        look_up!(SCHEDULES, id)
    }

    #[inline(always)]
    fn backend_load(&self, index: u32) -> Option<Shared<'_, BackendLoad>> {
        look_up!(BACKEND_LOADS, index)
    }

    #[inline(always)]
    fn flow_bucket(&self, index: u32) -> Option<Shared<'_, FlowBucket>> {
        look_up!(FLOWS, index)
    }

    #[inline(always)]
    fn schedule_stats(&self) -> Option<Shared<'_, ScheduleStats>> {
        look_up!(SCHEDULE_STATS, 0)
    }

    #[inline(always)]
    fn choose(&self, sent: u64) -> u64 {
        mesh_choose(sent)
    }

    #[inline(always)]
    fn pick(&self) -> u64 {
        mesh_pick()
    }

    #[inline(always)]
    fn cost(&self, base: u32, index: u16, scheduler: u32) -> u64 {
        mesh_cost(base, index as u32, scheduler)
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        time::tick()
    }

    #[inline(always)]
    fn reason_stats(&self, index: u32) -> Option<Shared<'_, ReasonStats>> {
        look_up!(REASON_STATS, index)
    }

    #[inline(always)]
    fn backend_stats(&self, index: u32) -> Option<Shared<'_, BackendStats>> {
        look_up!(BACKEND_STATS, index)
    }

    #[inline(always)]
    fn backend_signals(&self, index: u32) -> Option<Shared<'_, BackendSignals>> {
        look_up!(BACKEND_SIGNALS, index)
    }

    #[inline(always)]
    fn watched(&self, index: u32) -> Option<Shared<'_, u64>> {
        look_up!(WATCHED, index)
    }

    #[inline(always)]
    fn note_handshake(&self, hash: u64, stats: u32, step: u32) {
        mesh_note_handshake(hash, stats, step);
    }

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        time::nanoseconds()
    }

    #[inline(always)]
    fn tell_flow(&self, beginning: Beginning) {
        let [client, more] = beginning.client;
        mesh_tell_flow(client, more, beginning.key, beginning.whose, beginning.ports);
    }

    #[inline(always)]
    fn told(&self, index: u32) -> Option<Shared<'_, u64>> {
        look_up!(TOLD, index)
    }

    #[inline(always)]
    fn put_flow_record(&self, record: FlowRecord) -> bool {
        let Some(mut entry) = FLOW_RECORDS.reserve::<FlowRecord>(0) else { return false };
        entry.write(record);
        entry.submit(0);
        true
    }

    #[inline(always)]
    fn flow_log_stats(&self) -> Option<Shared<'_, FlowLogStats>> {
        look_up!(FLOW_LOG_STATS, 0)
    }
}

impl Maps {
    /// This CPU has not logged for about a second; from now on it has.
    pub fn may_report(&self) -> bool {
        const TICKS: u32 = 8;
        let last: Option<Shared<'_, u32>> = (|| look_up!(LAST_REPORT, 0))();
        let Some(last) = last else { return false };
        let now = self.tick();
        if now.wrapping_sub(last.load::<u32, 0>()) < TICKS {
            return false;
        }
        last.store::<u32, 0>(now);
        true
    }
}
