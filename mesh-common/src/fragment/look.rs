//! The first step: what the packet says.

use crate::{
    abi::{Config, Fragmented, Mode, NatFlow, Reason, ServiceInfo, Vip},
    aside::Cause,
    dnat,
    flow::{either, load_address, ports},
    forward::{self, Arrival},
    fragment::{Course, Identified, Question, course, memory},
    hash,
    header::{Headers, Network, TCP, UDP},
    ledger::rules::Sent,
    nat::{self, Life},
    outline::Outline,
    packet::{Packet, u16_at, u32_at},
    put, quic, read,
    rewrite::Macs,
    schedule, select,
    shared::Shared,
    tables::Tables,
};

/// Looks at the fragment whose IP header is at `l3`: a [`Question`], or why it ends. `cause`: at which service it would be dropped, or that it may be
/// nobody's.
#[inline(always)]
pub(crate) fn look<A: Identified, P: Packet, T: Tables>(packet: &P, tables: &T, l3: usize, cause: Cause) -> Cause {
    let ends = |reason| if cause.reason() == Reason::NotForVip { cause.with(Reason::NotForVip) } else { cause.with(reason) };
    let (Some(config), Some(course)) = (tables.config(), tables.course()) else { return ends(Reason::BadTable) };
    let Some(ip) = A::outline(packet, l3) else { return ends(Reason::Malformed) };
    if !ip.piece.is_part() || ip.end <= ip.l4 || !packet.holds(ip.end) {
        return ends(Reason::Malformed);
    }
    let Some(id) = A::identification(packet, &ip) else { return ends(Reason::Malformed) };
    memory::note(course, config, &ip, id);
    put!(course, Course.family as u8, A::FAMILY as u8);
    put!(course, Course.end as u32, ip.end as u32);
    put!(course, Course.len as u32, (ip.end - ip.l3) as u32);
    if !ip.piece.later {
        return match first(packet, tables, config, course, &ip) {
            Ok(question) => question.asked(),
            Err(reason) => ends(reason),
        };
    }
    Question::Recall.asked()
}

/// A first fragment says all that a packet says, but for its length.
#[inline(always)]
fn first<A: Identified, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    config: Shared<'_, Config>,
    course: Shared<'_, Course>,
    ip: &Outline<A>,
) -> Result<Question, Reason> {
    let (flags, need) = match ip.proto {
        TCP => (packet.at::<20>(ip.l4).map(u16_at::<12, _>).ok_or(Reason::Malformed)?.to_ne_bytes()[1], 20),
        UDP => (0, 8),
        _ => return Err(Reason::Malformed),
    };
    let ports = u32_at::<0, _>(packet.at::<8>(ip.l4).ok_or(Reason::Malformed)?);
    if ip.end < ip.l4 + need {
        return Err(Reason::Malformed);
    }
    put!(course, Course.ports as u32, ports);
    put!(course, Course.flags as u8, flags);
    put!(course, Course.opens as u8, 0);
    let headers = Headers { dst: ip.dst, ports, proto: ip.proto, fragment: Some(true), l3: ip.l3, l4: ip.l4 };
    let network = Network { src: ip.src, ttl: ip.ttl };
    let key = (ports >> 16) | (ip.proto as u32) << 16 | (A::FAMILY as u32) << 24;
    match forward::find_service(tables, config, ip.dst, key) {
        Some(vip) => {
            quic::forget(tables);
            let hash = hash::flow(&headers.tuple(network.src), hash::key(config), read!(vip, Vip.seed as u64));
            to_backend(
                packet,
                tables,
                course,
                &Arrival { config, vip, near: vip, headers, src: ip.src, flags, bytes: ip.end, hash, plain: false },
            )
        }
        None => to_client(packet, tables, config, course, &headers, &network),
    }
}

