//! An error on its way to who sent what it is about.

use crate::{
    abi::{Backend, Config, Mode, NatFlow, NatSource, Reason, ServiceInfo, TableRef, Vip},
    aside::Outcome,
    checksum,
    flow::{Tuple, load_address, ports},
    forward::{self, Arrival},
    hash,
    header::{Headers, Network, TCP, UDP},
    icmp::{HEADER, Icmp, put_macs},
    nat,
    outline::Outline,
    packet::{u16_at, u32_at},
    patch::Patch,
    read,
    rewrite::{Macs, checksum_offset},
    select::{self, Candidate},
    shared::Shared,
    tables::Tables,
};

/// The packet that an error quotes.
struct Quoted<A> {
    ip: Outline<A>,
    ports: u32,
}

/// Addresses and ports as the one who gets the error knows them: of the error itself, and of the packet that it quotes.
struct Known<A> {
    src: A,
    dst: A,
    quoted: Tuple<A>,
}

/// Sends an error on; it ends as `others` where it concerns nothing that goes through here.
#[inline(always)]
pub(crate) fn relay<A: Icmp, P: Patch, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: Shared<'_, Config>,
    ip: &Outline<A>,
    others: Outcome,
) -> Outcome {
    let Some(quoted) = quoted::<A, P>(packet, ip) else { return others };
    // Routers send errors to who they think has sent the packet.
    if quoted.ip.src != ip.dst || !packet.holds(ip.end) {
        return others;
    }
    let key = (quoted.ports & 0xffff) | (quoted.ip.proto as u32) << 16 | (A::FAMILY as u32) << 24;
    match forward::find(tables, config, quoted.ip.src, key) {
        Some(vip) => to_backend(packet, tables, (config, vip), ip, &quoted, others),
        None => to_client(packet, tables, config, ip, &quoted, others),
    }
}

#[inline(always)]
fn quoted<A: Icmp, P: Patch>(packet: &P, ip: &Outline<A>) -> Option<Quoted<A>> {
    let inner = A::outline(packet, ip.l4 + HEADER)?;
    if inner.piece.later || (inner.proto != TCP && inner.proto != UDP) || ip.end < inner.l4 + 8 {
        return None;
    }
    let ports = u32_at::<0, _>(packet.at::<8>(inner.l4)?);
    Some(Quoted { ip: inner, ports })
}

/// The quoted packet went from a VIP to a client: its backend is found as for the client's packets.
#[inline(always)]
fn to_backend<'a, A: Icmp, P: Patch, T: Tables>(
    packet: &mut P,
    tables: &'a T,
    (config, vip): (Shared<'a, Config>, Shared<'a, Vip>),
    ip: &Outline<A>,
    quoted: &Quoted<A>,
    others: Outcome,
) -> Outcome {
    const DSR: u8 = Mode::Dsr as u8;
    const NAT: u8 = Mode::Nat as u8;
    let service = read!(vip, Vip.service as u32);
    let tuple = quoted.tuple();
    let hash = hash::flow(&tuple, hash::key(config), read!(vip, Vip.seed as u64));
    let base = read!(vip, Vip.backend_base as u32);
    match read!(vip, Vip.mode as u8) {
        DSR => match select::backend(tables, TableRef(read!(vip, Vip.table as u64)), base, hash) {
            Ok((_, backend)) => match put_macs(packet, backend.macs()) {
                Some(()) => Outcome::sent(false, service, backend.stats(), backend.ifindex()),
                None => Outcome::end(service, Reason::Malformed),
            },
            Err(reason) => Outcome::end(service, reason),
        },
        NAT => {
            let headers = Headers { dst: tuple.dst, ports: tuple.ports, proto: quoted.ip.proto, fragment: false, l3: 0, l4: 0 };
            let network = Network { src: tuple.src, ttl: ip.ttl, fragment: false, end: 0 };
            let arrival = Arrival { config, vip, service, headers, network, flags: 0, hash };
            let Some((_, parties)) = nat::find(tables, &arrival) else { return others };
            let Some(backend) = Candidate::at(tables, base, parties.backend()) else { return others };
            if !backend.ready() {
                return Outcome::end(service, Reason::NextHop);
            }
            let source = load_address!(A, config.source(parties.nat_source() as u64), NatSource.addr);
            let addr = load_address!(A, backend.entry, Backend.addr);
            let inner = Tuple { src: addr, dst: source, ports: ports(backend.port(), parties.nat_port()) };
            let (stats, ifindex) = (backend.stats(), backend.ifindex());
            let done = send(packet, ip, quoted, backend.macs(), &Known { src: source, dst: addr, quoted: inner });
            finish(done, Outcome::sent(false, service, stats, ifindex), service)
        }
        _ => others,
    }
}

