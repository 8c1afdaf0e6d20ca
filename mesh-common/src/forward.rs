//! The decision: frame + tables -> verdict. Nothing is changed here but NAT flows.

use network_types::eth::EtherType;

use crate::{
    abi::{Config, LedgerEntry, Mode, Reason, ServiceFlags, TableRef, Vip, VipHalf},
    aside::Cause,
    dnat,
    flow::{Address, Tuple, load_address},
    flow_log::{self, Beginning},
    guard, handshake, hash,
    header::{self, Headers, tcp},
    ledger::rules::Sent,
    nat::{self, Translated},
    packet::{Packet, u32_at},
    quic, read,
    rewrite::{Edit, Network},
    schedule,
    select::{self, Candidate},
    shared::{Shared, opaque},
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
    /// Bytes of the frame up to the end of the IP packet.
    pub end: usize,
    pub edit: Edit,
}

impl Sending {
    /// In place of an interface: the host is to route the changed packet.
    pub const TO_HOST: u32 = u32::MAX;
}

/// What a packet that is sent on tells of its flow. Of most packets that is nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sign {
    /// Index of the backend's counters.
    pub stats: u32,
    pub reply: bool,
    /// The packet opens a flow.
    pub opens: bool,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Hash of the flow if its handshake is watched, else 0.
    pub drawn: u64,
}

/// A packet that was found to be for a VIP, with what is known of it.
pub(crate) struct Arrival<'a, A> {
    pub config: Shared<'a, Config>,
    pub vip: Shared<'a, Vip>,
    pub headers: Headers<A>,
    pub network: header::Network<A>,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
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

/// Where decisions end. What is done with one is compiled into each of the places that decisions are made at, so that nothing of a verdict has to
/// be kept in memory, where a verifier loses track of what it means.
pub(crate) trait Sink<P, T> {
    type Done;

    /// Is told which service the packet is for, before anything is decided.
    #[inline(always)]
    fn arrived<A: Address>(&self, _: &Arrival<'_, A>) {}
    fn end(self, packet: &mut P, tables: &T, service: u32, reason: Reason) -> Self::Done;
    /// A packet is about to be sent.
    fn note(&self, tables: &T, sign: Sign);
    /// The packet begins a flow that nobody translates and that is to be told of.
    #[inline(always)]
    fn begins(&self, _: &T, _: Beginning) {}
    fn send(self, packet: &mut P, tables: &T, sending: Sending) -> Self::Done;
    fn aside(self, packet: &mut P, tables: &T, cause: Cause) -> Self::Done;
}

/// The verdict itself is all that is wanted.
struct Tell;

impl<P, T> Sink<P, T> for Tell {
    type Done = Verdict;

    #[inline(always)]
    fn end(self, _: &mut P, _: &T, service: u32, reason: Reason) -> Verdict {
        Verdict::End { service, reason }
    }

    #[inline(always)]
    fn note(&self, _: &T, _: Sign) {}

    #[inline(always)]
    fn send(self, _: &mut P, _: &T, sending: Sending) -> Verdict {
        Verdict::Send(sending)
    }

    #[inline(always)]
    fn aside(self, _: &mut P, _: &T, cause: Cause) -> Verdict {
        Verdict::End { service: cause.service(), reason: cause.reason() }
    }
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
    pub(crate) fn send(self, sending: Sending) -> S::Done {
        self.sink.send(self.packet, self.tables, sending)
    }

    /// Sends a client's packet to `backend`. What is changed in it is asked for last, so that little has to be kept until then.
    #[inline(always)]
    pub(crate) fn forward<A>(
        self,
        arrival: &Arrival<'_, A>,
        backend: Candidate<'_>,
        opens: bool,
        network: impl FnOnce() -> Network,
    ) -> S::Done {
        let stats = backend.stats();
        let drawn = handshake::drawn(arrival.config, arrival.hash);
        self.sink.note(self.tables, Sign { stats, reply: false, opens, flags: arrival.flags, drawn });
        self.send(Sending {
            reason: Reason::Forwarded,
            service: arrival.service(),
            stats,
            ifindex: backend.ifindex(),
            end: arrival.network.end,
            edit: Edit { macs: backend.macs(), network: network() },
        })
    }

    /// [`Self::forward`] where flows are not remembered: one begins with a SYN or, without handshakes, with whatever comes.
    #[inline(always)]
    pub(crate) fn forward_unremembered<A: Address>(
        self,
        arrival: &Arrival<'_, A>,
        backend: Candidate<'_>,
        network: impl FnOnce() -> Network,
    ) -> S::Done {
        let opens = arrival.connects();
        if flow_log::is_drawn(arrival.hash, read!(arrival.config, Config.flow_sample as u32))
            && (opens || arrival.headers.proto != header::TCP)
        {
            self.sink.begins(self.tables, Beginning::new(arrival, backend.stats(), arrival.sent(self.packet)));
        }
        self.forward(arrival, backend, opens, network)
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
    let hash = hash::vip(addr, key, read!(half, VipHalf.seed as u64));
    let index = hash::displacement_index(hash, read!(half, VipHalf.displacement_mask as u32));
    let displacement = config.displacement(active, index as u64);
    let position = hash::position_in(hash, read!(half, VipHalf.base as u32), read!(half, VipHalf.mask as u32), displacement);
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
    let (network, flags) = match headers.check(run.packet) {
        Ok(sound) => sound,
        Err(Reason::Fragment) => return run.aside(Cause::fragment(service(), Reason::Fragment)),
        Err(reason) => return run.end(service(), reason),
    };
    let hash = hash::flow(&headers.tuple(&network), hash::key(config), read!(vip, Vip.seed as u64));
    let arrival = Arrival { config, vip, headers, network, flags, hash };
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
        Ok(backend) => run.forward_unremembered(arrival, backend, || Network::Untouched),
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
        let tuple = Tuple { src: self.network.src, dst: self.headers.dst, ports: self.headers.ports };
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
        let base = read!(self.vip, Vip.backend_base as u32);
        // However it came about, a verifier follows what comes of it once.
        let asked = opaque(schedule::ask_for_owner(tables, self), self.hash);
        select::owners(tables, self.slot(), base, asked, || LedgerEntry::key(self.hash, self.service()), || self.sent(packet))
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
            flags if flags & tcp::RST != 0 => Sent::Reset,
            _ => Sent::Segment { seq: number },
        }
    }
}
