//! The decision: frame + tables -> verdict. Nothing is changed here but NAT flows.

mod arrival;
mod sink;

use network_types::eth::EtherType;

pub(crate) use arrival::Arrival;
use sink::Tell;
pub(crate) use sink::{Sign, Sink, Way};

use crate::{
    abi::{Config, Mode, Reason, ServiceFlags, Vip, VipHalf},
    aside::Cause,
    dnat,
    flow::{Address, load_address},
    flow_log::{self, Beginning},
    guard, handshake, hash,
    header::{self, Headers, Ip, Sound},
    nat::{self, Translated},
    packet::Packet,
    quic, read,
    rewrite::{Edit, Network},
    select::Candidate,
    shared::Shared,
    tables::Tables,
    tunnel,
};

/// What becomes of a packet.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is not sent on; [`Reason::action`] says whether the host gets it. Service 0: none is concerned.
    End { service: u32, reason: Reason },
    /// It is changed and sent on.
    Send(Sending),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sending {
    /// To a backend ([`Reason::Forwarded`]) or to a client ([`Reason::Replied`]).
    pub reason: Reason,
    pub service: u32,
    /// Index of the backend's counters.
    pub stats: u32,
    /// Interface to leave by; 0 = the one that the packet came in by; [`Sending::TO_HOST`].
    pub ifindex: u32,
    /// Bytes of the frame, as they are counted.
    pub bytes: usize,
    pub edit: Edit,
}

impl Sending {
    /// In place of an interface: the host is to route the changed packet.
    pub const TO_HOST: u32 = u32::MAX;
}

/// Decides what becomes of a packet.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(packet: &P, tables: &T) -> Verdict {
    Run { packet: &mut { packet }, tables, sink: Tell }.start()
}

/// One packet on its way through the engine.
pub(crate) struct Run<'a, P, T, S> {
    pub packet: &'a mut P,
    pub tables: &'a T,
    pub sink: S,
}

impl<P: Packet, T: Tables, S: Sink<P, T>> Run<'_, P, T, S> {
    #[inline(always)]
    pub(crate) fn start(self) -> S::Done {
        const IPV4: u16 = EtherType::Ipv4 as u16;
        const IPV6: u16 = EtherType::Ipv6 as u16;
        match header::ethernet(self.packet) {
            (IPV4, l3) => header::ipv4(self, l3),
            (IPV6, l3) => header::ipv6(self, l3),
            _ => self.foreign(),
        }
    }

    #[inline(always)]
    pub(crate) fn end(self, service: u32, reason: Reason) -> S::Done {
        self.sink.end(self.packet, self.tables, service, reason)
    }

    #[inline(always)]
    pub(crate) fn send(self, way: Way, service: impl Fn() -> u32, edit: impl Fn() -> Edit) -> S::Done {
        self.sink.send(self.packet, self.tables, way, service, edit)
    }

    /// Sends a client's packet to `backend`, with `room` bytes more and with what `network` says changed.
    #[inline(always)]
    pub(crate) fn forward<A>(
        self,
        arrival: &Arrival<'_, A>,
        backend: Candidate<'_>,
        opens: bool,
        room: usize,
        network: impl Fn() -> Network,
    ) -> S::Done {
        // Without handshakes there is none to watch.
        let left_out = if arrival.headers.proto == header::TCP { handshake::left_out(self.tables, arrival.hash) } else { 1 };
        self.sink.note(
            self.tables,
            || backend.stats(),
            Sign { reply: false, flags: arrival.flags(self.packet), hash: arrival.hash, left_out },
        );
        let (stats, ifindex) = (backend.stats(), backend.ifindex());
        let way = Way { reason: Reason::Forwarded, opens, stats, ifindex, bytes: arrival.bytes, room };
        self.send(way, || arrival.service(), || Edit { macs: backend.macs(), network: network() })
    }

    /// [`Self::forward`] where flows are not remembered: one begins with a SYN or, without handshakes, with whatever comes.
    #[inline(always)]
    pub(crate) fn forward_unremembered<A: Ip>(
        self,
        arrival: &Arrival<'_, A>,
        backend: Candidate<'_>,
        room: usize,
        network: impl Fn() -> Network,
    ) -> S::Done {
        let mut opens = false;
        if arrival.headers.proto != header::TCP {
            self.begins(arrival, backend);
        } else if Sign::may_tell(arrival.flags(self.packet)) {
            // Most packets are in the midst of a flow. Those that are not take a way of their own, so that the others aren't asked again.
            core::hint::cold_path();
            opens = arrival.connects(self.packet);
            if opens {
                self.begins(arrival, backend);
            }
            if S::PLAIN {
                return self.forward(arrival, backend, opens, room, network);
            }
        }
        self.forward(arrival, backend, opens, room, network)
    }

    /// Tells of a flow that begins, if it is one of the sample.
    #[inline(always)]
    fn begins<A: Ip>(&self, arrival: &Arrival<'_, A>, backend: Candidate<'_>) {
        if flow_log::is_drawn(arrival.hash, read!(arrival.config, Config.flow_sample as u32)) {
            core::hint::cold_path();
            // Read anew: to keep the source would take room on the stack.
            let src = A::network(self.packet, arrival.headers.l3).map_or(arrival.src, |network| network.src);
            self.sink.begins(self.tables, Beginning::new(src, arrival, backend.stats(), arrival.sent(self.packet)));
        }
    }

    /// Leaves the packet to [`crate::aside::take`].
    #[inline(always)]
    pub(crate) fn aside(self, cause: Cause) -> S::Done {
        self.sink.aside(self.packet, self.tables, cause)
    }

    /// Leaves the packet to who takes packets of every kind.
    #[inline(always)]
    pub(crate) fn other(self) -> S::Done {
        core::hint::cold_path();
        self.sink.other(self.packet, self.tables)
    }

    /// No VIP is concerned.
    #[inline(always)]
    pub(crate) fn foreign(self) -> S::Done {
        self.end(0, Reason::NotForVip)
    }
}