#[inline(always)]
fn to_backend<A: Identified, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    course: Shared<'_, Course>,
    arrival: &Arrival<'_, A>,
) -> Result<Question, Reason> {
    let base = read!(arrival.vip, Vip.backend_base as u32);
    let mode = read!(arrival.vip, Vip.mode as u8);
    if Mode::from_u8(mode).is_none() {
        return Err(Reason::BadTable);
    }
    put!(course, Course.mode as u8, mode);
    put!(course, Course.base as u32, base);
    put!(course, Course.hash as u64, arrival.hash);
    put!(course.fragmented(), Fragmented.service as u32, arrival.service());
    let sent = arrival.sent(packet);
    let begins = match sent {
        Sent::Syn { isn } => isn as u64 + 1,
        Sent::Datagram => 0,
        _ => Course::GOES_ON,
    };
    put!(course, Course.begins as u64, begins);
    if mode == Mode::Nat as u8 {
        if let Some((_, parties)) = nat::known(packet, tables, arrival)? {
            put!(course, Course.known as u64, parties.word());
            return Ok(Question::Known);
        }
        nat::prepare(packet, tables, arrival)?;
        put!(course, Course.opens as u8, 1);
        return Ok(Question::Open);
    }
    if mode == Mode::Dnat as u8 && arrival.ttl(packet) <= 1 {
        return Err(Reason::TtlExceeded);
    }
    put!(course, Course.opens as u8, arrival.connects(packet) as u8);
    let slot = arrival.slot();
    put!(course, Course.slot as u32, slot);
    put!(course, Course.sent as u64, sent.pack());
    if schedule::ask_for_owner(tables, arrival) != 0 {
        return Ok(Question::Choose);
    }
    if let Some(index) = select::at_rest(tables, slot, base) {
        put!(course, Course.known as u64, index as u64);
        return Ok(Question::Known);
    }
    Ok(Question::Follow)
}

/// A backend's answer in fragments: its course is known at once.
#[inline(always)]
fn to_client<A: Identified, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    config: Shared<'_, Config>,
    course: Shared<'_, Course>,
    headers: &Headers<A>,
    network: &Network<A>,
) -> Result<Question, Reason> {
    if network.ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    put!(course, Course.mode as u8, Course::ANSWER);
    let entry = course.fragmented();
    if read!(config, Config.flags as u32) & Config::DNAT != 0
        && let Some(answer) = dnat::find(packet, tables, config, headers)
    {
        let (macs, ifindex) = answer.way(packet).ok_or(Reason::NextHop)?;
        course::way(entry, answer.id(), answer.stats(), macs, ifindex);
        course::translate(course, answer.vip(), headers.dst, ports(answer.port(headers), (headers.ports >> 16) as u16), true);
        return Ok(Question::Known);
    }
    let tuple = headers.tuple(network.src);
    let found = nat::find_reply(tables, config, &tuple, headers.proto).ok_or(Reason::NotForVip)?;
    let (tcp, now) = (headers.proto == TCP, tables.tick());
    let life = Life::of(found.flow);
    if life.expired_by(tcp, now, config) {
        return Err(Reason::NotForVip);
    }
    life.backend_sent(tables, found.flow, tcp, read!(course, Course.flags as u8), now);
    let macs = Macs { dst: read!(found.flow, NatFlow.client_mac as u64), src: read!(found.flow, NatFlow.own_mac as u64) };
    let service = read!(found.flow, NatFlow.service as u16) as u32;
    course::way(entry, service, found.backend.stats(), macs, read!(found.flow, NatFlow.ifindex as u32));
    let vip = load_address!(A, found.service, ServiceInfo.addr);
    let port = either(read!(found.service, ServiceInfo.port as u16), headers.ports as u16);
    let client = load_address!(A, found.flow, NatFlow.client);
    course::translate(course, vip, client, ports(port, found.parties.client_port()), true);
    if read!(found.flow, NatFlow.claim as u64) != found.claim {
        return Err(Reason::NotForVip);
    }
    Ok(Question::Known)
}
