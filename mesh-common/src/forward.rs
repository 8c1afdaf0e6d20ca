//! The decision: frame + tables -> verdict. Nothing is changed here but NAT flows.

use network_types::eth::EtherType;

use crate::{
    abi::{Config, Mode, Reason, TableRef, Vip, VipHalf},
    flow::{Address, load_address},
    hash,
    header::{self, Headers, Parsed, tcp},
    nat::{self, Translated},
    packet::Packet,
    read,
    rewrite::{Edit, Network},
    select,
    shared::Shared,
    tables::Tables,
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
    /// Interface to leave by; 0 = the one that the packet came in by.
    pub ifindex: u32,
    /// The packet opens a flow.
    pub opens: bool,
    /// Bytes of the frame up to the end of the IP packet.
    pub end: usize,
    pub edit: Edit,
}

/// A packet that was found to be for a VIP, with what is known of it.
pub(crate) struct Arrival<'a, A> {
    pub config: Shared<'a, Config>,
    pub vip: Shared<'a, Vip>,
    pub headers: Headers<A>,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Hash of the flow.
    pub hash: u64,
}

/// Decides what becomes of a packet.
#[inline(always)]
pub fn decide<P: Packet, T: Tables>(packet: &P, tables: &T) -> Verdict {
    const IPV4: u16 = EtherType::Ipv4 as u16;
    const IPV6: u16 = EtherType::Ipv6 as u16;
    match header::link(packet) {
        Some((IPV4, l3)) => network(packet, tables, header::ipv4(packet, l3)),
        Some((IPV6, l3)) => network(packet, tables, header::ipv6(packet, l3)),
        _ => FOREIGN,
    }
}

const FOREIGN: Verdict = Verdict::End { service: 0, reason: Reason::NotForVip };

#[inline(always)]
fn network<A: Translated, P: Packet, T: Tables>(packet: &P, tables: &T, parsed: Parsed<A>) -> Verdict {
    let Some(config) = tables.config() else { return FOREIGN };
    match parsed {
        Parsed::Flow(headers) => {
            let key = (headers.tuple.ports >> 16) | (headers.proto as u32) << 16 | (A::FAMILY as u32) << 24;
            match find(tables, config, headers.tuple.dst, key) {
                Some(vip) => service(packet, tables, config, vip, headers),
                None => nat::reply(packet, tables, config, &headers).unwrap_or(FOREIGN),
            }
        }
        Parsed::Odd(dst, reason) => odd(tables, config, dst, reason),
        Parsed::Foreign => FOREIGN,
    }
}

/// The entry of the VIP table for an address and `port | proto | family`, as they lie in memory.
#[inline(always)]
fn find<'a, A: Address, T: Tables>(tables: &'a T, config: Shared<'a, Config>, addr: A, key: u32) -> Option<Shared<'a, Vip>> {
    let active = read!(config, Config.active as u32);
    let half = config.half(active);
    let hash = hash::vip(addr, key, read!(half, VipHalf.seed as u64));
    let index = hash::displacement_index(hash, read!(half, VipHalf.displacement_mask as u32));
    let displacement = config.displacement(active, index as u64);
    let position = hash::position_in(hash, read!(half, VipHalf.base as u32), read!(half, VipHalf.mask as u32), displacement);
    let vip = tables.vip(position)?;
    (read!(vip, Vip.port as u32) == key && load_address!(A, vip, Vip.addr) == addr).then_some(vip)
}

/// A packet without ports: for a VIP's address it ends for `reason`, else it is none of our business.
#[inline(always)]
fn odd<A: Address, T: Tables>(tables: &T, config: Shared<'_, Config>, dst: A, reason: Reason) -> Verdict {
    match find(tables, config, dst, (A::FAMILY as u32) << 24) {
        Some(_) => Verdict::End { service: 0, reason },
        None => FOREIGN,
    }
}

#[inline(always)]
fn service<'a, A: Translated, P: Packet, T: Tables>(
    packet: &P,
    tables: &'a T,
    config: Shared<'a, Config>,
    vip: Shared<'a, Vip>,
    headers: Headers<A>,
) -> Verdict {
    const DSR: u8 = Mode::Dsr as u8;
    const NAT: u8 = Mode::Nat as u8;
    let flags = match headers.check(packet) {
        Ok(flags) => flags,
        Err(reason) => return Verdict::End { service: read!(vip, Vip.service as u32), reason },
    };
    let hash = hash::flow(&headers.tuple, hash::key(config), read!(vip, Vip.seed as u64));
    let arrival = Arrival { config, vip, headers, flags, hash };
    match read!(vip, Vip.mode as u8) {
        DSR => dsr(tables, &arrival),
        NAT => nat::forward(packet, tables, &arrival),
        _ => arrival.end(Reason::BadTable),
    }
}

/// Sends the frame on to the backend that its slot names, with nothing but the Ethernet addresses changed. Without memory of flows every packet
/// goes by the slot and the states alone, so that all packets of a flow go the same way as long as the tables stay.
#[inline(always)]
fn dsr<A: Address, T: Tables>(tables: &T, arrival: &Arrival<'_, A>) -> Verdict {
    match select::backend(tables, arrival.vip, arrival.hash) {
        Ok((_, backend)) => Verdict::Send(Sending {
            reason: Reason::Forwarded,
            service: read!(arrival.vip, Vip.service as u32),
            stats: backend.stats(),
            ifindex: backend.ifindex(),
            opens: arrival.flags & (tcp::SYN | tcp::ACK) == tcp::SYN,
            end: arrival.headers.end,
            edit: Edit { macs: backend.macs(), network: Network::Untouched },
        }),
        Err(reason) => arrival.end(reason),
    }
}

impl<A> Arrival<'_, A> {
    #[inline(always)]
    pub(crate) fn end(&self, reason: Reason) -> Verdict {
        Verdict::End { service: read!(self.vip, Vip.service as u32), reason }
    }
}

/// First slot of the service's table and right shift, from the one word that holds both.
#[inline(always)]
pub(crate) fn slot_index(table: u64, hash: u64) -> u32 {
    let table = TableRef(table);
    // A table of one slot shifts by 64, which a single shift can't.
    table.base().wrapping_add(((hash >> 1) >> (table.shift().wrapping_sub(1) & 63)) as u32)
}
