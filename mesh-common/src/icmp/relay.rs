//! An error on its way to who sent what it is about.
//!
//! It is done in two steps that share no stack: one finds who that is and what the packet becomes, as a [`Relayed`]; the other one changes the packet.

use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use network_types::ip::IpProto;

use crate::{
    abi::{Addr, Backend, Config, Family, GUE_PORT, Mode, NatFlow, NatSource, Reason, ServiceInfo, Vip},
    aside::{Cause, Outcome},
    checksum, dnat,
    flow::{Tuple, V4, V6, either, load_address, ports},
    forward::{self, Arrival},
    fragment, gue, hash,
    header::{Headers, TCP, UDP},
    icmp::{HEADER, Icmp, put_macs},
    nat,
    outline::Outline,
    packet::{Packet, u16_at, u32_at},
    patch::Patch,
    put, read,
    rewrite::{Macs, Rewrite, checksum_offset},
    select::{self, Candidate},
    shared::{Shared, below, blurred, in_order},
    tables::Tables,
};

/// An error as the one who gets it is to have it: addresses as he knows them, which are those of the quoted packet the other way round, and the
/// quoted packet's ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Relayed {
    src: Addr,
    dst: Addr,
    /// Each in the low 48 bits.
    to_mac: u64,
    from_mac: u64,
    quoted_ports: u32,
    /// 0 = nothing but the Ethernet addresses changes; [`Relayed::TRANSLATED`], ...
    done: u32,
    /// Index of the backend's counters.
    stats: u32,
    ifindex: u32,
    /// Offset of the packet's end in the frame.
    end: u32,
    /// Of an error about an outer packet: what fits with the outer header off, then where the packet inside begins in the frame and how many of its bytes
    /// are there, 16 bits each.
    mtu: u16,
    inside: u16,
    len: u32,
    v6: u32,
}

impl Relayed {
    /// Addresses and the quoted packet are replaced.
    const TRANSLATED: u32 = 1;
    /// But for the error's own source.
    const KEEPS_SOURCE: u32 = 2;
    /// The error goes in an outer header, as [`Tables::course`] says.
    const WRAPPED: u32 = 4;
}

/// The packet that an error quotes.
struct Quoted<A> {
    ip: Outline<A>,
    ports: u32,
}

/// Finds who gets an error. [`Reason::Forwarded`] (a backend) or [`Reason::Replied`] (a client): the error has to be changed as
/// [`Tables::relayed`] says now. It ends as `others` where it concerns nothing that goes through here.
#[inline(always)]
pub(crate) fn find<A: Icmp, P: Packet, T: Tables>(packet: &P, tables: &T, ip: &Outline<A>, others: Cause) -> Cause {
    let Some(config) = tables.config() else { return others };
    if !packet.holds(ip.end) {
        return others;
    }
    if read!(config, Config.flags as u32) & Config::TUNNEL != 0
        && let Some(told) = about_outer::<A, P, T>(packet, tables, config, ip)
    {
        return told;
    }
    let Some(quoted) = quoted::<A, P>(packet, ip) else { return others };
    // Routers send errors to who they think has sent the packet.
    if quoted.ip.src != ip.dst {
        return others;
    }
    if let Some(relayed) = tables.relayed() {
        put!(relayed, Relayed.end as u32, ip.end as u32);
    }
    let (tuple, proto) = (quoted.tuple(), quoted.ip.proto);
    let key = (tuple.ports >> 16) | (proto as u32) << 16 | (A::FAMILY as u32) << 24;
    let found = match forward::find_service(tables, config, tuple.dst, key) {
        Some(vip) => to_backend(tables, (config, vip), &tuple, proto, ip.end - ip.l3),
        None => to_client(packet, tables, config, &tuple, proto),
    };
    found.unwrap_or(others)
}

#[inline(always)]
fn quoted<A: Icmp, P: Packet>(packet: &P, ip: &Outline<A>) -> Option<Quoted<A>> {
    let inner = A::outline(packet, ip.l4 + HEADER)?;
    if inner.piece.later || (inner.proto != TCP && inner.proto != UDP) || ip.end < inner.l4 + 8 {
        return None;
    }
    let ports = u32_at::<0, _>(packet.at::<8>(inner.l4)?);
    Some(Quoted { ip: inner, ports })
}

