//! From a verdict to changed bytes.
//!
//! What is to be changed is an [`Edit`]; how it is done depends on who holds the frame. [`by_stores`] is for those who hold plain bytes.

mod encap;

use core::mem::offset_of;

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    checksum,
    flow::{Address, Tuple, V4, V6},
    packet::{PacketMut, u16_at, u32_at, u64_at},
};

pub(crate) use encap::class_of;
pub use encap::{Encap, Outer, constant_sum, outer_protocol};

/// A frame whose holder can carry out an [`Edit`].
pub trait Rewrite {
    /// Whether all of it was done; if not, the frame is spoiled. `room`: [`Network::room`] of what `edit` will say, which is asked when the frame has
    /// grown.
    #[must_use]
    fn rewrite(&mut self, room: usize, edit: impl FnOnce() -> Edit) -> bool;
}

/// What is changed in a frame that is sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edit {
    pub macs: Macs,
    pub network: Network,
}

/// The Ethernet addresses, each in the low 48 bits as it lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Macs {
    pub dst: u64,
    pub src: u64,
}

/// What is changed behind the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    Untouched,
    V4(Translation<V4>),
    V6(Translation<V6>),
    Encap(Encap),
}

/// New addresses and ports, with the checksums that cover them; the TTL or hop limit goes down by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation<A> {
    pub tuple: Tuple<A>,
    /// Offsets of the IP header and of the TCP or UDP header.
    pub l3: usize,
    pub l4: usize,
    pub tcp: bool,
}

impl Macs {
    /// Both as they stand in the frame.
    #[inline(always)]
    pub const fn words(self) -> (u64, u32) {
        (self.dst & MAC | self.src << 48, ((self.src & MAC) >> 16) as u32)
    }

    /// Writes both to the first bytes of a frame. The first store goes beyond the first address, where the second one then stands: that is cheaper than
    /// to put their words together.
    #[inline(always)]
    fn put<const N: usize>(self, frame: &mut [u8; N]) {
        set(frame, 0, self.dst.to_ne_bytes());
        set(frame, 6, (self.src as u32).to_ne_bytes());
        set(frame, 10, ((self.src >> 32) as u16).to_ne_bytes());
    }
}

const MAC: u64 = 0xffff_ffff_ffff;

/// The checksum's offset within a TCP or UDP header.
pub const fn checksum_offset(tcp: bool) -> usize {
    if tcp { offset_of!(TcpHdr, check) } else { offset_of!(UdpHdr, check) }
}

impl Network {
    /// Bytes that the frame grows by.
    #[inline(always)]
    pub const fn room(&self) -> usize {
        match self {
            Self::Encap(encap) => encap.room(),
            _ => 0,
        }
    }
}

/// Carries out an edit by plain stores.
#[inline(always)]
pub fn by_stores<P: PacketMut>(packet: &mut P, room: usize, edit: impl FnOnce() -> Edit) -> bool {
    if room != 0 && !packet.grow(room) {
        return false;
    }
    // Only now: to make room takes a call, and what was read before would have to be kept over that.
    let edit = edit();
    let translated = match &edit.network {
        Network::Untouched => Some(()),
        Network::V4(to) => translate(packet, to, ipv4),
        Network::V6(to) => translate(packet, to, ipv6),
        Network::Encap(encap) => return encap::put(packet, edit.macs, encap).is_some(),
    };
    let Some(ethernet) = packet.at_mut::<12>(0) else { return false };
    edit.macs.put(ethernet);
    translated.is_some()
}

/// `network` changes the IP header and tells what that adds to the sum below the transport's checksum.
#[inline(always)]
fn translate<A: Address, P: PacketMut>(
    packet: &mut P,
    to: &Translation<A>,
    network: impl FnOnce(&mut P, &Translation<A>) -> Option<u64>,
) -> Option<()> {
    let delta = network(packet, to)?;
    if to.tcp {
        const CHECK: usize = offset_of!(TcpHdr, check);
        let header = packet.at_mut::<{ CHECK + 2 }>(to.l4)?;
        let delta = delta + checksum::replaced(u32_at::<0, _>(header), to.tuple.ports);
        let check = checksum::apply(u16_at::<CHECK, _>(header), delta);
        set(header, 0, to.tuple.ports.to_ne_bytes());
        set(header, CHECK, check.to_ne_bytes());
    } else {
        const CHECK: usize = offset_of!(UdpHdr, check);
        let header = packet.at_mut::<{ CHECK + 2 }>(to.l4)?;
        let delta = delta + checksum::replaced(u32_at::<0, _>(header), to.tuple.ports);
        let check = checksum::apply_udp(u16_at::<CHECK, _>(header), delta);
        set(header, 0, to.tuple.ports.to_ne_bytes());
        set(header, CHECK, check.to_ne_bytes());
    }
    Some(())
}

#[inline(always)]
fn ipv4<P: PacketMut>(packet: &mut P, to: &Translation<V4>) -> Option<u64> {
    const TTL: usize = offset_of!(Ipv4Hdr, ttl);
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    const SRC: usize = offset_of!(Ipv4Hdr, src_addr);
    const DST: usize = offset_of!(Ipv4Hdr, dst_addr);
    let ip = packet.at_mut::<{ Ipv4Hdr::LEN }>(to.l3)?;
    let delta = checksum::replaced(u32_at::<SRC, _>(ip), to.tuple.src.0) + checksum::replaced(u32_at::<DST, _>(ip), to.tuple.dst.0);
    // TTL and protocol share a 16-bit word of the header.
    let old = u16_at::<TTL, _>(ip);
    let new = old.wrapping_sub(1);
    let check = checksum::apply(u16_at::<CHECK, _>(ip), delta + (!old) as u64 + new as u64);
    set(ip, TTL, (new as u32 | (check as u32) << 16).to_ne_bytes());
    set(ip, SRC, (to.tuple.src.0 as u64 | (to.tuple.dst.0 as u64) << 32).to_ne_bytes());
    Some(delta)
}

#[inline(always)]
fn ipv6<P: PacketMut>(packet: &mut P, to: &Translation<V6>) -> Option<u64> {
    const HOPS: usize = offset_of!(Ipv6Hdr, hop_limit);
    const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
    const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    let ip = packet.at_mut::<{ Ipv6Hdr::LEN }>(to.l3)?;
    let src = V6([u64_at::<SRC, _>(ip), u64_at::<{ SRC + 8 }, _>(ip)]);
    let dst = V6([u64_at::<DST, _>(ip), u64_at::<{ DST + 8 }, _>(ip)]);
    let delta = src.sum::<true>() + dst.sum::<true>() + to.tuple.src.sum::<false>() + to.tuple.dst.sum::<false>();
    ip[HOPS] = ip[HOPS].wrapping_sub(1);
    set(ip, SRC, to.tuple.src.0[0].to_ne_bytes());
    set(ip, SRC + 8, to.tuple.src.0[1].to_ne_bytes());
    set(ip, DST, to.tuple.dst.0[0].to_ne_bytes());
    set(ip, DST + 8, to.tuple.dst.0[1].to_ne_bytes());
    Some(delta)
}

/// Writes `value` at a constant offset that lies within; elsewhere nothing.
#[inline(always)]
fn set<const N: usize, const M: usize>(bytes: &mut [u8; N], at: usize, value: [u8; M]) {
    if let Some(place) = bytes.get_mut(at..at + M) {
        place.copy_from_slice(&value);
    }
}
