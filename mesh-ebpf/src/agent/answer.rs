//! SYN-ACKs of VIPs: the client is told to send segments that still fit with outer headers in front.

use core::mem::offset_of;

use mesh_common::{
    abi::{Addr, AgentLink, AgentStats, AgentVip, agent_v4},
    read,
};

use crate::{maps, skb::Skb};

const ETH: u32 = 14;
const TCP: u8 = 6;
const TCP_HEADER: u32 = 20;
const CHECKSUM: u32 = 16;
/// Options that are looked at; hosts put the MSS first.
const OPTIONS: usize = 10;

#[inline(always)]
pub fn ipv4(skb: &Skb) {
    let Some(ip) = skb.load::<20>(ETH) else { return };
    let l4 = ETH + (ip[0] & 0xf) as u32 * 4;
    if ip[9] == TCP && is_syn_ack(skb, l4) {
        let [.., a, b, c, d, _, _, _, _] = ip;
        clamp(skb, l4, &agent_v4([a, b, c, d]), 20 + TCP_HEADER);
    }
}

#[inline(always)]
pub fn ipv6(skb: &Skb) {
    let Some([next]) = skb.load::<1>(ETH + 6) else { return };
    if next == TCP && is_syn_ack(skb, ETH + 40) {
        let Some(src) = skb.load::<16>(ETH + 8) else { return };
        clamp(skb, ETH + 40, &Addr(src), 40 + TCP_HEADER);
    }
}

#[inline(always)]
fn is_syn_ack(skb: &Skb, l4: u32) -> bool {
    const SYN_ACK: u8 = 0x12;
    const SYN_ACK_RST_FIN: u8 = SYN_ACK | 0x05;
    skb.load::<1>(l4 + 13).is_some_and(|[flags]| flags & SYN_ACK_RST_FIN == SYN_ACK)
}

/// Lowers the MSS option to what fits with `headers` and the outer headers that packets for this VIP come in.
#[inline(always)]
fn clamp(skb: &Skb, l4: u32, vip: &Addr, headers: u32) {
    let (Some(vip), Some(link)) = (maps::vip(vip), maps::link(skb.ifindex())) else { return };
    let (overhead, mtu) = (read!(vip, AgentVip.overhead as u32), read!(link, AgentLink.mtu as u32));
    if overhead == 0 || mtu <= overhead + headers {
        return;
    }
    let most = (mtu - overhead - headers).min(u16::MAX as u32) as u16;
    let Some([words]) = skb.load::<1>(l4 + 12) else { return };
    let end = l4 + (words >> 4) as u32 * 4;
    let Some(at) = find_mss(skb, l4 + TCP_HEADER, end) else { return };
    let Some(old) = skb.load::<2>(at) else { return };
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    // An option may begin at an odd place; its word then lies across two of the sum, whose bytes change places.
    let (from, to) = if (at - l4) & 1 == 0 {
        (u16::from_ne_bytes(old), u16::from_ne_bytes(new))
    } else {
        (u16::from_ne_bytes(old).swap_bytes(), u16::from_ne_bytes(new).swap_bytes())
    };
    if skb.replace_in_l4_checksum(l4 + CHECKSUM, from, to).is_some() && skb.store(at, new, 0).is_some() {
        maps::count::<{ offset_of!(AgentStats, clamped) }>(1);
    }
}

/// Where the MSS option's value is (RFC 9293 section 3.2).
#[inline(always)]
fn find_mss(skb: &Skb, from: u32, end: u32) -> Option<u32> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let mut at = from;
    for _ in 0..OPTIONS {
        if at + 4 > end {
            return None;
        }
        match skb.load::<2>(at)? {
            [MSS, 4] => return Some(at + 2),
            [END, _] => return None,
            [NOTHING, _] => at += 1,
            [_, length] if length >= 2 => at += length as u32,
            _ => return None,
        }
    }
    None
}
