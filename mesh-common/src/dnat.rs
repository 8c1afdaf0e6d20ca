//! `dnat`: the destination is translated, the source stays. Nothing is remembered: an answer is known by where it comes from.

use crate::{
    abi::{Backend, BackendState, Config, Reason, ServiceInfo, Vip, VipKind},
    aside::Cause,
    flow::{Address, Tuple, either, load_address, ports},
    forward::{self, Arrival, Run, Sending, Sign, Sink, Way},
    header::{Headers, Network, Sound, TCP},
    nat::{Translated, received_macs},
    packet::Packet,
    read,
    rewrite::{Edit, Macs, Translation},
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

/// Sends the packet to the backend that its flow belongs to, as `dsr` does, with the backend's address and port in place of the VIP's.
#[inline(always)]
pub(crate) fn forward<A: Translated, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, arrival: &Arrival<'_, A>) -> S::Done {
    let backend = match arrival.owner(run.packet, run.tables) {
        Ok(backend) if arrival.ttl(run.packet) > 1 => backend,
        Ok(_) => return run.end(arrival.service(), Reason::TtlExceeded),
        Err(reason) => return run.end(arrival.service(), reason),
    };
    let headers = &arrival.headers;
    run.forward_unremembered(arrival, backend, 0, || {
        let tuple = Tuple {
            src: arrival.src,
            dst: load_address!(A, backend.entry, Backend.addr),
            ports: ports(headers.ports as u16, backend.port_for((headers.ports >> 16) as u16)),
        };
        A::edit(Translation { tuple, l3: headers.l3, l4: headers.l4, tcp: headers.proto == TCP })
    })
}

/// A backend's answer.
pub(crate) struct Answer<'a, A> {
    id: u32,
    service: Shared<'a, ServiceInfo>,
    backend: Candidate<'a>,
    network: Network<A>,
}

/// Whose answer a packet is that is for no VIP. To be asked only where there are `dnat` services ([`Config::DNAT`]).
#[inline(always)]
pub(crate) fn find<'a, A: Translated, P: Packet, T: Tables>(
    packet: &P,
    tables: &'a T,
    config: Shared<'a, Config>,
    headers: &Headers<A>,
) -> Option<Answer<'a, A>> {
    let network = A::network(packet, headers.l3)?;
    let (id, service, backend) = source(tables, config, &headers.tuple(network.src), headers.proto)?;
    Some(Answer { id, service, backend, network })
}

/// The service and the backend that a packet of this tuple comes from.
#[inline(always)]
pub(crate) fn source<'a, A: Translated, T: Tables>(
    tables: &'a T,
    config: Shared<'a, Config>,
    tuple: &Tuple<A>,
    proto: u8,
) -> Option<(u32, Shared<'a, ServiceInfo>, Candidate<'a>)> {
    let key = tuple.ports & 0xffff | ((VipKind::REVERSE_PROTO | proto) as u32) << 16 | (A::FAMILY as u32) << 24;
    let (id, index) = match forward::find(tables, config, tuple.src, key) {
        Some(entry) => (read!(entry, Vip.service as u32), read!(entry, Vip.table as u16)),
        None if read!(config, Config.flags as u32) & Config::RANGES == 0 => return None,
        None => match find_range(tables, config, tuple.src, key) {
            0 => return None,
            range => ((range >> 48) as u32, (range >> 32) as u16),
        },
    };
    // What a backend says to this node itself, as it answers probes, is left alone.
    if forward::find(tables, config, tuple.dst, (VipKind::OWN_PROTO as u32) << 16 | (A::FAMILY as u32) << 24).is_some() {
        return None;
    }
    let service = tables.service(id)?;
    let backend = Candidate::at(tables, read!(service, ServiceInfo.backend_base as u32), index)?;
    // One that is gone, while the table has not been told yet.
    if backend.state() == BackendState::Absent {
        return None;
    }
    Some((id, service, backend))
}