/// The quoted packet went from a VIP to a client: its backend is found as for the client's packets. `tuple` is that of those.
#[inline(always)]
fn to_backend<'a, A: Icmp, T: Tables>(
    tables: &'a T,
    (config, vip): (Shared<'a, Config>, Shared<'a, Vip>),
    tuple: &Tuple<A>,
    proto: u8,
    len: usize,
) -> Option<Cause> {
    const DSR: u8 = Mode::Dsr as u8;
    const DNAT: u8 = Mode::Dnat as u8;
    const TUNNEL: u8 = Mode::Tunnel as u8;
    const NAT: u8 = Mode::Nat as u8;
    let service = read!(vip, Vip.service as u32);
    let hash = hash::flow(tuple, hash::key(config), read!(vip, Vip.seed as u64));
    let base = read!(vip, Vip.backend_base as u32);
    let headers = Headers { dst: tuple.dst, ports: tuple.ports, proto, fragment: Some(false), l3: 0, l4: 0 };
    let arrival = Arrival { config, vip, near: vip, headers, src: tuple.src, flags: 0, bytes: 0, hash, plain: false };
    let backend = match read!(vip, Vip.mode as u8) {
        mode @ (DSR | DNAT | TUNNEL) => match select::about(tables, arrival.slot(), base) {
            Ok(backend) => {
                if mode == DNAT {
                    let addr = load_address!(A, backend.entry, Backend.addr);
                    let port = backend.port_for(tuple.dst_port());
                    translate(tables.relayed()?, tuple.src, addr, ports(port, tuple.src_port()), Relayed::KEEPS_SOURCE);
                } else if mode == TUNNEL {
                    if !fragment::outer(tables.course()?, backend, hash, len) {
                        return Some(Cause::new(service, Reason::TooBig));
                    }
                    put!(tables.relayed()?, Relayed.done as u32, Relayed::WRAPPED);
                } else {
                    put!(tables.relayed()?, Relayed.done as u32, 0);
                }
                backend
            }
            Err(reason) => return Some(Cause::new(service, reason)),
        },
        NAT => {
            let (_, parties) = nat::find(tables, &arrival)?;
            let backend = Candidate::at(tables, base, parties.backend())?;
            let source = load_address!(A, config.source(parties.nat_source() as u64), NatSource.addr);
            let addr = load_address!(A, backend.entry, Backend.addr);
            translate(tables.relayed()?, source, addr, ports(backend.port_for(tuple.dst_port()), parties.nat_port()), 0);
            backend
        }
        _ => return None,
    };
    if !backend.ready() {
        return Some(Cause::new(service, Reason::NextHop));
    }
    way(tables.relayed()?, backend.macs(), backend.stats(), backend.ifindex());
    Some(Cause::new(service, Reason::Forwarded))
}

/// The quoted packet went to a backend: in `dnat` the backend's address and port say whose it was, in `nat` it came from a source address of ours, and its
/// flow is found as for the backend's packets.
#[inline(always)]
fn to_client<A: Icmp, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    config: Shared<'_, Config>,
    tuple: &Tuple<A>,
    proto: u8,
) -> Option<Cause> {
    if read!(config, Config.flags as u32) & Config::DNAT != 0
        && let Some((id, service, backend)) = dnat::source(tables, config, tuple, proto)
    {
        let Some((macs, ifindex)) = dnat::way(packet, backend) else { return Some(Cause::new(id, Reason::NextHop)) };
        let vip = load_address!(A, service, ServiceInfo.addr);
        let ports = ports(tuple.dst_port(), either(read!(service, ServiceInfo.port as u16), tuple.src_port()));
        translate(tables.relayed()?, vip, tuple.dst, ports, Relayed::KEEPS_SOURCE);
        way(tables.relayed()?, macs, backend.stats(), ifindex);
        return Some(Cause::new(id, Reason::Replied));
    }
    let found = nat::find_reply(tables, config, tuple, proto)?;
    let vip = load_address!(A, found.service, ServiceInfo.addr);
    let client = load_address!(A, found.flow, NatFlow.client);
    let port = either(read!(found.service, ServiceInfo.port as u16), tuple.src_port());
    translate(tables.relayed()?, vip, client, ports(found.parties.client_port(), port), 0);
    let service = read!(found.flow, NatFlow.service as u16) as u32;
    let macs = Macs { dst: read!(found.flow, NatFlow.client_mac as u64), src: read!(found.flow, NatFlow.own_mac as u64) };
    way(tables.relayed()?, macs, found.backend.stats(), read!(found.flow, NatFlow.ifindex as u32));
    (read!(found.flow, NatFlow.claim as u64) == found.claim).then_some(Cause::new(service, Reason::Replied))
}