/// Goes on with a packet that has ports.
#[inline(always)]
pub(crate) fn flow<A: Translated, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, headers: Headers<A>) -> S::Done {
    let Some(config) = run.tables.config() else { return run.foreign() };
    let key = (headers.ports >> 16) | (headers.proto as u32) << 16 | (A::FAMILY as u32) << 24;
    if S::PLAIN {
        let vip = find(run.tables, config, headers.dst, key);
        // The same: to find it once more takes less than to keep it.
        let config = run.tables.config().unwrap_or(config);
        if let Some(vip) = vip {
            return service(run, config, vip, headers);
        }
        return match read!(config, Config.flags as u32) & (Config::NAT | Config::RANGES | Config::DNAT) {
            0 => run.foreign(),
            Config::NAT => nat::reply(run, config, &headers),
            _ => run.other(),
        };
    }
    match find_service(run.tables, config, headers.dst, key) {
        Some(vip) => service(run, config, vip, headers),
        None => {
            if read!(config, Config.flags as u32) & Config::DNAT != 0
                && let Some(answer) = dnat::find(run.packet, run.tables, config, &headers)
            {
                return dnat::reply(run, &headers, answer);
            }
            if read!(config, Config.flags as u32) & Config::NAT == 0 {
                return run.foreign();
            }
            nat::reply(run, config, &headers)
        }
    }
}

/// Goes on with a packet without ports: for a VIP's address it ends for `reason`, else it is none of our business.
#[inline(always)]
pub(crate) fn portless<A: Address, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, dst: A, reason: Reason) -> S::Done {
    let Some(config) = run.tables.config() else { return run.foreign() };
    let ours = find(run.tables, config, dst, (A::FAMILY as u32) << 24).is_some();
    match (ours, reason) {
        (true, Reason::Icmp) => run.aside(Cause::new(0, Reason::Icmp)),
        // It may be about a packet to a backend.
        (false, Reason::Icmp) if nat::is_on(config) || read!(config, Config.flags as u32) & (Config::DNAT | Config::TUNNEL) != 0 => {
            run.aside(Cause::new(0, Reason::NotForVip))
        }
        (true, Reason::Fragment) => run.aside(Cause::fragment(0, Reason::Fragment)),
        // It may be of an answer.
        (false, Reason::Fragment) if nat::is_on(config) || read!(config, Config.flags as u32) & Config::DNAT != 0 => {
            run.aside(Cause::fragment(0, Reason::NotForVip))
        }
        (true, reason) => run.end(0, reason),
        (false, _) => run.foreign(),
    }
}

/// The entry of the VIP table for an address and `port | proto | family`, as they lie in memory.
#[inline(always)]
pub(crate) fn find<'a, A: Address, T: Tables>(tables: &'a T, config: Shared<'a, Config>, addr: A, key: u32) -> Option<Shared<'a, Vip>> {
    let active = read!(config, Config.active as u32);
    let half = config.half(active);
    let (seed, base) = (read!(half, VipHalf.seed as u64), read!(half, VipHalf.base as u32));
    let position = match read!(half, VipHalf.displacement_mask as u32) {
        0 => hash::plain(addr, key, seed, base, read!(half, VipHalf.shift as u32)),
        mask => {
            // Tables of many services have the longer way.
            core::hint::cold_path();
            let hash = hash::vip(addr, key, seed);
            let displacement = config.displacement(active, hash::displacement_index(hash, mask) as u64);
            hash::position_in(hash, base, read!(half, VipHalf.mask as u32), displacement)
        }
    };
    let vip = tables.vip(position)?;
    if read!(vip, Vip.port as u32) != key || load_address!(A, vip, Vip.addr) != addr {
        // What is for no VIP has little before it.
        core::hint::cold_path();
        return None;
    }
    Some(vip)
}

