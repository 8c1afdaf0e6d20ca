//! Answers: what a VIP says to a probe comes from the backend that was asked.

use mesh_common::abi::probe::{self, Ends, ProbeWay};

use crate::{
    egress::{ETH, IPV6_HEADER, V4_CHECKSUM, V4_DST, V4_FRAGMENT, V4_LIFE, V4_SRC, V6_DST, V6_LENGTH, V6_SRC, v4_header},
    maps,
    segment::{ECHO_REPLY, Segment, TCP, UDP},
    skb::Skb,
};

#[inline(always)]
pub fn ipv4(skb: &Skb) -> Option<()> {
    const OFFSET: u16 = 0x1fff_u16.to_be();
    let from = skb.load::<u32>(V4_SRC)?;
    if !maps::is_vip(&probe::v4(from)) || skb.load::<u16>(V4_FRAGMENT)? & OFFSET != 0 {
        return None;
    }
    let (local, proto) = (probe::v4(skb.load::<u32>(V4_DST)?), (skb.load::<u16>(V4_LIFE)? >> 8) as u8);
    let l4 = ETH + v4_header(skb)?;
    let (segment, way) = asked(skb, proto, l4, probe::v4(from), local)?;
    let to = probe::as_v4(way.backend);
    if let Some(at) = segment.checksum() {
        skb.replace_v4(l4 + at, from, to)?;
    }
    skb.replace_in_l3_checksum(V4_CHECKSUM, from, to)?;
    skb.store(V4_SRC, to)
}

#[inline(always)]
pub fn ipv6(skb: &Skb) -> Option<()> {
    let from = skb.load::<Ends>(V6_SRC)?;
    if !maps::is_vip(&from) {
        return None;
    }
    let (local, proto) = (skb.load::<Ends>(V6_DST)?, (skb.load::<u32>(V6_LENGTH)? >> 16) as u8);
    let (segment, way) = asked(skb, proto, ETH + IPV6_HEADER, from, local)?;
    if let Some(at) = segment.checksum() {
        skb.replace_v6(ETH + IPV6_HEADER + at, from, way.backend, proto == UDP)?;
    }
    skb.store(V6_SRC, way.backend)
}

/// The way of the probe that this answers.
#[inline(always)]
fn asked(skb: &Skb, proto: u8, l4: u32, vip: Ends, local: Ends) -> Option<(Segment, ProbeWay)> {
    let segment = Segment::read(skb, proto, l4, ECHO_REPLY)?;
    // Of an echo both ends have one identifier.
    let ports = if matches!(proto, UDP | TCP) { [segment.ports[1], segment.ports[0]] } else { segment.ports };
    let way = match maps::way_of(&segment.flow(local, vip, ports, 0)) {
        Some(way) => way,
        None if segment.answers() => maps::way_of(&segment.flow(local, vip, ports, segment.ack as u32))?,
        None => return None,
    };
    (way.vip == vip).then_some((segment, way))
}
