//! The second chance: a segment of a connection that this node knows nothing of goes to whoever else may have it, as the list in its GUE header says.

use core::mem::offset_of;

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use mesh_common::{
    abi::{Addr, AgentStats, agent_v4},
    gue::{self, Hop},
};

use crate::{
    decap::{ETH, Inner, Outer},
    entry::{IPV4, IPV6},
    maps,
    skb::Skb,
};

/// What became of a packet that came with a list.
pub enum Chance {
    /// This node takes it, whether it knows its connection or not.
    Here,
    /// It is changed, and to be sent on.
    PassedOn,
    /// It could not be changed as a whole.
    Failed,
}

const TCP: u8 = 6;
const TCP_LEN: u32 = 20;
const SYN: u8 = 0x02;

#[inline(always)]
pub fn take(skb: &Skb, outer: &Outer, inner: &Inner, hop: Hop) -> Chance {
    let at = ETH + inner.at;
    let found = if inner.ether_type == IPV4 { ipv4(skb, at) } else { ipv6(skb, at) };
    let Some(has) = found else { return Chance::Here };
    if has {
        maps::count::<{ offset_of!(AgentStats, local) }>(1);
        return Chance::Here;
    }
    let Hop::Next { at, number } = hop else {
        maps::count::<{ offset_of!(AgentStats, used_up) }>(1);
        return Chance::Here;
    };
    pass_on(skb, outer, ETH + outer.len + 8, at, number)
}

/// Whether the segment at `at` is of a connection of this node; `None`: it is none that another node could know.
#[inline(always)]
fn ipv4(skb: &Skb, at: u32) -> Option<bool> {
    const MORE_OR_OFFSET: u16 = 0x3fff;
    let ip = skb.load::<20>(at)?;
    let [vihl, _, _, _, _, _, f0, f1, _, protocol, _, _, a, b, c, d, e, f, g, h] = ip;
    if protocol != TCP || u16::from_be_bytes([f0, f1]) & MORE_OR_OFFSET != 0 {
        return None;
    }
    let tcp = segment(skb, at + (vihl & 0xf) as u32 * 4)?;
    let [p, q, r, s, ..] = tcp;
    Some(skb.has_socket([a, b, c, d, e, f, g, h, p, q, r, s], ip, tcp))
}

#[inline(always)]
fn ipv6(skb: &Skb, at: u32) -> Option<bool> {
    const LEN: u32 = 40;
    let ip = skb.load::<40>(at)?;
    if ip[6] != TCP {
        return None;
    }
    let tcp = segment(skb, at + LEN)?;
    let mut tuple = [0; 36];
    tuple[..32].copy_from_slice(&ip[8..]);
    tuple[32..].copy_from_slice(&tcp[..4]);
    Some(skb.has_socket(tuple, ip, tcp))
}

/// A TCP header in the midst of a connection: a SYN begins one, with whoever gets it.
#[inline(always)]
fn segment(skb: &Skb, at: u32) -> Option<[u8; TCP_LEN as usize]> {
    skb.load(at).filter(|tcp: &[u8; TCP_LEN as usize]| tcp[13] & SYN == 0)
}

/// The outer header becomes one from this node to the list's next address, and the list tells that this one had it. `gue`: where GUE begins.
#[inline(always)]
fn pass_on(skb: &Skb, outer: &Outer, gue: u32, at: u32, number: u8) -> Chance {
    let done = if outer.ether_type == IPV6 { ipv6_to(skb, &outer.dst, gue + at) } else { ipv4_to(skb, gue + at) };
    match done {
        None => Chance::Failed,
        Some(false) => {
            maps::count::<{ offset_of!(AgentStats, not_peer) }>(1);
            Chance::Here
        }
        Some(true) => match note(skb, gue, number) {
            Some(()) => {
                maps::count::<{ offset_of!(AgentStats, passed_on) }>(1);
                Chance::PassedOn
            }
            None => Chance::Failed,
        },
    }
}

/// A checksum over what is changed here would have to be changed with it: tunnels may leave it out (RFC 6935 section 5).
#[inline(always)]
fn note(skb: &Skb, gue: u32, number: u8) -> Option<()> {
    skb.store(gue + gue::NEXT, [number + 1], BPF_F_RECOMPUTE_CSUM as u64)?;
    skb.store(gue - 2, [0, 0], BPF_F_RECOMPUTE_CSUM as u64)
}

/// Packets may be passed on to this address: it is a peer's, and not our own.
#[inline(always)]
fn may(to: &Addr) -> bool {
    maps::peer(to) && !maps::own(to)
}

/// Whether packets may be passed on to the address at `hop`; then they are addressed to it.
#[inline(always)]
fn ipv4_to(skb: &Skb, hop: u32) -> Option<bool> {
    const CHECK: u32 = 10;
    const SRC: u32 = 12;
    let to = skb.load::<4>(hop)?;
    if !may(&agent_v4(to)) {
        return Some(false);
    }
    let [a, b, c, d, e, f, g, h] = skb.load::<8>(ETH + SRC)?;
    // Our own address moves from one field to the other.
    skb.replace_word_in_l3_checksum(ETH + CHECK, [a, b, c, d], to)?;
    let [i, j, k, l] = to;
    skb.store(ETH + SRC, [e, f, g, h, i, j, k, l], 0)?;
    Some(true)
}

#[inline(always)]
fn ipv6_to(skb: &Skb, own: &Addr, hop: u32) -> Option<bool> {
    const SRC: u32 = 8;
    const DST: u32 = 24;
    let to = skb.load::<16>(hop)?;
    if !may(&Addr(to)) {
        return Some(false);
    }
    skb.store(ETH + SRC, own.0, BPF_F_RECOMPUTE_CSUM as u64)?;
    skb.store(ETH + DST, to, BPF_F_RECOMPUTE_CSUM as u64)?;
    Some(true)
}
