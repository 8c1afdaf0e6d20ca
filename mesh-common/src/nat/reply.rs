//! A backend's answer: found by one hash of its addresses and ports, sent to the client as if from the VIP.

use crate::{
    abi::{Backend, Config, NatFlow, NatSource, Proto, Reason, ServiceFlags, ServiceInfo},
    aside::Cause,
    flow::{Tuple, either, load_address, ports},
    forward::{Run, Sign, Sink, Way},
    handshake, hash,
    header::{Headers, Sound},
    nat::{Life, Parties, Translated, asked_port, reply_ports},
    packet::Packet,
    read,
    rewrite::{Edit, Macs, Translation},
    schedule,
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

/// Sends a reply to a translated flow to its client; what is none goes to the host. All that a packet which can't be one pays is the comparison of
/// its port, and one lookup if it lies between two ranges of ports.
#[inline(always)]
pub(crate) fn reply<A: Translated, P: Packet, T: Tables, S: Sink<P, T>>(
    run: Run<'_, P, T, S>,
    config: Shared<'_, Config>,
    headers: &Headers<A>,
) -> S::Done {
    let (first, count) = reply_ports(config);
    if u16::from_be((headers.ports >> 16) as u16).wrapping_sub(first) >= count {
        return run.foreign();
    }
    let Some(network) = A::network(run.packet, headers.l3) else { return run.foreign() };
    let Some(found) = find(run.tables, config, &headers.tuple(network.src), headers.proto) else { return run.foreign() };
    let id = read!(found.flow, NatFlow.service as u16) as u32;
    let (flags, bytes) = match headers.check(run.packet) {
        Ok(Sound { flags, bytes, .. }) if network.ttl > 1 => (flags, bytes),
        Ok(_) => return run.end(id, Reason::TtlExceeded),
        Err(Reason::Fragment) => return run.aside(Cause::fragment(id, Reason::Fragment)),
        Err(reason) => return run.end(id, reason),
    };
    let (tcp, now) = (headers.proto == Proto::Tcp as u8, run.tables.tick());
    let life = Life::of(found.flow);
    if life.expired_by(tcp, now, config) {
        return run.foreign();
    }
    if life.ends_by(tcp, flags) && read!(found.service, ServiceInfo.flags as u32) & ServiceFlags::CHOOSES as u32 != 0 {
        schedule::ended(run.tables, found.backend.stats());
    }
    life.backend_sent(run.tables, found.flow, tcp, flags, now);
    let stats = found.backend.stats();
    let left_out = handshake::left_out(run.tables, found.claim);
    run.sink.note(run.tables, || stats, Sign { reply: true, flags, hash: found.claim, left_out });
    let tuple = Tuple {
        src: load_address!(A, found.service, ServiceInfo.addr),
        dst: load_address!(A, found.flow, NatFlow.client),
        ports: ports(either(read!(found.service, ServiceInfo.port as u16), headers.ports as u16), found.parties.client_port()),
    };
    let macs = Macs { dst: read!(found.flow, NatFlow.client_mac as u64), src: read!(found.flow, NatFlow.own_mac as u64) };
    let ifindex = read!(found.flow, NatFlow.ifindex as u32);
    if read!(found.flow, NatFlow.claim as u64) != found.claim {
        return run.foreign();
    }
    let network_edit = A::edit(Translation { tuple, l3: headers.l3, l4: headers.l4, tcp });
    let way = Way { reason: Reason::Replied, opens: false, stats, ifindex, bytes, room: 0 };
    run.send(way, || id, || Edit { macs, network: network_edit })
}

/// The flow that a packet is a reply to.
pub(crate) struct Found<'a> {
    pub flow: Shared<'a, NatFlow>,
    /// What its claim was when the rest was read.
    pub claim: u64,
    pub parties: Parties,
    pub service: Shared<'a, ServiceInfo>,
    pub backend: Candidate<'a>,
}

#[inline(always)]
pub(crate) fn find<'a, A: Translated, T: Tables>(
    tables: &'a T,
    config: Shared<'a, Config>,
    tuple: &Tuple<A>,
    proto: u8,
) -> Option<Found<'a>> {
    let place = hash::range(hash::reply(tuple, proto, hash::key(config)), read!(config, Config.nat.flows as u32));
    let flow = tables.nat_flow(place)?;
    let claim = read!(flow, NatFlow.claim as u64);
    let parties = Parties::of(flow);
    if claim <= NatFlow::BUSY || parties.nat_port() != tuple.dst_port() {
        return None;
    }
    let service = tables.service(read!(flow, NatFlow.service as u16) as u32)?;
    let backend = from_backend(tables, config, service, flow, tuple, proto)?;
    Some(Found { flow, claim, parties, service, backend })
}

/// The backend of a flow, if it is what this packet comes from, and the flow's source address what it goes to.
#[inline(always)]
fn from_backend<'a, A: Translated, T: Tables>(
    tables: &'a T,
    config: Shared<'_, Config>,
    service: Shared<'_, ServiceInfo>,
    flow: Shared<'_, NatFlow>,
    tuple: &Tuple<A>,
    proto: u8,
) -> Option<Candidate<'a>> {
    let parties = Parties::of(flow);
    let asked = asked_port(read!(flow, NatFlow.own_mac as u64));
    let backend = Candidate::at(tables, read!(service, ServiceInfo.backend_base as u32), parties.backend())?;
    let source = config.source(parties.nat_source() as u64);
    let kind = read!(service, ServiceInfo.proto as u16);
    (load_address!(A, backend.entry, Backend.addr) == tuple.src
        && backend.port_for(asked) == tuple.src_port()
        && load_address!(A, source, NatSource.addr) == tuple.dst
        && kind == proto as u16 | (A::FAMILY as u16) << 8)
        .then_some(backend)
}
