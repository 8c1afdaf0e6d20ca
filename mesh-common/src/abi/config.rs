use core::ops::RangeInclusive;

use bytemuck::{Pod, Zeroable};

use super::{Addr, LedgerConfig};

/// Displacements a half of the VIP table has at most (a power of two).
pub const DISPLACEMENTS: usize = 16_384;
/// Source addresses that `nat` can use (a power of two).
pub const NAT_SOURCES: usize = 64;
/// Ranges of source ports that `nat` can use.
pub const NAT_RANGES: usize = 4;

/// How one half of the VIP table is searched: a perfect hash, of few keys by the upper bits of a product, else by displacement (hash and displace).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct VipHalf {
    /// Seed of the key hash.
    pub seed: u64,
    /// Number of positions less one.
    pub mask: u32,
    /// Number of displacements less one; 0: none is asked for.
    pub displacement_mask: u32,
    /// First position of this half in the VIP map.
    pub base: u32,
    /// Where no displacement is asked for: 64 less the bits of a position.
    pub shift: u32,
    pub reserved: u64,
}

impl VipHalf {
    /// Bytes from one half to the other one: a bit of its own, see [`Config::active`].
    pub const STRIDE: u32 = size_of::<Self>() as u32;

    /// A half of `positions` (a power of two, at least 2) that begins at `base` and asks for no displacement. `seed` is made odd.
    pub const fn plain(seed: u64, positions: u32, base: u32) -> Self {
        Self { seed: seed | 1, mask: positions - 1, displacement_mask: 0, base, shift: 64 - positions.trailing_zeros(), reserved: 0 }
    }

    pub const fn is_plain(&self) -> bool {
        self.displacement_mask == 0
    }
}

/// One source address of translated flows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NatSource {
    pub addr: Addr,
    /// A [`super::Family`]; 0 = unused.
    pub family: u32,
    pub reserved: u32,
}

impl NatSource {
    /// In place of an index into [`Config::sources`]: [`Config::shares`] says which one, flow by flow.
    pub const ANY: u16 = u16::MAX;
}

/// Source ports of translated flows: the union of ascending ranges that do not overlap. The `n`th port is `first + n`, and so much more as the gaps below it
/// leave out. The words are changed one by one, see [`NatPorts::before_gaps`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NatPorts {
    /// The lowest port, native order. One aligned word with `count` and the first gap.
    pub first: u16,
    /// Number of ports; 0 = no flow may begin.
    pub count: u16,
    /// Unused ones leave nothing out.
    pub gaps: [PortGap; NAT_RANGES - 1],
}

/// What lies between a range of ports and the next one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct PortGap {
    /// Number of ports in the ranges below it.
    pub from: u16,
    /// Number of ports that it leaves out.
    pub skip: u16,
}

impl NatPorts {
    /// These ranges, ascending and without overlap, of which those beyond [`NAT_RANGES`] are left out. Empty = no port.
    pub fn new(ranges: &[RangeInclusive<u16>]) -> Self {
        let ranges = ranges.get(..NAT_RANGES).unwrap_or(ranges);
        let Some(lowest) = ranges.first() else { return Self::default() };
        let length = |r: &RangeInclusive<u16>| r.end().wrapping_sub(*r.start()).wrapping_add(1);
        let mut ports = Self { first: *lowest.start(), count: length(lowest), ..Self::default() };
        for (gap, pair) in ports.gaps.iter_mut().zip(ranges.windows(2)) {
            let [below, above] = pair else { continue };
            *gap = PortGap { from: ports.count, skip: above.start().wrapping_sub(*below.end()).wrapping_sub(1) };
            ports.count = ports.count.wrapping_add(length(above));
        }
        ports
    }

    /// As many of these ports as no gap of both lies below, so that gaps of one may be changed to those of the other meanwhile.
    pub fn before_gaps(self, other: Self) -> Self {
        let below = |ports: Self| if ports.gaps[0].from == 0 { ports.count } else { ports.count.min(ports.gaps[0].from) };
        Self { count: below(self).min(below(other)), ..self }
    }
}

