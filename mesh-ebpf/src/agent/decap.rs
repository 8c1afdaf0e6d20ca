//! Outer headers come off: IPv4 or IPv6 in either, with or without UDP between (GUE).

use core::mem::offset_of;

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use mesh_common::{
    abi::{Addr, AgentStats, AgentVip, GUE_PORT, agent_v4},
    gue::{self, Head, Hop},
    put, read,
};

use crate::{
    chance::{self, Chance},
    entry::{IPV4, IPV6},
    maps,
    skb::Skb,
};

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decapped {
    /// It is none of ours, and untouched.
    Not,
    /// It goes to the host without its outer header.
    Done,
    Refused,
    /// It goes to another backend as it came.
    PassedOn,
}

pub const ETH: u32 = 14;
const IPIP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;
const UDP_LEN: u32 = 8;

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` and `_IPV6`: what is left is of that family (Linux 6.3).
const DECAP_IPV4: u64 = 1 << 7;
const DECAP_IPV6: u64 = 1 << 8;

/// The outer header of a packet.
pub struct Outer {
    pub ether_type: u16,
    pub dst: Addr,
    /// Number of the header behind.
    protocol: u8,
    class: u8,
    /// Bytes of the IP header.
    pub len: u32,
}

/// The packet inside.
pub struct Inner {
    pub ether_type: u16,
    dst: Addr,
    class: u8,
    /// Bytes of outer headers in front of it.
    pub at: u32,
}

#[inline(always)]
pub fn ipv4(skb: &Skb) -> Decapped {
    const MORE_OR_OFFSET: u16 = 0x3fff;
    let Some(ip) = skb.load::<20>(ETH) else { return Decapped::Not };
    let [vihl, class, _, _, _, _, f0, f1, _, protocol, _, _, _, _, _, _, a, b, c, d] = ip;
    if u16::from_be_bytes([f0, f1]) & MORE_OR_OFFSET != 0 || vihl & 0xf < 5 {
        return Decapped::Not;
    }
    let len = (vihl & 0xf) as u32 * 4;
    outer(skb, Outer { ether_type: IPV4, dst: agent_v4([a, b, c, d]), protocol, class, len })
}

#[inline(always)]
pub fn ipv6(skb: &Skb) -> Decapped {
    let Some(start) = skb.load::<8>(ETH) else { return Decapped::Not };
    if !matches!(start[6], IPIP | IPV6_IN_IP | UDP) {
        return Decapped::Not;
    }
    let Some(dst) = skb.load::<16>(ETH + 24) else { return Decapped::Not };
    outer(skb, Outer { ether_type: IPV6, dst: Addr(dst), protocol: start[6], class: start[0] << 4 | start[1] >> 4, len: 40 })
}

#[inline(always)]
fn outer(skb: &Skb, outer: Outer) -> Decapped {
    let gue = match outer.protocol {
        IPIP | IPV6_IN_IP => false,
        UDP if skb.load::<2>(ETH + outer.len + 2) == Some(GUE_PORT) => true,
        _ => return Decapped::Not,
    };
    if !maps::own(&outer.dst) {
        return Decapped::Not;
    }
    let Some((inner, hop)) = (if gue { inside_gue(skb, &outer) } else { inside_ip(skb, &outer) }) else {
        maps::count::<{ offset_of!(AgentStats, refused) }>(1);
        return Decapped::Refused;
    };
    let Some(vip) = maps::vip(&inner.dst) else {
        maps::count::<{ offset_of!(AgentStats, foreign) }>(1);
        return Decapped::Not;
    };
    // A packet whose slot is on its way may name who else has its flow: room for that is left from the start.
    let most = if gue { outer.len + UDP_LEN + gue::room(outer.ether_type == IPV6) as u32 } else { outer.len };
    if read!(vip, AgentVip.overhead as u32) < most {
        put!(vip, AgentVip.overhead as u32, most);
    }
    if hop != Hop::Unsaid {
        match chance::take(skb, &outer, &inner, hop) {
            Chance::Here => {}
            Chance::PassedOn => return Decapped::PassedOn,
            Chance::Failed => {
                maps::count::<{ offset_of!(AgentStats, failed) }>(1);
                return Decapped::Refused;
            }
        }
    }
    if !marks(skb, &inner, outer.class) {
        maps::count::<{ offset_of!(AgentStats, refused) }>(1);
        return Decapped::Refused;
    }
    take_off(skb, &inner, outer.ether_type)
}

#[inline(always)]
fn inside_ip(skb: &Skb, outer: &Outer) -> Option<(Inner, Hop)> {
    Some((inside(skb, outer.protocol, outer.len)?, Hop::Unsaid))
}

#[inline(always)]
fn inside_gue(skb: &Skb, outer: &Outer) -> Option<(Inner, Hop)> {
    let at = outer.len + UDP_LEN;
    let Head { len, protocol, hop } = gue::read(skb, ETH + at, outer.ether_type == IPV6)?;
    Some((inside(skb, protocol, at + len)?, hop))
}

/// The packet `at` bytes behind the Ethernet header, if it is one, and of the family that the header in front says.
#[inline(always)]
fn inside(skb: &Skb, protocol: u8, at: u32) -> Option<Inner> {
    let start = skb.load::<2>(ETH + at)?;
    match start[0] >> 4 {
        4 if protocol != IPV6_IN_IP => {
            let dst = agent_v4(skb.load::<4>(ETH + at + 16)?);
            Some(Inner { ether_type: IPV4, dst, class: start[1], at })
        }
        6 if protocol != IPIP => {
            let dst = Addr(skb.load::<16>(ETH + at + 24)?);
            Some(Inner { ether_type: IPV6, dst, class: start[0] << 4 | start[1] >> 4, at })
        }
        _ => None,
    }
}

/// Has a mark of congestion that the outer header got on its way be seen (RFC 6040 section 4.2). Whether the packet may go on: one that knows no
/// marks has to be dropped instead.
#[inline(always)]
fn marks(skb: &Skb, inner: &Inner, class: u8) -> bool {
    const CONGESTED: u8 = 3;
    if class & 3 != CONGESTED || inner.class & 3 == CONGESTED {
        return true;
    }
    if inner.class & 3 == 0 {
        return false;
    }
    let at = ETH + inner.at;
    let Some(old) = skb.load::<2>(at) else { return false };
    let marked = inner.class | CONGESTED;
    if inner.ether_type == IPV4 {
        let new = [old[0], marked];
        skb.replace_in_l3_checksum(at + 10, u16::from_ne_bytes(old), u16::from_ne_bytes(new)).is_some() && skb.store(at, new, 0).is_some()
    } else {
        let new = [old[0] & 0xf0 | marked >> 4, marked << 4 | old[1] & 0x0f];
        skb.store(at, new, BPF_F_RECOMPUTE_CSUM as u64).is_some()
    }
}

#[inline(always)]
fn take_off(skb: &Skb, inner: &Inner, ether_type: u16) -> Decapped {
    let flags = match inner.ether_type {
        same if same == ether_type => 0,
        IPV4 => DECAP_IPV4,
        _ => DECAP_IPV6,
    };
    if skb.shrink(inner.at, flags).is_none() || skb.store(ETH - 2, inner.ether_type.to_ne_bytes(), 0).is_none() {
        maps::count::<{ offset_of!(AgentStats, failed) }>(1);
        return Decapped::Refused;
    }
    maps::count::<{ offset_of!(AgentStats, packets) }>(1);
    maps::count::<{ offset_of!(AgentStats, bytes) }>(skb.len() as u64);
    Decapped::Done
}
