//! Questions: what is sent to a backend's address becomes a packet to the VIP, as the packet path would send it.

use mesh_common::{
    abi::{
        Family,
        probe::{self, Ends, MAX_ID, PULSE, ProbeWay, TAG, TAG_MASK},
    },
    flow::{V4, V6},
    rewrite::{Encap, Outer, constant_sum, outer_protocol},
};

use crate::{
    maps,
    segment::{ECHO, Segment, TCP, UDP},
    skb::Skb,
};

pub const ETH: u32 = 14;
const IPV4_HEADER: u32 = 20;
pub const IPV6_HEADER: u32 = 40;
const UDP_HEADER: usize = 8;
/// Fields of IPv4 headers; the second is the time to live and the protocol.
pub const V4_FRAGMENT: u32 = ETH + 6;
pub const V4_LIFE: u32 = ETH + 8;
pub const V4_CHECKSUM: u32 = ETH + 10;
pub const V4_SRC: u32 = ETH + 12;
pub const V4_DST: u32 = ETH + 16;
/// Fields of IPv6 headers; the first is the length, the next header and the hop limit.
pub const V6_LENGTH: u32 = ETH + 4;
pub const V6_SRC: u32 = ETH + 8;
pub const V6_DST: u32 = ETH + 24;
/// Source ports of GUE, as the packet path has them.
const FIRST_PORT: u16 = 0xc000;

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Led {
    /// It is no probe, and untouched.
    Not,
    Done,
    /// It is one, and can't go the way that it has to.
    Lost,
}

#[inline(always)]
pub fn ipv4(skb: &Skb) -> Led {
    let (Some(from), Some(to), Some(life), Some(header)) = (skb.load(V4_SRC), skb.load(V4_DST), skb.load::<u16>(V4_LIFE), v4_header(skb))
    else {
        return Led::Not;
    };
    match chosen(skb, (life >> 8) as u8, ETH + header, probe::v4(from), probe::v4(to)) {
        Ok((segment, way)) => done(lead_ipv4(skb, &segment, &way, ETH + header, from, to)),
        Err(led) => led,
    }
}

#[inline(always)]
pub fn ipv6(skb: &Skb) -> Led {
    let (Some(from), Some(to), Some(length)) = (skb.load::<Ends>(V6_SRC), skb.load::<Ends>(V6_DST), skb.load::<u32>(V6_LENGTH)) else {
        return Led::Not;
    };
    match chosen(skb, (length >> 16) as u8, ETH + IPV6_HEADER, from, to) {
        Ok((segment, way)) => done(lead_ipv6(skb, &segment, &way, from, to)),
        Err(led) => led,
    }
}

#[inline(always)]
fn done(led: Option<()>) -> Led {
    if led.is_some() { Led::Done } else { Led::Lost }
}

/// Bytes of an IPv4 header.
#[inline(always)]
pub fn v4_header(skb: &Skb) -> Option<u32> {
    Some((skb.load::<u16>(ETH)? & 0xf) as u32 * 4)
}

#[inline(always)]
fn lead_ipv4(skb: &Skb, segment: &Segment, way: &ProbeWay, l4: u32, from: u32, to: u32) -> Option<()> {
    const MORE_OR_OFFSET: u16 = 0x3fff_u16.to_be();
    if skb.load::<u16>(V4_FRAGMENT)? & MORE_OR_OFFSET != 0 {
        return None;
    }
    let vip = probe::as_v4(way.vip);
    if let Some(at) = segment.checksum() {
        skb.replace_v4(l4 + at, to, vip)?;
    }
    skb.replace_in_l3_checksum(V4_CHECKSUM, to, vip)?;
    skb.store(V4_DST, vip)?;
    if way.flags & ProbeWay::ENCAP == 0 {
        return Some(());
    }
    let (src, dst) = (V4(if way.source == [0; 2] { from } else { probe::as_v4(way.source) }), V4(to));
    let sum = constant_sum(src, dst, outer_protocol(way.flags & ProbeWay::GUE != 0, Family::V4));
    let class = (skb.load::<u16>(ETH)? >> 8) as u8;
    let encap = encap(skb, way, segment, Outer::V4 { src, dst, sum, hop: None }, class, Family::V4);
    let [first, second, third] = encap.ipv4_words(src, dst, sum);
    skb.grow(encap.room(), false, encap.udp.is_some())?;
    skb.store(ETH, first)?;
    skb.store(ETH + 8, second)?;
    skb.store(ETH + 16, third as u32)?;
    store_udp(skb, ETH + IPV4_HEADER, &encap)
}

