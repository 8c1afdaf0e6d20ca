//! `tunnel`: the packet goes to its backend whole, in an outer header; the backend owns the VIP and answers the client itself.

use network_types::eth::EthHdr;

use crate::{
    abi::{Backend, Reason, SlotWord, Vip},
    aside::Cause,
    flow::{V4, V6, load_address},
    forward::{Arrival, Run, Sink},
    gue,
    header::{Ip, TCP},
    packet::Packet,
    read,
    rewrite::{Encap, Network, Outer},
    select::Candidate,
    tables::Tables,
};

/// Bytes of outer headers.
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// First of the source ports of GUE (RFC 6335 section 6: dynamic ports), and how many there are.
const FIRST_PORT: u16 = 0xc000;
const PORTS: u16 = 0x4000;

/// Sends the packet to the backend that its flow belongs to, as `dsr` does, in an outer header of the family of the backend's address.
#[inline(always)]
pub(crate) fn forward<A: Ip, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, arrival: &Arrival<'_, A>) -> S::Done {
    let (backend, other) = match arrival.owners(run.packet, run.tables) {
        Ok(owners) => owners,
        Err(reason) => return run.end(arrival.service(), reason),
    };
    // Each kind by itself: to ask at each step again which one it is takes longer.
    match backend.flags() & (Backend::GUE | Backend::V6) {
        0 => wrap::<false, A, P, T, S>(run, arrival, backend, None, None),
        Backend::V6 => wrap::<true, A, P, T, S>(run, arrival, backend, None, None),
        kind => {
            let v6 = kind & Backend::V6 != 0;
            let other = second_chance(run.packet, run.tables, arrival, other, v6);
            let port = Some(source_port(arrival.hash));
            if v6 {
                wrap::<true, A, P, T, S>(run, arrival, backend, port, other)
            } else {
                wrap::<false, A, P, T, S>(run, arrival, backend, port, other)
            }
        }
    }
}

/// Puts the outer header in front: an IPv6 one if `V6`, for GUE if there is a source `port` for it, which also names `other`.
#[inline(always)]
fn wrap<const V6_OUTER: bool, A: Ip, P: Packet, T: Tables, S: Sink<P, T>>(
    run: Run<'_, P, T, S>,
    arrival: &Arrival<'_, A>,
    backend: Candidate<'_>,
    port: Option<u16>,
    other: Option<Candidate<'_>>,
) -> S::Done {
    let list = if other.is_some() { gue::room(V6_OUTER) } else { 0 };
    let room = room(V6_OUTER, port.is_some()) + list;
    let Some(len) = A::extent(run.packet, arrival.headers.l3).map(|extent| extent.end.wrapping_sub(arrival.headers.l3)) else {
        return run.end(arrival.service(), Reason::Malformed);
    };
    if !fits(run.packet, arrival, len + room, room, backend.mtu()) {
        return run.aside(Cause::too_big(arrival.service(), backend.mtu().wrapping_sub(room as u16)));
    }
    let Some(class) = A::class(run.packet, arrival.headers.l3) else {
        return run.end(arrival.service(), Reason::Malformed);
    };
    // The length fits 16 bits, or the packet would not have fitted.
    let encap =
        |outer| Encap { outer, l3: arrival.headers.l3, len: len as u16, class, inner: A::FAMILY, udp: port, label: label(arrival.hash) };
    run.forward_unremembered(arrival, backend, room, || {
        if V6_OUTER {
            let (src, dst) = (load_address!(V6, backend.entry, Backend.source), load_address!(V6, backend.entry, Backend.addr));
            let hop = other.map(|other| load_address!(V6, other.entry, Backend.addr));
            return Network::Encap(encap(Outer::V6 { src, dst, hop }));
        }
        let (src, dst) = (load_address!(V4, backend.entry, Backend.source), load_address!(V4, backend.entry, Backend.addr));
        let sum = read!(backend.entry, Backend.addr_csum as u16);
        let hop = other.map(|other| load_address!(V4, other.entry, Backend.addr));
        Network::Encap(encap(Outer::V4 { src, dst, sum, hop }))
    })
}

/// Who else may have the flow of a packet in the midst of one, to be named in its GUE header: the backend passes it on if it knows nothing of it. A slot at
/// rest has nobody else.
#[inline(always)]
fn second_chance<'a, A: Ip, P: Packet, T: Tables>(
    packet: &P,
    tables: &'a T,
    arrival: &Arrival<'a, A>,
    other: u16,
    v6: bool,
) -> Option<Candidate<'a>> {
    let in_the_midst = arrival.headers.proto == TCP && !arrival.connects(packet) && arrival.headers.l3 == EthHdr::LEN;
    if other == SlotWord::NONE || !in_the_midst {
        return None;
    }
    let other = Candidate::at(tables, read!(arrival.vip, Vip.backend_base as u32), other)?;
    (other.flags() & Backend::GUE != 0 && (other.flags() & Backend::V6 != 0) == v6).then_some(other)
}

/// Bytes that an outer header takes.
#[inline(always)]
pub(crate) const fn room(v6: bool, gue: bool) -> usize {
    let ip = if v6 { IPV6 } else { IPV4 };
    if gue { ip + UDP } else { ip }
}

/// Source port of GUE for a flow of this hash, as it lies in the packet.
#[inline(always)]
pub(crate) const fn source_port(hash: u64) -> u16 {
    (FIRST_PORT | hash as u16 & (PORTS - 1)).to_be()
}

/// Flow label of an outer IPv6 header for a flow of this hash.
#[inline(always)]
pub(crate) const fn label(hash: u64) -> u32 {
    hash as u32 & 0xf_ffff
}

/// Whether the packet, of `len` bytes with the outer header, or the largest segment that will be cut from it, fits the way to the backend.
#[inline(always)]
fn fits<A: Ip, P: Packet>(packet: &P, arrival: &Arrival<'_, A>, len: usize, room: usize, mtu: u16) -> bool {
    if len <= mtu as usize {
        return true;
    }
    let most = if mtu == 0 { u16::MAX } else { mtu } as usize;
    if len <= most {
        return true;
    }
    match packet.segment() {
        0 => false,
        segment => len <= u16::MAX as usize && headers(packet, arrival) + segment + room <= most,
    }
}

/// Bytes from the IP header to the payload.
#[inline(always)]
fn headers<A: Ip, P: Packet>(packet: &P, arrival: &Arrival<'_, A>) -> usize {
    let (l3, l4) = (arrival.headers.l3, arrival.headers.l4);
    if arrival.headers.proto != TCP {
        return l4.wrapping_sub(l3) + UDP;
    }
    let words = packet.at::<1>(l4 + 12).map_or(0xf, |byte| (byte[0] >> 4) as usize);
    l4.wrapping_sub(l3) + words * 4
}
