//! The maps, and the engine's lookups in them. The one file with `unsafe` for map memory.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_map_lookup_elem,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
};
use mesh_common::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, Fact, FlowBucket, FlowLogStats, FlowRecord, Fragmented, LedgerBucket,
        LedgerCrowd, LedgerStats, LedgerTags, NatBucket, NatFlow, NatGauges, REASONS, ReasonStats, SOURCE_PREFIXES, Schedule,
        ScheduleStats, ServiceInfo, SlotWord, SlotsRefused, SlotsSeen, SourcePrefix, Table, Vip,
    },
    answer::Said,
    flow_log::{self, Beginning},
    fragment::Course,
    handshake,
    icmp::Relayed,
    nat::Opening,
    patch::Quote,
    shared::{Shared, in_order},
    tables::Tables,
};

use crate::global::{
    mesh_choose, mesh_cost, mesh_follow, mesh_guard, mesh_note_handshake, mesh_open_flow, mesh_owner, mesh_pick, mesh_tell_flow,
};

/// Sizes that the object is built with; the loader sets others before it creates the maps.
mod size {
    pub const SERVICES: u32 = 1024;
    pub const BACKENDS: u32 = 1 << 14;
}

#[map]
static LEDGER_STATS: PerCpuArray<LedgerStats> = PerCpuArray::with_max_entries(1, 0);
#[map]
static REASON_STATS: PerCpuArray<ReasonStats> = PerCpuArray::with_max_entries(size::SERVICES * REASONS, 0);
#[map]
static BACKEND_STATS: PerCpuArray<BackendStats> = PerCpuArray::with_max_entries(size::BACKENDS, 0);
/// Handshakes that are being watched.
#[map]
static WATCHED: Array<u64> = Array::with_max_entries(handshake::WATCHED, 0);
/// Flows that the daemon was told of.
#[map]
static TOLD: Array<u64> = Array::with_max_entries(flow_log::TOLD, 0);
#[map]
static FLOW_RECORDS: RingBuf = RingBuf::with_byte_size(flow_log::RING, 0);
#[map]
static FLOW_LOG_STATS: PerCpuArray<FlowLogStats> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCHEDULE_STATS: PerCpuArray<ScheduleStats> = PerCpuArray::with_max_entries(1, 0);
/// Who may use a service.
#[map]
static SOURCES: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(SOURCE_PREFIXES, 0);
/// Backends by server id.
#[map]
static QUIC_IDS: HashMap<u64, u32> = HashMap::with_max_entries(2 * size::BACKENDS, BPF_F_NO_PREALLOC);

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
/// Why the packet ends that is just being left to `mesh_xdp_rest`.
#[map]
static LEFT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
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

/// A fact about a table, as the loader puts it into the instruction that loads it.
macro_rules! fact {
    ($table:ident, $fact:ident) => {{
        let fact;
        // SAFETY: loads a constant.
        unsafe {
            ::core::arch::asm!("{0} = {c} ll", out(reg) fact, c = const Table::$table.constant(Fact::$fact), options(nomem, nostack, preserves_flags))
        };
        fact
    }};
}

/// The entry of a table at an index; `None` is returned beyond the end.
macro_rules! entry {
    ($table:ident, $index:expr) => {{
        const SIZE: usize = Table::$table.entry_size();
        let asked: u32 = $index;
        // A copy: verifiers before 6.10 forget the range of what is loaded from the stack once more.
        let (index, entries): (u64, u64) = (in_order(asked as u64), fact!($table, Entries));
        let place = if entries == 0 {
            ::core::hint::cold_path();
            let map: *mut ::core::ffi::c_void = fact!($table, Map);
            let key = index as u32;
            // SAFETY: the fact is a map with four bytes of key.
            NonNull::new(unsafe { bpf_map_lookup_elem(map, (&raw const key).cast()) }.cast())?
        } else if index < entries {
            let first: *mut u8 = fact!($table, Address);
            let place = first.wrapping_add(index as usize * SIZE);
            // SAFETY: the table does not lie at address zero. (It would otherwise be compared with it.)
            unsafe {
                ::core::hint::assert_unchecked(!place.is_null());
                NonNull::new_unchecked(place.cast())
            }
        } else {
            ::core::hint::cold_path();
            return None;
        };
        // SAFETY: the place is an entry of the table, aligned to 8 bytes, and stays until the program ends. Entries are plain old data, and nobody
        // makes references to them.
        Some(unsafe { Shared::new(place) })
    }};
}

/// The entry of a table that has one, which is always reached by address.
macro_rules! the {
    ($table:ident) => {{
        let place: *mut u8 = fact!($table, Address);
        // SAFETY: as for `entry`.
        unsafe {
            ::core::hint::assert_unchecked(!place.is_null());
            Some(Shared::new(NonNull::new_unchecked(place.cast())))
        }
    }};
}

mod copies;
mod time;

impl Tables for Maps {
    #[inline(always)]
    fn config(&self) -> Option<Shared<'_, Config>> {
        the!(Config)
    }

    #[inline(always)]
    fn vip(&self, position: u32) -> Option<Shared<'_, Vip>> {
        entry!(Vips, position)
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<Shared<'_, ServiceInfo>> {
        entry!(Services, id)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<SlotWord> {
        let word: Shared<'_, u64> = entry!(Slots, index)?;
        Some(SlotWord(word.load::<u64, 0>()))
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<Shared<'_, Backend>> {
        entry!(Backends, index)
    }

    #[inline(always)]
    fn slots_seen(&self, index: u32) -> Option<Shared<'_, SlotsSeen>> {
        entry!(SlotsSeen, index)
    }

    #[inline(always)]
    fn slots_refused(&self, index: u32) -> Option<Shared<'_, SlotsRefused>> {
        entry!(SlotsRefused, index)
    }

    #[inline(always)]
    fn ledger_tags(&self, index: u32) -> Option<Shared<'_, LedgerTags>> {
        entry!(LedgerTags, index)
    }

    #[inline(always)]
    fn ledger_crowd(&self) -> Option<Shared<'_, LedgerCrowd>> {
        the!(LedgerCrowd)
    }

    #[inline(always)]
    fn ledger_bucket(&self, index: u32) -> Option<Shared<'_, LedgerBucket>> {
        entry!(Ledger, index)
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
        entry!(NatIndex, index)
    }

    #[inline(always)]
    fn nat_flow(&self, index: u32) -> Option<Shared<'_, NatFlow>> {
        entry!(NatFlows, index)
    }

    #[inline(always)]
    fn nat_gauges(&self) -> Option<Shared<'_, NatGauges>> {
        the!(NatGauges)
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
        entry!(Fragments, index)
    }

    #[inline(always)]
    fn left(&self) -> Option<Shared<'_, u64>> {
        look_up!(LEFT, 0)
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
        entry!(Pacers, index)
    }

    #[inline(always)]
    fn quic(&self, key: u64) -> u32 {
        let found: Option<Shared<'_, u32>> = (|| look_up!(QUIC_IDS, key))();
        found.map_or(SlotWord::NONE as u32, |index| index.load::<u32, 0>())
    }

    #[inline(always)]
    fn schedule(&self, id: u32) -> Option<Shared<'_, Schedule>> {
        entry!(Schedules, id)
    }

    #[inline(always)]
    fn backend_load(&self, index: u32) -> Option<Shared<'_, BackendLoad>> {
        entry!(BackendLoads, index)
    }

    #[inline(always)]
    fn flow_bucket(&self, index: u32) -> Option<Shared<'_, FlowBucket>> {
        entry!(Flows, index)
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
        entry!(BackendSignals, index)
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
