//! The agent's maps. The one file with `unsafe` for map memory.

use core::ptr::NonNull;

use aya_ebpf::{
    macros::map,
    maps::{
        HashMap, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use mesh_common::{
    abi::{Addr, AgentLink, AgentStats, AgentVip, agent::PEER_BITS},
    shared::Shared,
};

#[map]
static AGENT_VIPS: HashMap<Addr, AgentVip> = HashMap::with_max_entries(4096, 0);
#[map]
static AGENT_OWN: HashMap<Addr, u32> = HashMap::with_max_entries(4096, 0);
#[map]
static AGENT_LINKS: HashMap<u32, AgentLink> = HashMap::with_max_entries(64, 0);
#[map]
static AGENT_PEERS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1024, 0);
#[map]
static AGENT_STATS: PerCpuArray<AgentStats> = PerCpuArray::with_max_entries(1, 0);

macro_rules! shared {
    ($place:expr) => {{
        let place = NonNull::new($place?)?;
        // SAFETY: the kernel answers with an entry of the map, which is as big and aligned as the map's value type, and whose memory stays until
        // the program ends. Map values are plain old data, and nobody makes references to them.
        Some(unsafe { Shared::new(place) })
    }};
}

/// The VIP at this address, if it is served here.
#[inline(always)]
pub fn vip(addr: &Addr) -> Option<Shared<'static, AgentVip>> {
    shared!(AGENT_VIPS.get_ptr_mut(addr))
}

/// The address is the node's own.
#[inline(always)]
pub fn own(addr: &Addr) -> bool {
    AGENT_OWN.get_ptr(addr).is_some()
}

/// Packets may be passed on to this address.
#[inline(always)]
pub fn peer(addr: &Addr) -> bool {
    AGENT_PEERS.get(Key::new(PEER_BITS, addr.0)).is_some()
}

#[inline(always)]
pub fn link(ifindex: u32) -> Option<Shared<'static, AgentLink>> {
    shared!(AGENT_LINKS.get_ptr_mut(ifindex))
}

/// Counts at byte `AT` of the counters.
#[inline(always)]
pub fn count<const AT: usize>(more: u64) {
    let stats: Option<Shared<'_, AgentStats>> = (|| shared!(AGENT_STATS.get_ptr_mut(0)))();
    if let Some(stats) = stats {
        stats.count::<AT>(more);
    }
}