/// What [`Vip::range`] says of the range of an address's ports that the key's is in; 0 = there is none. A function of its own, as the one that finds a
/// service by its range is.
#[cold]
#[inline(never)]
fn find_range<A: Address, T: Tables>(tables: &T, config: Shared<'_, Config>, addr: A, key: u32) -> u64 {
    let several = key & !0xffff | (VipKind::REVERSE_RANGES_PROTO as u32) << 16;
    let Some(entry) = forward::find(tables, config, addr, several) else { return 0 };
    let port = u16::from_be(key as u16);
    let [first, second, third, fourth] = [
        entry.load::<u64, { Vip::RANGES[0] }>(),
        entry.load::<u64, { Vip::RANGES[1] }>(),
        entry.load::<u64, { Vip::RANGES[2] }>(),
        entry.load::<u64, { Vip::RANGES[3] }>(),
    ];
    let has_it = |range: u64| (range as u16) <= port && port <= (range >> 16) as u16;
    match () {
        () if has_it(first) => first,
        () if has_it(second) => second,
        () if has_it(third) => third,
        () if has_it(fourth) => fourth,
        () => 0,
    }
}

impl<A: Translated> Answer<'_, A> {
    /// Id of the service.
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    #[inline(always)]
    pub(crate) fn stats(&self) -> u32 {
        self.backend.stats()
    }

    /// What the answer is to come from.
    #[inline(always)]
    pub(crate) fn vip(&self) -> A {
        load_address!(A, self.service, ServiceInfo.addr)
    }

    /// The port of an answer with these headers.
    #[inline(always)]
    pub(crate) fn port(&self, headers: &Headers<A>) -> u16 {
        either(read!(self.service, ServiceInfo.port as u16), headers.ports as u16)
    }

    #[inline(always)]
    pub(crate) fn way<P: Packet>(&self, packet: &P) -> Option<(Macs, u32)> {
        way(packet, self.backend)
    }
}

/// Sends an answer on as if from the VIP: to the service's next hop, or by the host's own routes.
#[inline(always)]
pub(crate) fn reply<A: Translated, P: Packet, T: Tables, S: Sink<P, T>>(
    run: Run<'_, P, T, S>,
    headers: &Headers<A>,
    answer: Answer<'_, A>,
) -> S::Done {
    let Answer { id, service, backend, network: Network { ttl, .. } } = answer;
    let (flags, bytes) = match headers.check(run.packet) {
        Ok(Sound { flags, bytes, .. }) if ttl > 1 => (flags, bytes),
        Ok(_) => return run.end(id, Reason::TtlExceeded),
        Err(Reason::Fragment) => return run.aside(Cause::fragment(id, Reason::Fragment)),
        Err(reason) => return run.end(id, reason),
    };
    let Some((macs, ifindex)) = way(run.packet, backend) else { return run.end(id, Reason::NextHop) };
    let stats = backend.stats();
    // Handshakes are watched by the client's packets: an answer does not know its flow's hash.
    run.sink.note(run.tables, || stats, Sign { reply: true, flags, hash: 0, left_out: 1 });
    let tuple = || Tuple {
        src: load_address!(A, service, ServiceInfo.addr),
        dst: headers.dst,
        ports: ports(either(read!(service, ServiceInfo.port as u16), headers.ports as u16), (headers.ports >> 16) as u16),
    };
    let network = || A::edit(Translation { tuple: tuple(), l3: headers.l3, l4: headers.l4, tcp: headers.proto == TCP });
    let way = Way { reason: Reason::Replied, opens: false, stats, ifindex, bytes, room: 0 };
    run.send(way, || id, || Edit { macs, network: network() })
}

/// Ethernet addresses and interface of an answer. `None`: the next hop that the service names is not resolved.
#[inline(always)]
pub(crate) fn way<P: Packet>(packet: &P, backend: Candidate<'_>) -> Option<(Macs, u32)> {
    if backend.flags() & Backend::REPLY_HOP == 0 {
        return Some((received_macs(packet.at::<12>(0)?), Sending::TO_HOST));
    }
    let (first, second) = (backend.entry.load::<u64, { Backend::REPLY_AT }>(), backend.entry.load::<u64, { Backend::REPLY_AT + 8 }>());
    let ifindex = (second >> 32) as u32;
    let macs = Macs { dst: first & 0xffff_ffff_ffff, src: first >> 48 | (second & 0xffff_ffff) << 16 };
    (ifindex != 0).then_some((macs, ifindex))
}
