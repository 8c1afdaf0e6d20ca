use bytemuck::{Pod, Zeroable};

use super::Addr;

/// Packets whose fragments are followed at once at most: entries of the map, a power of two.
pub const FRAGMENTED: u32 = 1 << 13;
/// Entries that a packet may be kept in.
pub const FRAGMENT_WAYS: u32 = 4;

/// What becomes of the fragments of one packet, found by a hash of what they have in common: two cache lines, written by the first fragment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Fragmented {
    /// 0 = free; [`Fragmented::BUSY`] while it is written; else the hash with bit 1 set.
    pub claim: u64,
    /// As the fragments come, like `id` and `proto`.
    pub src: Addr,
    pub dst: Addr,
    /// Identification as it lies in the packet.
    pub id: u32,
    /// Tick of the first fragment (see [`super::NatConfig::TICK_SHIFT`]).
    pub seen: u32,
    /// [`Fragmented::TRANSLATED`]: their addresses; else those of the outer header.
    pub new_src: Addr,
    pub new_dst: Addr,
    /// Each in the low 48 bits.
    pub to_mac: u64,
    pub from_mac: u64,
    pub service: u32,
    /// Index of the backend's counters.
    pub stats: u32,
    /// Interface to leave by, as a decision has it.
    pub ifindex: u32,
    /// [`Fragmented::TRANSLATED`]: the identification in place of `id`, as it lies in the packet. Outer IPv6 header: the flow label.
    pub new_id: u32,
    /// [`Fragmented::GUE`]: source port, as it lies in the packet.
    pub port: u16,
    /// Outer IPv4 header: sum of all words that are the same for every packet.
    pub sum: u16,
    /// Outer headers: what fits through; 0 = anything.
    pub mtu: u16,
    pub proto: u8,
    /// Bits of what is done with the fragments.
    pub done: u8,
    pub reserved: u64,
}

const _: () = assert!(size_of::<Fragmented>() == 128);

impl Fragmented {
    pub const BUSY: u64 = 1;

    /// Addresses and identification are replaced.
    pub const TRANSLATED: u8 = 1;
    /// They go in an outer IPv4 header, ...
    pub const OUTER_V4: u8 = 2;
    /// ... or in an outer IPv6 header.
    pub const OUTER_V6: u8 = 4;
    /// A UDP header follows the outer one.
    pub const GUE: u8 = 8;
    /// They go to a client.
    pub const REPLY: u8 = 16;
}
