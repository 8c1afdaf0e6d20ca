//! Translation: flows that are remembered, so that replies find their client and a flow depends on no slot.
//!
//! A flow's place in the flow map is a hash of its reply (backend, source address and port); the index leads there from the client's side. An
//! entry belongs to whoever changed its claim from free, or from expired, to busy. Readers compare the claim before and after.

mod index;
mod life;
mod open;
mod reply;

pub(crate) use index::find;
pub use life::{Life, Phase};
pub use open::{Opening, open_flow};
pub(crate) use open::{opened, prepare};
pub(crate) use reply::{find as find_reply, reply};

use crate::{
    abi::{Backend, Config, NatFlow, NatSource, Reason, ServiceFlags, Vip},
    flow::{Tuple, V4, V6, load_address, ports},
    forward::{Arrival, Run, Sink},
    header::{Headers, Ip, TCP, tcp},
    packet::{Packet, u32_at, u64_at},
    put, quic, read,
    rewrite::{Macs, Network, Translation},
    schedule,
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

/// Sends a client's packet the way of its flow; one that may open a flow opens one where none stands.
///
/// A flow stays with its backend whatever becomes of slots and states, unless the backend is dead or a connection id names another one. Then, and when a SYN comes for a flow that is
/// over, the flow ends and a new backend is selected; any other TCP packet for a dead backend ends as [`Reason::NoBackend`].
#[inline(always)]
pub(crate) fn forward<A: Translated, P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, arrival: &Arrival<'_, A>) -> S::Done {
    let flow = match known(run.packet, run.tables, arrival) {
        Ok(Some((backend, parties))) => Ok((backend, parties, false)),
        Ok(None) if S::PLAIN => return run.other(),
        Ok(None) => begun(run.packet, run.tables, arrival),
        Err(reason) => Err(reason),
    };
    match flow {
        Ok((backend, parties, opens)) => run.forward(arrival, backend, opens, 0, || translation(arrival, backend, parties)),
        Err(reason) => run.end(arrival.service(), reason),
    }
}

/// The backend and the parties of a flow that the packet opens, and that it is new.
#[inline(always)]
fn begun<'a, A: Translated, P: Packet, T: Tables>(
    packet: &P,
    tables: &'a T,
    arrival: &Arrival<'a, A>,
) -> Result<(Candidate<'a>, Parties, bool), Reason> {
    let parties = open::open(packet, tables, arrival)?;
    match Candidate::at(tables, read!(arrival.vip, Vip.backend_base as u32), parties.backend()) {
        Some(backend) => Ok((backend, parties, true)),
        None => Err(Reason::NoBackend),
    }
}

/// The packet's flow, if it stands; `None`: one has to be opened, which the packet may do.
#[inline(always)]
pub(crate) fn known<'a, A: Translated, P: Packet, T: Tables>(
    packet: &P,
    tables: &'a T,
    arrival: &Arrival<'a, A>,
) -> Result<Option<(Candidate<'a>, Parties)>, Reason> {
    if let Some((flow, parties)) = index::find(tables, arrival) {
        let now = tables.tick();
        let tcp = arrival.headers.proto == TCP;
        let life = Life::of(flow);
        let expired = life.expired_by(tcp, now, arrival.config);
        // Whether the daemon has swept or not: a flow that has been silent for too long is no flow.
        let over = expired || arrival.connects(packet) && life.is_closed(tcp);
        // Where an id names somebody else, the client's port has another connection now.
        let index = quic::unless_another(tables, arrival.wanted(), parties.backend());
        let backend = Candidate::at(tables, read!(arrival.vip, Vip.backend_base as u32), index);
        match backend.filter(|backend| backend.state().keeps_old()) {
            Some(backend) if !over => {
                if !backend.ready() {
                    return Err(Reason::NextHop);
                }
                if arrival.ttl(packet) <= 1 {
                    return Err(Reason::TtlExceeded);
                }
                let flags = arrival.flags(packet);
                let ends = life.ends_by(tcp, life.client_flags(flags));
                if ends && arrival.wanted() & ServiceFlags::CHOOSES != 0 {
                    schedule::ended(tables, backend.stats());
                }
                life.client_sent(tables, flow, tcp, flags, now);
                remember_link(packet, flow, &arrival.headers);
                return Ok(Some((backend, parties)));
            }
            _ if !arrival.may_open(packet) => return Err(if over { Reason::NoFlow } else { Reason::NoBackend }),
            _ => open::abandon(tables, flow, Parties::claim(arrival.hash)),
        }
    }
    Ok(None)
}

/// Families that the engine can translate.
pub(crate) trait Translated: Ip {
    fn edit(translation: Translation<Self>) -> Network;
}