/// An outer packet did not fit: the sender of the packet inside is to know how much less does. [`Reason::TooBigTold`], if it can be found out.
#[inline(always)]
fn about_outer<A: Icmp, P: Packet, T: Tables>(packet: &P, tables: &T, config: Shared<'_, Config>, ip: &Outline<A>) -> Option<Cause> {
    const IPIP: u8 = IpProto::Ipv4 as u8;
    const IPV6: u8 = IpProto::Ipv6 as u8;
    let mtu = A::too_big(packet.at::<HEADER>(ip.l4)?)?;
    let outer = A::outline(packet, ip.l4 + HEADER)?;
    let from = match outer.proto {
        IPIP | IPV6 => outer.l4,
        UDP if u32_at::<0, _>(packet.at::<4>(outer.l4)?) >> 16 == u16::from_ne_bytes(GUE_PORT) as u32 => {
            let head = gue::read(&View(packet), outer.l4 as u32 + 8, A::FAMILY as u8 == Family::V6 as u8)?;
            // However long it is, a verifier follows what comes of it once.
            outer.l4 + 8 + blurred::<0xff>(head.len as u64, outer.src.words()[0])
        }
        _ => return None,
    };
    if outer.src != ip.dst || outer.piece.is_part() {
        return None;
    }
    let relayed = tables.relayed()?;
    put!(relayed, Relayed.mtu as u16, mtu.wrapping_sub((from - outer.l3) as u16));
    put!(relayed, Relayed.inside as u16, from as u16);
    put!(relayed, Relayed.len as u32, ip.end.checked_sub(from)? as u32);
    let backend = outer.dst.words();
    match packet.at::<1>(from)?[0] >> 4 {
        4 => carried::<V4, P, T>(packet, tables, config, from, backend),
        _ => carried::<V6, P, T>(packet, tables, config, from, backend),
    }
}

/// A packet as a reader of GUE has it.
struct View<'a, P>(&'a P);

impl<P: Packet> gue::Bytes for View<'_, P> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.at::<N>(offset as usize).copied()
    }
}

/// The packet inside is one that a `tunnel` service sends to this backend: to whom its slot's flows are with, or, while the slot is on its way, to whom
/// new ones go.
#[inline(always)]
fn carried<A: Icmp, P: Packet, T: Tables>(packet: &P, tables: &T, config: Shared<'_, Config>, from: usize, to: [u64; 2]) -> Option<Cause> {
    let ip = A::outline(packet, from)?;
    if ip.piece.later || (ip.proto != TCP && ip.proto != UDP) {
        return None;
    }
    let ports = u32_at::<0, _>(packet.at::<8>(ip.l4)?);
    let vip = forward::find_service(tables, config, ip.dst, (ports >> 16) | (ip.proto as u32) << 16 | (A::FAMILY as u32) << 24)?;
    if read!(vip, Vip.mode as u8) != Mode::Tunnel as u8 {
        return None;
    }
    let hash = hash::flow(&Tuple { src: ip.src, dst: ip.dst, ports }, hash::key(config), read!(vip, Vip.seed as u64));
    let headers = Headers { dst: ip.dst, ports, proto: ip.proto, fragment: Some(false), l3: 0, l4: 0 };
    let arrival = Arrival { config, vip, near: vip, headers, src: ip.src, flags: 0, bytes: 0, hash, plain: false };
    let (at, base) = (arrival.slot(), read!(vip, Vip.backend_base as u32));
    let is_at = |backend: Candidate<'_>| {
        [read!(backend.entry, Backend.addr as u64), backend.entry.load::<u64, { offset_of!(Backend, addr) + 8 }>()] == to
    };
    if !select::about(tables, at, base).is_ok_and(is_at) && !select::target(tables, at, base).is_some_and(is_at) {
        return None;
    }
    put!(tables.relayed()?, Relayed.v6 as u32, (A::FAMILY as u8 == Family::V6 as u8) as u32);
    Some(Cause::new(arrival.service(), Reason::TooBigTold))
}

/// Whether the packet inside is IPv6, where it begins and how much of it is there, and what would fit.
#[inline(always)]
pub(crate) fn inside<T: Tables>(tables: &T) -> Option<(bool, (usize, usize), u16)> {
    let relayed = tables.relayed()?;
    let from = below::<0x3fff>(read!(relayed, Relayed.inside as u16) as u64);
    let len = below::<0x3fff>(read!(relayed, Relayed.len as u32) as u64);
    Some((read!(relayed, Relayed.v6 as u32) != 0, (from, len), read!(relayed, Relayed.mtu as u16)))
}

/// The error goes from `src` to `dst`, about a packet that went the other way.
#[inline(always)]
fn translate<A: Icmp>(relayed: Shared<'_, Relayed>, src: A, dst: A, ports: u32, keeps: u32) {
    src.store::<Relayed, { offset_of!(Relayed, src) }, { offset_of!(Relayed, src) + 8 }>(relayed);
    dst.store::<Relayed, { offset_of!(Relayed, dst) }, { offset_of!(Relayed, dst) + 8 }>(relayed);
    put!(relayed, Relayed.quoted_ports as u32, ports);
    put!(relayed, Relayed.done as u32, Relayed::TRANSLATED | keeps);
}

