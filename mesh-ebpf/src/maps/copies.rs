//! Copies of what the engine would write to, for one who only looks.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, PerCpuArray},
};
use mesh_common::{
    abi::{
        BackendLoad, Explained, FlowBucket, LedgerBucket, LedgerCrowd, LedgerTags, NatBucket, NatFlow, NatGauges, Schedule, SlotsRefused,
        SlotsSeen,
    },
    nat::Opening,
    shared::Shared,
};

use crate::explain::Copies;

/// What [`crate::global::mesh_explain_open`] is to open.
#[map]
static SCRATCH_OPENING: PerCpuArray<Opening> = PerCpuArray::with_max_entries(1, 0);
/// Copies of what the engine would write to, for one who only looks.
#[map]
static SCRATCH_FLOW: PerCpuArray<NatFlow> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_BUCKET: PerCpuArray<NatBucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_GAUGES: PerCpuArray<NatGauges> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_SEEN: PerCpuArray<SlotsSeen> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_REFUSED: PerCpuArray<SlotsRefused> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_TAGS: PerCpuArray<LedgerTags> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_CROWD: PerCpuArray<LedgerCrowd> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_LEDGER: PerCpuArray<LedgerBucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_PACER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_SCHEDULE: PerCpuArray<Schedule> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_LOAD: PerCpuArray<BackendLoad> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH_REMEMBERED: PerCpuArray<FlowBucket> = PerCpuArray::with_max_entries(1, 0);
/// What it has found.
#[map]
static EXPLAINED: Array<Explained> = Array::with_max_entries(1, BPF_F_MMAPABLE);

macro_rules! copies {
    ($($name:ident: $t:ty = $map:ident;)+) => {
        impl Copies { $(
            #[inline(always)]
            pub fn $name(&self) -> Option<Shared<'_, $t>> {
                look_up!($map, 0)
            }
        )+ }
    };
}

copies! {
    scratch_opening: Opening = SCRATCH_OPENING;
    scratch_flow: NatFlow = SCRATCH_FLOW;
    scratch_bucket: NatBucket = SCRATCH_BUCKET;
    scratch_gauges: NatGauges = SCRATCH_GAUGES;
    scratch_seen: SlotsSeen = SCRATCH_SEEN;
    scratch_refused: SlotsRefused = SCRATCH_REFUSED;
    scratch_tags: LedgerTags = SCRATCH_TAGS;
    scratch_crowd: LedgerCrowd = SCRATCH_CROWD;
    scratch_ledger: LedgerBucket = SCRATCH_LEDGER;
    scratch_pacer: u64 = SCRATCH_PACER;
    scratch_schedule: Schedule = SCRATCH_SCHEDULE;
    scratch_load: BackendLoad = SCRATCH_LOAD;
    scratch_remembered: FlowBucket = SCRATCH_REMEMBERED;
    explained: Explained = EXPLAINED;
}
