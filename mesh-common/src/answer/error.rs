//! An ICMP error that quotes the packet that it is about.

use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::{
    answer::Answered,
    checksum,
    icmp::{HEADER, turn_around},
    outline::Outline,
    patch::{Patch, QUOTE, Quote},
    put, read,
    shared::{Shared, blurred, in_order},
    tables::Tables,
};

/// Errors a CPU says in a tick (134 ms) at most: "a node MUST limit the rate of ICMPv6 error messages it originates" (RFC 4443 section 2.4).
const IN_A_TICK: u32 = 128;

/// How many errors this CPU has said lately.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Said {
    tick: u32,
    count: u32,
}

/// Turns the packet whose IP header is at `l3` into an error about itself, if it can: `kind` is type and code, `mtu` counts for "too big".
#[inline(never)]
pub(crate) fn send<A: Answered, P: Patch, T: Tables>(packet: &mut P, tables: &T, l3: usize, kind: [u8; 2], mtu: u16) -> bool {
    turn::<A, P, T>(packet, tables, l3, kind, mtu).is_some()
}

#[inline(always)]
fn turn<A: Answered, P: Patch, T: Tables>(packet: &mut P, tables: &T, l3: usize, kind: [u8; 2], mtu: u16) -> Option<()> {
    let ip = A::outline(packet, l3)?;
    put::<A, P, T>(packet, tables, ip.l3, &ip, ip.end.checked_sub(ip.l3)?, kind, mtu)
}

/// Turns an error about an outer packet, whose IP header is at `l3`, into "too big" about the packet inside, of which `len` bytes are quoted from `from`
/// on. Both go the same way: who sent the error routes this one as well.
#[inline(never)]
pub(crate) fn pass_on<A: Answered, P: Patch, T: Tables>(packet: &mut P, tables: &T, l3: usize, inside: (usize, usize), mtu: u16) -> bool {
    let (from, len) = inside;
    let Some(ip) = A::outline(packet, from) else { return false };
    put::<A, P, T>(packet, tables, l3, &ip, len, A::TOO_BIG, mtu).is_some()
        // In range as a verifier sees it; no frame's IP header begins before byte 14.
        && packet.patch(blurred::<0x1f>((l3 as u64).wrapping_sub(2), from as u64), A::ETHER_TYPE.to_ne_bytes())
}

/// Puts an error at `l3` about the packet `ip`, of which `len` bytes are there.
#[inline(always)]
fn put<A: Answered, P: Patch, T: Tables>(
    packet: &mut P,
    tables: &T,
    l3: usize,
    ip: &Outline<A>,
    len: usize,
    kind: [u8; 2],
    mtu: u16,
) -> Option<()> {
    let room = tables.quote()?;
    let quoted = if len < A::QUOTED { len } else { A::QUOTED };
    if quoted < A::HEADER + 8 || quoted > QUOTE || !may_say(tables) {
        return None;
    }
    clear(room);
    if !packet.quote(ip.l3, quoted, room) || !packet.resize(l3 + A::HEADER + HEADER + quoted) {
        return None;
    }
    turn_around(packet)?;
    let pseudo = A::put_header(packet, l3, ip.dst, ip.src, A::ICMP, HEADER + quoted)?;
    // The last two of four bytes, in both families.
    let (kind, rest) = (u16::from_ne_bytes(kind) as u64, (mtu.to_be() as u32) << 16);
    let check = !checksum::fold(kind + rest as u64 + sum(room) + if A::PSEUDO { pseudo } else { 0 });
    let l4 = l3 + A::HEADER;
    (packet.patch(l4, (kind | (check as u64) << 16 | (rest as u64) << 32).to_ne_bytes()) && packet.put_quote(l4 + HEADER, quoted, room))
        .then_some(())
}

/// This CPU may say one more error; from now on it has.
#[inline(always)]
fn may_say<T: Tables>(tables: &T) -> bool {
    let Some(said) = tables.said() else { return false };
    let now = tables.tick();
    let count = if read!(said, Said.tick as u32) == now { read!(said, Said.count as u32) } else { 0 };
    put!(said, Said.tick as u32, now);
    put!(said, Said.count as u32, count + 1);
    count < IN_A_TICK
}

#[inline(always)]
fn clear(room: Shared<'_, Quote>) {
    for i in 0..QUOTE / 8 {
        room.at_word(i).store::<u64, 0>(0);
    }
}

/// Sum of all bytes: those that were not quoted are zero.
#[inline(always)]
fn sum(room: Shared<'_, Quote>) -> u64 {
    let mut sum = 0;
    for i in 0..QUOTE / 8 {
        let word = room.at_word(i).load::<u64, 0>();
        sum = in_order(in_order(sum + (word & 0xffff_ffff)) + (word >> 32));
    }
    sum
}

const _: () = assert!(offset_of!(Said, count) == 4);
