//! A backend's answer: found by one hash of its addresses and ports, sent to the client as if from the VIP.

use crate::{
    abi::{Backend, Config, NatFlow, NatSource, Proto, Reason, ServiceInfo},
    flow::{Tuple, load_address, ports},
    forward::{Sending, Verdict},
    hash,
    header::Headers,
    nat::{Life, Parties, Translated, port_range},
    packet::Packet,
    read,
    rewrite::{Edit, Macs, Translation},
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

/// The verdict on a packet that is a reply to a translated flow; `None` if it is none. All that a packet which can't be one pays is the
/// comparison of its port.
#[inline(always)]
pub(crate) fn reply<A: Translated, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    config: Shared<'_, Config>,
    headers: &Headers<A>,
) -> Option<Verdict> {
    let (first, count) = port_range(config);
    if u16::from_be(headers.tuple.dst_port()).wrapping_sub(first) >= count {
        return None;
    }
    translate(packet, tables, config, headers)
}

#[inline(never)]
fn translate<A: Translated, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    config: Shared<'_, Config>,
    headers: &Headers<A>,
) -> Option<Verdict> {
    let place = hash::range(hash::reply(&headers.tuple, headers.proto, hash::key(config)), read!(config, Config.nat.flows as u32));
    let flow = tables.nat_flow(place)?;
    let claim = read!(flow, NatFlow.claim as u64);
    let parties = Parties::of(flow);
    let id = read!(flow, NatFlow.service as u32);
    if claim <= NatFlow::BUSY || parties.nat_port() != headers.tuple.dst_port() {
        return None;
    }
    let service = tables.service(id)?;
    let backend = from_backend(tables, config, service, parties, headers)?;
    let tuple = Tuple {
        src: load_address!(A, service, ServiceInfo.addr),
        dst: load_address!(A, flow, NatFlow.client),
        ports: ports(read!(service, ServiceInfo.port as u16), parties.client_port()),
    };
    let macs = Macs { dst: read!(flow, NatFlow.client_mac as u64), src: read!(flow, NatFlow.own_mac as u64) };
    let ifindex = read!(flow, NatFlow.ifindex as u32);
    if read!(flow, NatFlow.claim as u64) != claim {
        return None;
    }
    let flags = match headers.check(packet) {
        Ok(flags) => flags,
        Err(Reason::Fragment) => return None,
        Err(reason) => return Some(Verdict::End { service: id, reason }),
    };
    if headers.ttl <= 1 {
        return Some(Verdict::End { service: id, reason: Reason::TtlExceeded });
    }
    let tcp = headers.proto == Proto::Tcp as u8;
    Life::of(flow).backend_sent(tables, flow, tcp, flags, tables.tick());
    Some(Verdict::Send(Sending {
        reason: Reason::Replied,
        service: id,
        stats: backend.stats(),
        ifindex,
        opens: false,
        end: headers.end,
        edit: Edit { macs, network: A::network(Translation { tuple, l3: headers.l3, l4: headers.l4, tcp }) },
    }))
}

/// The backend of a flow, if it is what this packet comes from, and the flow's source address what it goes to.
#[inline(always)]
fn from_backend<'a, A: Translated, T: Tables>(
    tables: &'a T,
    config: Shared<'_, Config>,
    service: Shared<'_, ServiceInfo>,
    parties: Parties,
    headers: &Headers<A>,
) -> Option<Candidate<'a>> {
    let backend = Candidate::at(tables, read!(service, ServiceInfo.backend_base as u32), parties.backend())?;
    let source = config.source(parties.nat_source() as u64);
    let kind = read!(service, ServiceInfo.proto as u16);
    (load_address!(A, backend.entry, Backend.addr) == headers.tuple.src
        && backend.port() == headers.tuple.src_port()
        && load_address!(A, source, NatSource.addr) == headers.tuple.dst
        && kind == headers.proto as u16 | (A::FAMILY as u16) << 8)
        .then_some(backend)
}
