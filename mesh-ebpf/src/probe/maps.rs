//! The maps of probes' ways. The one file with `unsafe` for map memory.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use mesh_common::abi::probe::{Ends, MAX_ID, ProbeFlow, ProbeWay};

#[map]
static PROBE_WAYS: HashMap<u32, ProbeWay> = HashMap::with_max_entries(MAX_ID, BPF_F_NO_PREALLOC);
#[map]
static PROBE_VIPS: HashMap<Ends, u32> = HashMap::with_max_entries(MAX_ID, BPF_F_NO_PREALLOC);
/// Two for each probe that is under way; of pulses, which have no end, those of the last seconds.
#[map]
static PROBE_FLOWS: LruHashMap<ProbeFlow, u32> = LruHashMap::with_max_entries(32_768, 0);

/// The way of this id.
#[inline(always)]
pub fn way(id: u32) -> Option<ProbeWay> {
    let way = PROBE_WAYS.get_ptr(id)?;
    // SAFETY: the kernel answers with an entry of the map, as big and aligned as the value type, whose memory stays until the program ends and is
    // never written again: an update puts another entry in its place.
    Some(unsafe { *way })
}

#[inline(always)]
pub fn is_vip(addr: &Ends) -> bool {
    PROBE_VIPS.get_ptr(addr).is_some()
}

/// The way of a flow that was led.
#[inline(always)]
pub fn way_of(flow: &ProbeFlow) -> Option<ProbeWay> {
    let id = PROBE_FLOWS.get_ptr(flow)?;
    // SAFETY: as above; entries of this map are written in place, but a number of 32 bits is read whole.
    way(unsafe { id.read_volatile() })
}

/// Keeps a flow's id. One that can't be kept has no answers, and so is a probe that failed.
#[inline(always)]
pub fn learn(flow: &ProbeFlow, id: u32) {
    let _ = PROBE_FLOWS.insert(flow, id, 0);
}