#[inline(always)]
fn lead_ipv6(skb: &Skb, segment: &Segment, way: &ProbeWay, from: Ends, to: Ends) -> Option<()> {
    if let Some(at) = segment.checksum() {
        skb.replace_v6(ETH + IPV6_HEADER + at, to, way.vip, segment.proto == UDP as u64)?;
    }
    skb.store(V6_DST, way.vip)?;
    if way.flags & ProbeWay::ENCAP == 0 {
        return Some(());
    }
    let (src, dst) = (V6(if way.source == [0; 2] { from } else { way.source }), V6(to));
    let class = (u32::from_be(skb.load::<u32>(ETH)?) >> 20) as u8;
    let encap = encap(skb, way, segment, Outer::V6 { src, dst, hop: None }, class, Family::V6);
    let [a, b, c, d, e] = encap.ipv6_words(src, dst);
    skb.grow(encap.room(), true, encap.udp.is_some())?;
    skb.store(ETH, a)?;
    skb.store(ETH + 8, b)?;
    skb.store(ETH + 16, c)?;
    skb.store(ETH + 24, d)?;
    skb.store(ETH + 32, e)?;
    store_udp(skb, ETH + IPV6_HEADER, &encap)
}

/// The way that a packet has to take: as its socket says, or, for an answer of the kernel's own that no socket stands behind, as what it answers came.
#[inline(always)]
fn chosen(skb: &Skb, proto: u8, l4: u32, local: Ends, remote: Ends) -> Result<(Segment, ProbeWay), Led> {
    let tag = skb.priority();
    if tag & TAG_MASK != TAG {
        if proto != TCP {
            return Err(Led::Not);
        }
        let segment = Segment::read(skb, proto, l4, ECHO).filter(Segment::resets).ok_or(Led::Not)?;
        let number = |n| maps::way_of(&segment.flow(local, remote, segment.ports, n));
        let way = number(0).or_else(|| number(segment.seq as u32)).filter(|way| way.backend == remote).ok_or(Led::Not)?;
        return Ok((segment, way));
    }
    let id = tag & MAX_ID;
    let way = maps::way(id).filter(|way| way.backend == remote).ok_or(Led::Not)?;
    skb.clear_priority();
    let segment = Segment::read(skb, proto, l4, ECHO).ok_or(Led::Lost)?;
    let number = if tag & PULSE != 0 { segment.expected() } else { 0 };
    maps::learn(&segment.flow(local, way.vip, segment.ports, number), id);
    if proto == TCP {
        maps::learn(&segment.flow(local, remote, segment.ports, number), id);
    }
    Ok((segment, way))
}

#[inline(always)]
fn encap(skb: &Skb, way: &ProbeWay, segment: &Segment, outer: Outer, class: u8, inner: Family) -> Encap {
    let port = (FIRST_PORT | u16::from_be(segment.ports[0] as u16) & !FIRST_PORT).to_be();
    let udp = (way.flags & ProbeWay::GUE != 0).then_some(port);
    Encap { outer, l3: ETH as usize, len: skb.len().wrapping_sub(ETH) as u16, class, inner, udp, label: segment.ports[0] as u32 }
}

#[inline(always)]
fn store_udp(skb: &Skb, at: u32, encap: &Encap) -> Option<()> {
    let Some(port) = encap.udp else { return Some(()) };
    let mut header = [0; UDP_HEADER];
    encap.udp::<0, UDP_HEADER>(&mut header, port);
    skb.store(at, u64::from_ne_bytes(header))
}
