//! A backend owns the VIP quietly: nobody on the link is to take it for the balancer (RFC 826's fields, for Ethernet and IPv4).

use core::mem::offset_of;

use mesh_common::{
    abi::{AgentLink, AgentStats, AgentVip, agent_v4},
    read,
};

use crate::{maps, skb::Skb};

/// Sender's and target's address.
const SENDER: u32 = 14 + 14;
const TARGET: u32 = 14 + 24;

/// Somebody asks who has a VIP that this node must not answer for.
#[inline(always)]
pub fn asks_for_vip(skb: &Skb) -> bool {
    let asks = guarded(skb, TARGET);
    if asks {
        maps::count::<{ offset_of!(AgentStats, arp) }>(1);
    }
    asks
}

/// What this node asks or says as a VIP, it asks by the interface's own address.
#[inline(always)]
pub fn speak_for_oneself(skb: &Skb) {
    if !guarded(skb, SENDER) {
        return;
    }
    let Some(link) = maps::link(skb.ifindex()) else { return };
    let own = read!(link, AgentLink.v4 as u32);
    if own != 0 && skb.store(SENDER, own.to_ne_bytes(), 0).is_some() {
        maps::count::<{ offset_of!(AgentStats, arp) }>(1);
    }
}

#[inline(always)]
fn guarded(skb: &Skb, at: u32) -> bool {
    let Some(octets) = skb.load::<4>(at) else { return false };
    maps::vip(&agent_v4(octets)).is_some_and(|vip| read!(vip, AgentVip.guard as u32) != 0)
}