#[inline(always)]
fn way(relayed: Shared<'_, Relayed>, macs: Macs, stats: u32, ifindex: u32) {
    put!(relayed, Relayed.to_mac as u64, macs.dst);
    put!(relayed, Relayed.from_mac as u64, macs.src);
    put!(relayed, Relayed.stats as u32, stats);
    put!(relayed, Relayed.ifindex as u32, ifindex);
}

impl<A: Copy> Quoted<A> {
    /// The flow that the quoted packet is of, as the packets of the other way have it.
    fn tuple(&self) -> Tuple<A> {
        Tuple { src: self.ip.dst, dst: self.ip.src, ports: self.ports.rotate_left(16) }
    }
}

/// What has become of an error that [`change`] has changed.
#[inline(always)]
pub(crate) fn sent<T: Tables>(tables: &T, reply: bool) -> Outcome {
    let Some(relayed) = tables.relayed() else { return Outcome::end(0, Reason::BadTable) };
    let (stats, ifindex) = (read!(relayed, Relayed.stats as u32), read!(relayed, Relayed.ifindex as u32));
    Outcome::sent(reply, stats, ifindex, read!(relayed, Relayed.end as u32) as usize)
}

/// Changes the error whose IP header is at `l3` as [`Tables::relayed`] says: 0, or the [`Reason`] that it ends for.
#[inline(never)]
pub(crate) fn change<A: Icmp, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> u32 {
    let Some(relayed) = tables.relayed() else { return Reason::BadTable as u32 };
    let done = read!(relayed, Relayed.done as u32);
    if done & Relayed::WRAPPED != 0 {
        let Some(course) = tables.course() else { return Reason::BadTable as u32 };
        return fragment::wrap::<A, P>(packet, course, l3) as u32;
    }
    if done & Relayed::TRANSLATED != 0 {
        let Some(ip) = A::outline(packet, l3) else { return Reason::Malformed as u32 };
        // Nobody is told: "an ICMP error message MUST NOT be sent as the result of receiving an ICMP error message" (RFC 1122 section 3.2.2).
        if ip.ttl <= 1 {
            return Reason::TtlExceeded as u32;
        }
        if readdress(packet, relayed, &ip).is_none() {
            return Reason::Malformed as u32;
        }
    }
    let macs = Macs { dst: read!(relayed, Relayed.to_mac as u64), src: read!(relayed, Relayed.from_mac as u64) };
    if put_macs(packet, macs).is_some() { 0 } else { Reason::Malformed as u32 }
}

/// Sums are of all words that change, as RFC 1624 has them; those of an IPv4 header come to nothing, because its own checksum makes up for them, and
/// so does a quoted transport checksum where it was not cut off.
#[inline(always)]
fn readdress<A: Icmp, P: Patch>(packet: &mut P, relayed: Shared<'_, Relayed>, ip: &Outline<A>) -> Option<()> {
    let known = || (load_address!(A, relayed, Relayed.src), load_address!(A, relayed, Relayed.dst));
    let (src, dst) = known();
    let src = if read!(relayed, Relayed.done as u32) & Relayed::KEEPS_SOURCE != 0 { ip.src } else { src };
    let outer = A::readdress(packet, ip.l3, src, dst, ip.ttl - 1)?;
    let pseudo = in_order(if A::PSEUDO { outer.addresses } else { 0 });
    let quoted = quoted::<A, P>(packet, ip)?;
    let (src, dst) = known();
    let inner = A::readdress(packet, quoted.ip.l3, dst, src, quoted.ip.ttl)?;
    let new = read!(relayed, Relayed.quoted_ports as u32);
    let ports = checksum::replaced(quoted.ports, new);
    let delta = pseudo + inner.header + ports + transport(packet, ip, &quoted, inner.addresses + ports);
    if !packet.patch(quoted.ip.l4, new.to_ne_bytes()) {
        return None;
    }
    let check = u16_at::<2, _>(packet.at::<4>(ip.l4)?);
    packet.patch(ip.l4 + 2, checksum::apply(check, delta).to_ne_bytes()).then_some(())
}

/// Mends the quoted packet's own transport checksum, if it was quoted; what that adds to the sum.
#[inline(always)]
fn transport<A: Icmp, P: Patch>(packet: &mut P, ip: &Outline<A>, quoted: &Quoted<A>, delta: u64) -> u64 {
    let tcp = quoted.ip.proto == TCP;
    let at = quoted.ip.l4 + if tcp { checksum_offset(true) } else { checksum_offset(false) };
    if ip.end < at + 2 {
        return 0;
    }
    let Some(old) = packet.at::<2>(at).map(u16_at::<0, _>) else { return 0 };
    let new = if tcp { checksum::apply(old, delta) } else { checksum::apply_udp(old, delta) };
    if packet.patch(at, new.to_ne_bytes()) { (!old) as u64 + new as u64 } else { 0 }
}