/// Limits and times of translation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NatConfig {
    /// A packet to another port is no reply: the lowest port that a flow has, native order, ...
    pub reply_first: u16,
    /// ... and the number of ports up to the highest one; 0 = translation is off.
    pub reply_count: u16,
    /// Number of elements of the flow map.
    pub flows: u32,
    /// Number of buckets of the index less one.
    pub bucket_mask: u32,
    /// Half-open flows that may exist at once.
    pub half_open_limit: u32,
    /// Idle times in ticks of [`NatConfig::TICK_SHIFT`]: a flow that is not established, ...
    pub half_open_ticks: u32,
    /// ... an established TCP flow, ...
    pub established_ticks: u32,
    /// ... a TCP flow that both sides have closed or one has reset, ...
    pub closed_ticks: u32,
    /// ... a TCP flow that one side has closed, ...
    pub closing_ticks: u32,
    /// ... a UDP flow.
    pub udp_ticks: u32,
    /// Number of buckets of remembered flows less one.
    pub remembered_mask: u32,
    /// Ports that new flows get.
    pub ports: NatPorts,
}

impl NatConfig {
    /// A tick is 2^27 ns (134 ms) of the kernel's coarse monotonic clock.
    pub const TICK_SHIFT: u32 = 27;
}

/// The one value that every packet reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Config {
    /// Which half of the VIP table is searched, as its offset in `halves`: 0 or [`VipHalf::STRIDE`], so that a packet need not multiply. The other one is
    /// free to be rebuilt once no packet can still be reading it.
    pub active: u32,
    /// [`Config::NAT`], [`Config::RANGES`], [`Config::DNAT`], [`Config::TUNNEL`].
    pub flags: u32,
    /// Key of the flow hash, secret; shared by all nodes that announce the same VIPs.
    pub hash_key: [u64; 2],
    /// Of which flows handshakes are watched: those whose hash has none of these bits.
    pub sample_mask: u32,
    /// Of which flows beginnings are told, see [`crate::flow_log::sample`]; 0 = of none.
    pub flow_sample: u32,
    pub halves: [VipHalf; 2],
    pub nat: NatConfig,
    pub ledger: LedgerConfig,
    pub sources: [NatSource; NAT_SOURCES],
    /// Indices into `sources` for flows to backends with [`NatSource::ANY`], by bits of the flow's hash; first for IPv4, then for IPv6. Each source stands there
    /// about equally often.
    pub shares: [[u8; NAT_SOURCES]; 2],
    pub displacements: [[u16; DISPLACEMENTS]; 2],
}

impl Config {
    /// [`Config::active`] where half `number` (0 or 1) is searched.
    pub const fn active(number: u32) -> u32 {
        number * VipHalf::STRIDE
    }

    /// Number (0 or 1) of the half that is searched by this [`Config::active`].
    pub const fn half_number(active: u32) -> u32 {
        (active / VipHalf::STRIDE) & 1
    }

    /// There are `nat` services: a packet for no VIP may be a reply.
    pub const NAT: u32 = 1;
    /// There are services of several ports: a packet that no VIP of its own port is found for is looked up again.
    pub const RANGES: u32 = 1 << 1;
    /// There are `dnat` services: a packet for no VIP may be a backend's answer.
    pub const DNAT: u32 = 1 << 2;
    /// There are `tunnel` services: an ICMP error for no VIP may be about an outer packet.
    pub const TUNNEL: u32 = 1 << 3;

    /// The mask that one flow of 16 passes.
    pub const SAMPLE_MASK: u32 = 15 << 24;
    /// The same for one of 4: while weights follow latency.
    pub const TIMED_MASK: u32 = 3 << 24;
}

const _: () = assert!(VipHalf::STRIDE.is_power_of_two());
const _: () = assert!(size_of::<Config>() == 8 + 16 + 8 + 64 + 56 + 16 + 24 * NAT_SOURCES + 2 * NAT_SOURCES + 4 * DISPLACEMENTS);
