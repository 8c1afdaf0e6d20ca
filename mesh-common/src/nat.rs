//! Translation: flows that are remembered, so that replies find their client and a flow depends on no slot.
//!
//! A flow's place in the flow map is a hash of its reply (backend, source address and port); the index leads there from the client's side. An
//! entry belongs to whoever changed its claim from free, or from expired, to busy. Readers compare the claim before and after.

mod index;
mod life;
mod open;
mod reply;

pub use life::{Life, Phase};
pub(crate) use reply::reply;

use crate::{
    abi::{Backend, Config, NatFlow, NatSource, Reason, Vip},
    flow::{Address, Tuple, V4, V6, load_address, ports},
    forward::{Arrival, Sending, Verdict},
    header::{TCP, tcp},
    packet::{Packet, u32_at, u64_at},
    put, read,
    rewrite::{Edit, Macs, Network, Translation},
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

/// Sends a client's packet the way of its flow; one that may open a flow opens one where none stands.
///
/// A flow stays with its backend whatever becomes of slots and states, unless the backend is dead. Then, and when a SYN comes for a flow that is
/// over, the flow ends and a new backend is selected; any other TCP packet for a dead backend ends as [`Reason::NoBackend`].
#[inline(always)]
pub(crate) fn forward<A: Translated, P: Packet, T: Tables>(packet: &P, tables: &T, arrival: &Arrival<'_, A>) -> Verdict {
    let now = tables.tick();
    let Some((flow, known)) = index::find(tables, arrival) else { return open::open(packet, tables, arrival, now) };
    let base = read!(arrival.vip, Vip.backend_base as u32);
    let alive = Candidate::at(tables, base, known.backend()).filter(|backend| backend.state().keeps_old());
    let Some(backend) = alive else {
        if !arrival.may_open() {
            return arrival.end(Reason::NoBackend);
        }
        open::abandon(tables, flow, arrival.claim());
        return open::open(packet, tables, arrival, now);
    };
    let life = Life::of(flow);
    if arrival.flags & (tcp::SYN | tcp::ACK) == tcp::SYN && life.over(arrival.headers.proto == TCP, now, arrival.config) {
        open::abandon(tables, flow, arrival.claim());
        return open::open(packet, tables, arrival, now);
    }
    if !backend.ready() {
        return arrival.end(Reason::NextHop);
    }
    if arrival.headers.ttl <= 1 {
        return arrival.end(Reason::TtlExceeded);
    }
    life.client_sent(tables, flow, arrival.headers.proto == TCP, arrival.flags, now);
    remember_link(packet, flow);
    sending(arrival, backend, known, false)
}

/// Families that the engine can translate.
pub(crate) trait Translated: Address {
    fn network(translation: Translation<Self>) -> Network;
}

impl Translated for V4 {
    #[inline(always)]
    fn network(translation: Translation<Self>) -> Network {
        Network::V4(translation)
    }
}

impl Translated for V6 {
    #[inline(always)]
    fn network(translation: Translation<Self>) -> Network {
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
    /// What the claim of this packet's flow is.
    #[inline(always)]
    pub(crate) const fn claim(&self) -> u64 {
        self.hash | 2
    }

    /// The packet may begin a flow: any UDP packet, of TCP a SYN alone.
    #[inline(always)]
    pub(crate) fn may_open(&self) -> bool {
        self.headers.proto != TCP || self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }
}

/// The verdict on a client's packet whose flow is with `backend`.
#[inline(always)]
fn sending<A: Translated>(arrival: &Arrival<'_, A>, backend: Candidate<'_>, parties: Parties, opens: bool) -> Verdict {
    let source = arrival.config.source(parties.nat_source() as u64);
    let headers = &arrival.headers;
    let tuple = Tuple {
        src: load_address!(A, source, NatSource.addr),
        dst: load_address!(A, backend.entry, Backend.addr),
        ports: ports(parties.nat_port(), backend.port()),
    };
    Verdict::Send(Sending {
        reason: Reason::Forwarded,
        service: read!(arrival.vip, Vip.service as u32),
        stats: backend.stats(),
        ifindex: backend.ifindex(),
        opens,
        end: headers.end,
        edit: Edit {
            macs: backend.macs(),
            network: A::network(Translation { tuple, l3: headers.l3, l4: headers.l4, tcp: headers.proto == TCP }),
        },
    })
}

/// Notes where the client's packets come from: replies go back there. It is written only where it changed, as when a router was replaced.
#[inline(always)]
fn remember_link<P: Packet>(packet: &P, flow: Shared<'_, NatFlow>) {
    let Some(ethernet) = packet.at::<12>(0) else { return };
    let macs = received_macs(ethernet);
    if read!(flow, NatFlow.client_mac as u64) != macs.src {
        put!(flow, NatFlow.client_mac as u64, macs.src);
    }
    if read!(flow, NatFlow.own_mac as u64) != macs.dst {
        put!(flow, NatFlow.own_mac as u64, macs.dst);
    }
    let ifindex = packet.ifindex();
    if read!(flow, NatFlow.ifindex as u32) != ifindex {
        put!(flow, NatFlow.ifindex as u32, ifindex);
    }
}

/// The Ethernet addresses of a frame as it came.
#[inline(always)]
fn received_macs(ethernet: &[u8; 12]) -> Macs {
    let first = u64_at::<0, _>(ethernet);
    Macs { dst: first & 0xffff_ffff_ffff, src: first >> 48 | (u32_at::<8, _>(ethernet) as u64) << 16 }
}

/// Source ports of translated flows: the first, and how many.
#[inline(always)]
fn port_range(config: Shared<'_, Config>) -> (u16, u16) {
    let word = read!(config, Config.nat.port_first as u32);
    (word as u16, (word >> 16) as u16)
}