impl Translated for V4 {
    #[inline(always)]
    fn edit(translation: Translation<Self>) -> Network {
        Network::V4(translation)
    }
}

impl Translated for V6 {
    #[inline(always)]
    fn edit(translation: Translation<Self>) -> Network {
        Network::V6(translation)
    }
}

/// The word of a flow that names the parties: `client_port | nat_port | nat_source | backend`.
#[derive(Clone, Copy)]
pub(crate) struct Parties(u64);

impl Parties {
    pub(crate) const fn new(client_port: u16, nat_port: u16, nat_source: u16, backend: u16) -> Self {
        Self(client_port as u64 | (nat_port as u64) << 16 | (nat_source as u64) << 32 | (backend as u64) << 48)
    }

    #[inline(always)]
    pub(crate) fn of(flow: Shared<'_, NatFlow>) -> Self {
        Self(read!(flow, NatFlow.client_port as u64))
    }

    /// What the claim of a flow of this hash is.
    pub(crate) const fn claim(hash: u64) -> u64 {
        hash | 2
    }

    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub(crate) fn put(self, flow: Shared<'_, NatFlow>) {
        put!(flow, NatFlow.client_port as u64, self.0);
    }

    pub(crate) const fn client_port(self) -> u16 {
        self.0 as u16
    }

    pub(crate) const fn nat_port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    pub(crate) const fn nat_source(self) -> u16 {
        (self.0 >> 32) as u16
    }

    pub(crate) const fn backend(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

impl<A> Arrival<'_, A> {
    /// The packet may begin a flow: any UDP packet, of TCP a SYN alone.
    #[inline(always)]
    pub(crate) fn may_open<P: Packet>(&self, packet: &P) -> bool {
        self.headers.proto != TCP || self.flags(packet) & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }
}

/// How a client's packet is changed on its way to `backend`.
#[inline(always)]
fn translation<A: Translated>(arrival: &Arrival<'_, A>, backend: Candidate<'_>, parties: Parties) -> Network {
    let source = arrival.config.source(parties.nat_source() as u64);
    let headers = &arrival.headers;
    let tuple = Tuple {
        src: load_address!(A, source, NatSource.addr),
        dst: load_address!(A, backend.entry, Backend.addr),
        ports: ports(parties.nat_port(), backend.port_for((headers.ports >> 16) as u16)),
    };
    A::edit(Translation { tuple, l3: headers.l3, l4: headers.l4, tcp: headers.proto == TCP })
}

/// Notes where the client's packets come from: replies go back there. It is written only where it changed, as when a router was replaced.
#[inline(always)]
fn remember_link<A, P: Packet>(packet: &P, flow: Shared<'_, NatFlow>, headers: &Headers<A>) {
    let Some(ethernet) = packet.at::<12>(0) else { return };
    let macs = received_macs(ethernet);
    let (client, own) = (client_word(macs, headers.proto), own_word(macs, headers.ports));
    if read!(flow, NatFlow.client_mac as u64) != client {
        put!(flow, NatFlow.client_mac as u64, client);
    }
    if read!(flow, NatFlow.own_mac as u64) != own {
        put!(flow, NatFlow.own_mac as u64, own);
    }
    let ifindex = packet.ifindex();
    if read!(flow, NatFlow.ifindex as u32) != ifindex {
        put!(flow, NatFlow.ifindex as u32, ifindex);
    }
}

/// The word of a flow that holds the client's MAC and the protocol.
#[inline(always)]
const fn client_word(macs: Macs, proto: u8) -> u64 {
    macs.src | (proto as u64) << 48
}

/// The word of a flow that holds our own MAC and the port that the client asked for, the upper one of `ports`.
#[inline(always)]
const fn own_word(macs: Macs, ports: u32) -> u64 {
    macs.dst | (ports as u64 >> 16) << 48
}

/// The port in such a word, as it stood in the packet.
#[inline(always)]
const fn asked_port(own_word: u64) -> u16 {
    (own_word >> 48) as u16
}

/// The Ethernet addresses of a frame as it came.
#[inline(always)]
pub(crate) fn received_macs(ethernet: &[u8; 12]) -> Macs {
    let first = u64_at::<0, _>(ethernet);
    Macs { dst: first & 0xffff_ffff_ffff, src: first >> 48 | (u32_at::<8, _>(ethernet) as u64) << 16 }
}

/// There may be translated flows.
#[inline(always)]
pub(crate) fn is_on(config: Shared<'_, Config>) -> bool {
    reply_ports(config).1 != 0
}

/// Ports between which all replies to translated flows come: the first, and how many.
#[inline(always)]
fn reply_ports(config: Shared<'_, Config>) -> (u16, u16) {
    let word = read!(config, Config.nat.reply_first as u32);
    (word as u16, (word >> 16) as u16)
}
