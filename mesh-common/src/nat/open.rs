//! The first packet of a flow: select a backend, claim an entry for it, make the index lead there.

use core::mem::offset_of;

use crate::{
    abi::{Backend, BackendState, Config, NatFlow, NatGauges, NatSource, Proto, Reason, ServiceInfo, Vip},
    flow::{Address, Tuple, load_address, ports},
    forward::{Arrival, Verdict},
    hash,
    nat::{Life, Parties, Translated, index, life, port_range, received_macs, sending},
    packet::Packet,
    put, read,
    select::{self, Candidate},
    shared::Shared,
    tables::Tables,
};

/// Entries of the flow map that are tried for a flow.
const TRIES: u16 = 16;

const CLAIM: usize = offset_of!(NatFlow, claim);
const HALF_OPEN: usize = offset_of!(NatGauges, half_open);

/// Opens a flow and sends its first packet.
#[inline(never)]
pub(crate) fn open<A: Translated, P: Packet, T: Tables>(packet: &P, tables: &T, arrival: &Arrival<'_, A>, now: u32) -> Verdict {
    if !arrival.may_open() {
        return arrival.end(Reason::NoFlow);
    }
    if arrival.headers.ttl <= 1 {
        return arrival.end(Reason::TtlExceeded);
    }
    let (backend_index, backend) = match select::backend(tables, arrival.vip, arrival.hash) {
        Ok(selected) => selected,
        Err(reason) => return arrival.end(reason),
    };
    let (Some(gauges), Some(ethernet)) = (tables.nat_gauges(), packet.at::<12>(0)) else { return arrival.end(Reason::BadTable) };
    if gauges.load::<i64, HALF_OPEN>() >= read!(arrival.config, Config.nat.half_open_limit as u32) as i64 {
        return arrival.end(Reason::HalfOpenLimit);
    }
    let source = arrival.config.source(backend.nat_source() as u64);
    if read!(source, NatSource.family as u32) != A::FAMILY as u32 || port_range(arrival.config).1 == 0 {
        return arrival.end(Reason::BadTable);
    }
    let Some((flow, place, nat_port)) = claim(tables, arrival, backend, load_address!(A, source, NatSource.addr), now) else {
        return arrival.end(Reason::NatFull);
    };
    let parties = Parties::new(arrival.headers.tuple.src_port(), nat_port, backend.nat_source(), backend_index);
    let macs = received_macs(ethernet);
    arrival.headers.tuple.src.store::<NatFlow, { offset_of!(NatFlow, client) }, { offset_of!(NatFlow, client) + 8 }>(flow);
    parties.put(flow);
    put!(flow, NatFlow.service as u32, read!(arrival.vip, Vip.service as u32));
    put!(flow, NatFlow.ifindex as u32, packet.ifindex());
    put!(flow, NatFlow.client_mac as u64, macs.src);
    put!(flow, NatFlow.own_mac as u64, macs.dst);
    put!(flow, NatFlow.seen as u64, Life::begun(now));
    gauges.add::<HALF_OPEN>(1);
    flow.exchange::<CLAIM>(NatFlow::BUSY, arrival.claim());
    if !index::insert(tables, arrival, place, now) {
        abandon(tables, flow, arrival.claim());
        return arrival.end(Reason::NatFull);
    }
    sending(arrival, backend, parties, true)
}

/// Ends a flow before its time.
#[inline(never)]
pub(crate) fn abandon<T: Tables>(tables: &T, flow: Shared<'_, NatFlow>, claim: u64) {
    if flow.exchange::<CLAIM>(claim, NatFlow::BUSY) {
        life::establish(tables, flow);
        flow.exchange::<CLAIM>(NatFlow::BUSY, 0);
    }
}

/// An entry that is now ours, its index and the source port that belongs to it. Ports are tried from one on that the flow's hash gives; each has
/// one place in the map, which is ours to take if it is free or its flow has expired.
#[inline(always)]
fn claim<'a, A: Address, T: Tables>(
    tables: &'a T,
    arrival: &Arrival<'a, A>,
    backend: Candidate<'a>,
    source: A,
    now: u32,
) -> Option<(Shared<'a, NatFlow>, u32, u16)> {
    let config = arrival.config;
    let (first, count) = port_range(config);
    let flows = read!(config, Config.nat.flows as u32);
    let addr = load_address!(A, backend.entry, Backend.addr);
    let mut offset = hash::range(arrival.hash << 16, count as u32) as u16;
    for _ in 0..TRIES {
        let port = first.wrapping_add(offset).to_be();
        let reply = Tuple { src: addr, dst: source, ports: ports(backend.port(), port) };
        let place = hash::range(hash::reply(&reply, arrival.headers.proto, hash::key(config)), flows);
        if let Some(flow) = tables.nat_flow(place)
            && take(tables, arrival, flow, now)
        {
            return Some((flow, place, port));
        }
        offset = if offset + 1 < count { offset + 1 } else { 0 };
    }
    None
}

/// Changes the claim of an entry that is free, or whose flow is over, to busy.
#[inline(always)]
fn take<A: Address, T: Tables>(tables: &T, arrival: &Arrival<'_, A>, flow: Shared<'_, NatFlow>, now: u32) -> bool {
    let claim = flow.load::<u64, CLAIM>();
    if claim == NatFlow::BUSY {
        return false;
    }
    if claim != 0 && !gone(tables, arrival.config, flow, now) {
        return false;
    }
    if !flow.exchange::<CLAIM>(claim, NatFlow::BUSY) {
        return false;
    }
    if claim != 0 {
        life::establish(tables, flow);
    }
    true
}

/// The flow has expired, or its service or backend does not exist any more.
#[inline(always)]
fn gone<T: Tables>(tables: &T, config: Shared<'_, Config>, flow: Shared<'_, NatFlow>, now: u32) -> bool {
    let Some(service) = tables.service(read!(flow, NatFlow.service as u32)) else { return true };
    let tcp = read!(service, ServiceInfo.proto as u8) == Proto::Tcp as u8;
    if Life::of(flow).expired_by(tcp, now, config) {
        return true;
    }
    let base = read!(service, ServiceInfo.backend_base as u32);
    match Candidate::at(tables, base, Parties::of(flow).backend()) {
        Some(backend) => backend.state() == BackendState::Absent,
        None => true,
    }
}