/// The entry of the service that has the key's port, alone or among several. Most packets that are asked about a second time are for no VIP, and are
/// told so by a flag.
#[inline(always)]
pub(crate) fn find_service<'a, A: Address, T: Tables>(
    tables: &'a T,
    config: Shared<'a, Config>,
    addr: A,
    key: u32,
) -> Option<Shared<'a, Vip>> {
    match find(tables, config, addr, key) {
        Some(vip) => Some(vip),
        None if read!(config, Config.flags as u32) & Config::RANGES == 0 => None,
        None => find_range(tables, config, addr, key),
    }
}

/// The entry of a service of several ports, one of which is the key's. A function of its own: it would take its share of every packet's stack.
#[cold]
#[inline(never)]
fn find_range<'a, A: Address, T: Tables>(tables: &'a T, config: Shared<'a, Config>, addr: A, key: u32) -> Option<Shared<'a, Vip>> {
    let vip = find(tables, config, addr, key & !0xffff)?;
    let (port, ports) = (u16::from_be(key as u16), read!(vip, Vip.ports as u32));
    let (first, last) = (ports as u16, (ports >> 16) as u16);
    (first <= port && port <= last).then_some(vip)
}

#[inline(always)]
fn service<'a, A: Translated, P: Packet, T: Tables, S: Sink<P, T>>(
    run: Run<'a, P, T, S>,
    config: Shared<'a, Config>,
    vip: Shared<'a, Vip>,
    headers: Headers<A>,
) -> S::Done {
    const DSR: u32 = Mode::Dsr as u32;
    const NAT: u32 = Mode::Nat as u32;
    const DNAT: u32 = Mode::Dnat as u32;
    const TUNNEL: u32 = Mode::Tunnel as u32;
    // Read where it is needed, and not kept.
    let service = || read!(vip, Vip.service as u32);
    let word = read!(vip, Vip.mode as u32);
    let wanted = (word >> 16) as u16;
    if !S::PLAIN && wanted & (guard::ASKED | ServiceFlags::SEVERAL | ServiceFlags::QUIC) != 0 {
        // Port 0 is what its entry is found by, and none of them.
        if wanted & ServiceFlags::SEVERAL != 0 && headers.ports >> 16 == 0 {
            return run.foreign();
        }
        if let Some(refused) = guard::refused(run.packet, run.tables, vip, wanted, &headers) {
            return run.end(service(), refused);
        }
        if wanted & ServiceFlags::QUIC != 0 {
            quic::note(run.packet, run.tables, vip, headers.l4);
        }
    }
    let near = if S::PLAIN { vip.again() } else { vip };
    let Sound { src, flags, bytes } = match headers.check(run.packet) {
        Ok(sound) => sound,
        Err(_) if S::PLAIN => return run.other(),
        Err(Reason::Fragment) => return run.aside(Cause::fragment(service(), Reason::Fragment)),
        Err(reason) => return run.end(service(), reason),
    };
    let hash = hash::flow(&headers.tuple(src), hash::key(config), read!(near, Vip.seed as u64));
    let arrival = Arrival { config, vip, near, headers, src, flags, bytes, hash, plain: S::PLAIN };
    run.sink.arrived(&arrival);
    // What is wanted beside it makes it no mode that is known here.
    match if S::PLAIN { word & ((ServiceFlags::BESIDE as u32) << 16 | 0xff) } else { word & 0xff } {
        DSR => dsr(run, &arrival),
        NAT => nat::forward(run, &arrival),
        DNAT => dnat::forward(run, &arrival),
        TUNNEL => tunnel::forward(run, &arrival),
        _ if S::PLAIN => run.other(),
        _ => run.end(service(), Reason::BadTable),
    }
}

/// Sends the frame on to the backend that its flow belongs to, with nothing but the Ethernet addresses changed.
#[inline(always)]
fn dsr<A: Ip, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, arrival: &Arrival<'_, A>) -> S::Done {
    match arrival.owner(run.packet, run.tables) {
        Ok(backend) => run.forward_unremembered(arrival, backend, 0, || Network::Untouched),
        Err(reason) => run.end(arrival.service(), reason),
    }
}