/// The quoted packet went from a source address of ours to a backend: its flow is found as for the backend's packets.
#[inline(always)]
fn to_client<A: Icmp, P: Patch, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: Shared<'_, Config>,
    ip: &Outline<A>,
    quoted: &Quoted<A>,
    others: Outcome,
) -> Outcome {
    let Some(found) = nat::find_reply(tables, config, &quoted.tuple(), quoted.ip.proto) else { return others };
    let vip = load_address!(A, found.service, ServiceInfo.addr);
    let client = load_address!(A, found.flow, NatFlow.client);
    let inner = Tuple { src: client, dst: vip, ports: ports(found.parties.client_port(), read!(found.service, ServiceInfo.port as u16)) };
    let macs = Macs { dst: read!(found.flow, NatFlow.client_mac as u64), src: read!(found.flow, NatFlow.own_mac as u64) };
    let (service, ifindex) = (read!(found.flow, NatFlow.service as u32), read!(found.flow, NatFlow.ifindex as u32));
    if read!(found.flow, NatFlow.claim as u64) != found.claim {
        return others;
    }
    let stats = found.backend.stats();
    let done = send(packet, ip, quoted, macs, &Known { src: vip, dst: client, quoted: inner });
    finish(done, Outcome::sent(true, service, stats, ifindex), service)
}

#[inline(always)]
fn finish(done: Result<(), Reason>, sent: Outcome, service: u32) -> Outcome {
    match done {
        Ok(()) => sent,
        Err(reason) => Outcome::end(service, reason),
    }
}

impl<A: Copy> Quoted<A> {
    /// The flow that the quoted packet is of, as the packets of the other way have it.
    fn tuple(&self) -> Tuple<A> {
        Tuple { src: self.ip.dst, dst: self.ip.src, ports: self.ports.rotate_left(16) }
    }
}

/// Changes the frame. Sums are of all words that change, as RFC 1624 has them; those of an IPv4 header come to nothing, because its own checksum
/// makes up for them, and so does a quoted transport checksum where it was not cut off.
#[inline(always)]
fn send<A: Icmp, P: Patch>(packet: &mut P, ip: &Outline<A>, quoted: &Quoted<A>, macs: Macs, known: &Known<A>) -> Result<(), Reason> {
    if ip.ttl <= 1 {
        // Nobody is told: "an ICMP error message MUST NOT be sent as the result of receiving an ICMP error message" (RFC 1122 section 3.2.2).
        return Err(Reason::TtlExceeded);
    }
    change(packet, ip, quoted, macs, known).ok_or(Reason::Malformed)
}

#[inline(always)]
fn change<A: Icmp, P: Patch>(packet: &mut P, ip: &Outline<A>, quoted: &Quoted<A>, macs: Macs, known: &Known<A>) -> Option<()> {
    put_macs(packet, macs)?;
    let outer = A::readdress(packet, ip.l3, known.src, known.dst, ip.ttl - 1)?;
    let inner = A::readdress(packet, quoted.ip.l3, known.quoted.src, known.quoted.dst, quoted.ip.ttl)?;
    let ports = checksum::replaced(quoted.ports, known.quoted.ports);
    let pseudo = if A::PSEUDO { outer.addresses } else { 0 };
    let delta = pseudo + inner.header + ports + transport(packet, ip, quoted, inner.addresses + ports);
    if !packet.patch(quoted.ip.l4, known.quoted.ports.to_ne_bytes()) {
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
