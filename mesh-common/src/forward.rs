//! The decision: frame + tables -> verdict. Nothing is changed here but NAT flows.

mod sink;

use network_types::eth::EtherType;

use sink::Tell;
pub(crate) use sink::{Sign, Sink, Way};

use crate::{
    abi::{Config, LedgerEntry, Mode, Reason, ServiceFlags, TableRef, Vip, VipHalf},
    aside::Cause,
    dnat,
    flow::{Address, Tuple, load_address},
    flow_log::{self, Beginning},
    guard, handshake, hash,
    header::{self, Headers, Ip, Sound, tcp},
    ledger::rules::Sent,
    nat::{self, Translated},
    packet::{Packet, u32_at},
    quic, read,
    rewrite::{Edit, Network},
    schedule,
    select::{self, Candidate},
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

/// A packet that was found to be for a VIP, with what is known of it.
pub(crate) struct Arrival<'a, A> {
    pub config: Shared<'a, Config>,
    pub vip: Shared<'a, Vip>,
    pub headers: Headers<A>,
    pub src: A,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// As in [`Sound`].
    pub bytes: usize,
    /// Hash of the flow.
    pub hash: u64,
}

impl<A> Arrival<'_, A> {
    /// Id of the service. Read where it is needed, as what else stands in the VIP's entry: to keep it would take room on the stack.
    #[inline(always)]
    pub(crate) fn service(&self) -> u32 {
        read!(self.vip, Vip.service as u32)
    }

    /// The packet asks for a TCP connection.
    #[inline(always)]
    pub(crate) fn connects(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
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
        let stats = backend.stats();
        let drawn = handshake::is_drawn(arrival.config, arrival.hash);
        self.sink.note(self.tables, Sign { stats, reply: false, opens, flags: arrival.flags, hash: arrival.hash, drawn });
        let way = Way { reason: Reason::Forwarded, stats, ifindex: backend.ifindex(), bytes: arrival.bytes, room };
        self.send(way, || arrival.service(), || Edit { macs: backend.macs(), network: network() })
    }

    /// [`Self::forward`] where flows are not remembered: one begins with a SYN or, without handshakes, with whatever comes.
    #[inline(always)]
    pub(crate) fn forward_unremembered<A: Address>(
        self,
        arrival: &Arrival<'_, A>,
        backend: Candidate<'_>,
        room: usize,
        network: impl Fn() -> Network,
    ) -> S::Done {
        let opens = arrival.connects();
        if (opens || arrival.headers.proto != header::TCP)
            && flow_log::is_drawn(arrival.hash, read!(arrival.config, Config.flow_sample as u32))
        {
            self.sink.begins(self.tables, Beginning::new(arrival, backend.stats(), arrival.sent(self.packet)));
        }
        self.forward(arrival, backend, opens, room, network)
    }

    /// Leaves the packet to [`crate::aside::take`].
    #[inline(always)]
    pub(crate) fn aside(self, cause: Cause) -> S::Done {
        self.sink.aside(self.packet, self.tables, cause)
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
    match find_service(run.tables, config, headers.dst, key) {
        Some(vip) => service(run, config, vip, headers),
        None => {
            if read!(config, Config.flags as u32) & Config::DNAT != 0
                && let Some(answer) = dnat::find(run.packet, run.tables, config, &headers)
            {
                return dnat::reply(run, &headers, answer);
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
            let hash = hash::vip(addr, key, seed);
            let displacement = config.displacement(active, hash::displacement_index(hash, mask) as u64);
            hash::position_in(hash, base, read!(half, VipHalf.mask as u32), displacement)
        }
    };
    let vip = tables.vip(position)?;
    (read!(vip, Vip.port as u32) == key && load_address!(A, vip, Vip.addr) == addr).then_some(vip)
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
    const DSR: u8 = Mode::Dsr as u8;
    const NAT: u8 = Mode::Nat as u8;
    const DNAT: u8 = Mode::Dnat as u8;
    const TUNNEL: u8 = Mode::Tunnel as u8;
    // Read where it is needed, and not kept.
    let service = || read!(vip, Vip.service as u32);
    let wanted = read!(vip, Vip.flags as u16);
    if wanted & (guard::ASKED | ServiceFlags::SEVERAL | ServiceFlags::QUIC) != 0 {
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
    let Sound { src, flags, bytes } = match headers.check(run.packet) {
        Ok(sound) => sound,
        Err(Reason::Fragment) => return run.aside(Cause::fragment(service(), Reason::Fragment)),
        Err(reason) => return run.end(service(), reason),
    };
    let hash = hash::flow(&headers.tuple(src), hash::key(config), read!(vip, Vip.seed as u64));
    let arrival = Arrival { config, vip, headers, src, flags, bytes, hash };
    run.sink.arrived(&arrival);
    match read!(vip, Vip.mode as u8) {
        DSR => dsr(run, &arrival),
        NAT => nat::forward(run, &arrival),
        DNAT => dnat::forward(run, &arrival),
        TUNNEL => tunnel::forward(run, &arrival),
        _ => run.end(service(), Reason::BadTable),
    }
}

/// Sends the frame on to the backend that its flow belongs to, with nothing but the Ethernet addresses changed.
#[inline(always)]
fn dsr<A: Address, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, arrival: &Arrival<'_, A>) -> S::Done {
    match arrival.owner(run.packet, run.tables) {
        Ok(backend) => run.forward_unremembered(arrival, backend, 0, || Network::Untouched),
        Err(reason) => run.end(arrival.service(), reason),
    }
}

impl<'a, A: Address> Arrival<'a, A> {
    /// What chooses the flow's slot: its hash, or that of some fields where the service wants it so.
    #[inline(always)]
    pub(crate) fn chooser(&self) -> u64 {
        let wanted = read!(self.vip, Vip.flags as u16);
        if wanted & ServiceFlags::FEWER_FIELDS == 0 {
            return self.hash;
        }
        let tuple = Tuple { src: self.src, dst: self.headers.dst, ports: self.headers.ports };
        hash::fields(&tuple, self.headers.proto, hash::key(self.config), wanted)
    }

    /// Where in the arena the flow's slot is.
    #[inline(always)]
    pub(crate) fn slot(&self) -> u32 {
        select::slot_index(TableRef(read!(self.vip, Vip.table as u64)), self.chooser())
    }

    /// The backend that the packet's flow belongs to, where nobody translates.
    #[inline(always)]
    pub(crate) fn owner<P: Packet, T: Tables>(&self, packet: &P, tables: &'a T) -> Result<Candidate<'a>, Reason> {
        self.owners(packet, tables).map(|(owner, _)| owner)
    }

    /// The same, and who else may have the flow: a live backend of `tunnel` by GUE, or [`crate::abi::SlotWord::NONE`].
    #[inline(always)]
    pub(crate) fn owners<P: Packet, T: Tables>(&self, packet: &P, tables: &'a T) -> Result<(Candidate<'a>, u16), Reason> {
        let at = self.slot();
        let Some(slot) = tables.slot(at) else { return Err(Reason::BadTable) };
        // Not before: what is known by then would have to be kept meanwhile.
        let asked = schedule::ask_for_owner(tables, self);
        let base = read!(self.vip, Vip.backend_base as u32);
        select::owners(tables, (at, slot), base, asked, || LedgerEntry::key(self.hash, self.service()), || self.sent(packet))
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub(crate) fn ttl<P: Packet>(&self, packet: &P) -> u8
    where
        A: Ip,
    {
        A::network(packet, self.headers.l3).map_or(0, |network| network.ttl)
    }

    /// What the packet tells of its flow to the ledger.
    #[inline(always)]
    pub(crate) fn sent<P: Packet>(&self, packet: &P) -> Sent {
        if self.headers.proto != header::TCP {
            return Sent::Datagram;
        }
        let number = packet.at::<8>(self.headers.l4).map_or(0, |tcp| u32::from_be(u32_at::<4, _>(tcp)));
        match self.flags & (tcp::SYN | tcp::ACK | tcp::RST) {
            tcp::SYN => Sent::Syn { isn: number },
            flags if flags & tcp::RST != 0 => Sent::Reset { seq: number },
            _ if self.flags & tcp::FIN != 0 => Sent::Fin { seq: number },
            _ => Sent::Segment { seq: number },
        }
    }
}
