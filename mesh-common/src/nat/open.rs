//! The first packet of a flow: select a backend, claim an entry for it, make the index lead there.
//!
//! It needs nothing of the packet but an [`Opening`], so that the kernel half can have it verified on its own, once.

use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::{
    abi::{Addr, Backend, Config, Family, NatFlow, NatGauges, NatSource, Reason, SlotWord},
    flow::{Address, V4, V6, load_address, ports},
    forward::Arrival,
    hash,
    header::{Ip, Network, TCP},
    nat::{Life, Parties, asked_port, client_word, index, life, own_word, received_macs},
    packet::Packet,
    put, read,
    schedule::{self, Choice},
    select::{self, Candidate},
    shared::{Shared, opaque},
    tables::Tables,
};

/// Entries of the flow map that are tried for a flow.
const TRIES: u16 = 24;
/// Source addresses among them, where there are several.
const ADDRESSES: u64 = 4;

const CLAIM: usize = offset_of!(NatFlow, claim);
const HALF_OPEN: usize = offset_of!(NatGauges, half_open);

/// What opening a flow takes: the client's side of it, and where its service's backends are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Opening {
    pub(crate) client: Addr,
    pub(crate) hash: u64,
    /// As [`NatFlow`] has them: with the protocol, and with the port that the client asked for.
    client_mac: u64,
    own_mac: u64,
    pub(crate) table: u64,
    pub(crate) backend_base: u32,
    pub(crate) service: u32,
    ifindex: u32,
    pub(crate) now: u32,
    /// As it lies in the packet.
    client_port: u16,
    family: u8,
    pub(crate) proto: u8,
    /// Where in the arena its slot is.
    pub(crate) slot: u32,
    /// What a scheduler has chosen, a [`crate::schedule::Choice`].
    pub(crate) chosen: u32,
    /// What its scheduler is to know, if one is to choose.
    pub(crate) asked: u32,
    /// Of services with [`crate::abi::ServiceFlags::QUIC`]: index of the backend that the packet's connection id names; [`SlotWord::NONE`] = nobody.
    pub(crate) named: u32,
    pub(crate) reserved: u32,
}

/// Opens a flow for this packet.
#[inline(always)]
pub(crate) fn open<A: Ip, P: Packet, T: Tables>(packet: &P, tables: &T, arrival: &Arrival<'_, A>) -> Result<Parties, Reason> {
    prepare(packet, tables, arrival)?;
    schedule::answer(tables);
    opened(tables.open_flow())
}

/// What [`Tables::open_flow`] has answered.
#[inline(always)]
pub(crate) const fn opened(word: u64) -> Result<Parties, Reason> {
    let parties = Parties::from_word(word);
    if parties.backend() == SlotWord::NONE { Err(Reason::from_u8(word as u8)) } else { Ok(parties) }
}

/// Says what [`Tables::open_flow`] is to open for this packet, once [`schedule::answer`] has chosen for it.
#[inline(always)]
pub(crate) fn prepare<A: Ip, P: Packet, T: Tables>(packet: &P, tables: &T, arrival: &Arrival<'_, A>) -> Result<(), Reason> {
    // Read anew: to keep it from when the packet was checked would take room on the stack.
    let Some(Network { src, ttl }) = A::network(packet, arrival.headers.l3) else { return Err(Reason::Malformed) };
    let arrival = &Arrival { src, ..*arrival };
    if !arrival.may_open(packet) {
        // Where nobody takes flows, the service says what becomes of them: they may be the host's.
        let vacant = tables.slot(arrival.slot()).is_some_and(|slot| slot.target() == SlotWord::NONE);
        return Err(if vacant { Reason::NoBackend } else { Reason::NoFlow });
    }
    if ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    let Some(ethernet) = packet.at::<12>(0) else { return Err(Reason::Malformed) };
    let Some(opening) = tables.opening() else { return Err(Reason::BadTable) };
    let macs = received_macs(ethernet);
    schedule::note(tables, opening, arrival);
    put!(opening, Opening.client_mac as u64, client_word(macs, arrival.headers.proto));
    put!(opening, Opening.own_mac as u64, own_word(macs, arrival.headers.ports));
    put!(opening, Opening.ifindex as u32, packet.ifindex());
    put!(opening, Opening.client_port as u16, arrival.headers.ports as u16);
    put!(opening, Opening.family as u8, A::FAMILY as u8);
    schedule::ask_for_translation(opening, arrival);
    Ok(())
}

/// Opens the flow that [`Tables::opening`] describes. The outcome is one word for [`Tables::open_flow`] to pass on.
#[inline(always)]
pub fn open_flow<T: Tables>(tables: &T) -> u64 {
    let opened = match tables.opening() {
        Some(opening) if read!(opening, Opening.family as u8) == Family::V4 as u8 => begin::<V4, T>(tables, opening),
        Some(opening) => begin::<V6, T>(tables, opening),
        None => Err(Reason::BadTable),
    };
    // The backend that is none stands for a reason.
    opened.unwrap_or_else(|reason| Parties::new(reason as u16, 0, 0, SlotWord::NONE)).word()
}

#[inline(always)]
fn begin<'a, A: Address, T: Tables>(tables: &'a T, opening: Shared<'a, Opening>) -> Result<Parties, Reason> {
    let (Some(config), Some(gauges)) = (tables.config(), tables.nat_gauges()) else { return Err(Reason::BadTable) };
    let hash = || read!(opening, Opening.hash as u64);
    let base = read!(opening, Opening.backend_base as u32);
    let index = match Choice::from_word(read!(opening, Opening.chosen as u32) as u64).backend() {
        SlotWord::NONE => select::backend(tables, read!(opening, Opening.slot as u32), base)?.0,
        chosen => chosen,
    };
    // On which way they were found is nothing that a verifier is to know: it would follow the search for an entry for each.
    let index = opaque(index as u64, hash()) as u16;
    let Some(backend) = Candidate::at(tables, base, index) else { return Err(Reason::NoBackend) };
    // Half-open flows have their share of the table and no more: beyond it a new one takes the place of one that is stuck, never that of a flow
    // that is established, nor a free one.
    let crowded = gauges.load::<i64, HALF_OPEN>() >= read!(config, Config.nat.half_open_limit as u32) as i64;
    let crowded = opaque(crowded as u64, hash()) != 0;
    if read!(config.source(source_of::<A>(config, backend, hash())), NatSource.family as u32) != A::FAMILY as u32 || port_count(config) == 0
    {
        return Err(Reason::BadTable);
    }
    let Some((flow, place, port, source)) = claim::<A, T>(tables, config, opening, backend, crowded) else {
        return Err(if crowded { Reason::HalfOpenLimit } else { Reason::NatFull });
    };
    let now = read!(opening, Opening.now as u32);
    let parties = Parties::new(read!(opening, Opening.client_port as u16), port, source, index);
    let client = load_address!(A, opening, Opening.client);
    client.store::<NatFlow, { offset_of!(NatFlow, client) }, { offset_of!(NatFlow, client) + 8 }>(flow);
    parties.put(flow);
    put!(flow, NatFlow.service as u32, NatFlow::born(read!(opening, Opening.service as u32), now));
    put!(flow, NatFlow.ifindex as u32, read!(opening, Opening.ifindex as u32));
    put!(flow, NatFlow.client_mac as u64, read!(opening, Opening.client_mac as u64));
    put!(flow, NatFlow.own_mac as u64, read!(opening, Opening.own_mac as u64));
    put!(flow, NatFlow.seen as u64, Life::begun(now));
    gauges.add::<HALF_OPEN>(1);
    flow.exchange::<CLAIM>(NatFlow::BUSY, Parties::claim(hash()));
    if !index::insert(tables, config, hash(), place, now) {
        abandon(tables, flow, Parties::claim(hash()));
        return Err(Reason::NatFull);
    }
    Ok(parties)
}

/// Ends a flow before its time.
#[cold]
#[inline(never)]
pub(crate) fn abandon<T: Tables>(tables: &T, flow: Shared<'_, NatFlow>, claim: u64) {
    if flow.exchange::<CLAIM>(claim, NatFlow::BUSY) {
        life::settle(tables, flow);
        flow.exchange::<CLAIM>(NatFlow::BUSY, 0);
    }
}

/// Index of a source address of flows to this backend: the `n`th where there are several. Without a branch, which a verifier would follow each time.
#[inline(always)]
fn source_of<A: Address>(config: Shared<'_, Config>, backend: Candidate<'_>, n: u64) -> u64 {
    // Read here, and not kept: the stack is small.
    let own = read!(backend.entry, Backend.nat_source as u16);
    let any = opaque(if own == NatSource::ANY { u64::MAX } else { 0 }, n);
    own as u64 & !any | config.share(A::FAMILY, n) & any
}

/// An entry that is now ours, its index, and the source port and address (its index) that belong to it. Ports are tried from one on that the flow's hash gives,
/// and so are addresses, where there are several; each pair has one place in the map, which is ours to take if it is free or its flow has expired.
///
/// `point` goes round the ports as a 32-bit fraction of them. Its step is the flow's own, so that flows that begin side by side part at once: with a step
/// of one port for all of them they would line up in clusters. A range that is no larger than the tries is gone through port by port.
///
/// Of the later half of the tries a flow that is stuck half-open is taken, too: ports to a backend are much sooner all in use than the table is, and forged SYNs
/// are not to keep clients out for as long as they are waited for.
#[inline(always)]
fn claim<'a, A: Address, T: Tables>(
    tables: &'a T,
    config: Shared<'a, Config>,
    opening: Shared<'a, Opening>,
    backend: Candidate<'a>,
    crowded: bool,
) -> Option<(Shared<'a, NatFlow>, u32, u16, u16)> {
    let count = port_count(config);
    let flow_hash = read!(opening, Opening.hash as u64);
    let step = opaque(step(count, flow_hash), flow_hash);
    let mut point = flow_hash << 32;
    let source = |n: u64| source_of::<A>(config, backend, (read!(opening, Opening.hash as u64) >> 32).wrapping_add(n));
    for n in 0..ADDRESSES {
        let address = load_address!(A, config.source(source(n)), NatSource.addr);
        let addresses = hash::reply_addresses(load_address!(A, backend.entry, Backend.addr), address, hash::key(config));
        for _ in 0..TRIES as u64 / ADDRESSES {
            let port = port_at(config, point).to_be();
            point = point.wrapping_add(step << 32);
            let asked = asked_port(read!(opening, Opening.own_mac as u64));
            let hash = hash::reply_ports(addresses, ports(backend.port_for(asked), port), read!(opening, Opening.proto as u8));
            let place = hash::range(hash, read!(config, Config.nat.flows as u32));
            if let Some(flow) = tables.nat_flow(place)
                && take(tables, config, flow, read!(opening, Opening.now as u32), if crowded { STUCK } else { (n >= ADDRESSES / 2) as u32 })
            {
                return Some((flow, place, port, source(n) as u16));
            }
        }
    }
    None
}

/// How many source ports a flow can have.
#[inline(always)]
fn port_count(config: Shared<'_, Config>) -> u64 {
    read!(config, Config.nat.ports.count as u16) as u64
}

/// The source port that lies at `point`, a 32-bit fraction of all of them in its upper half. Without a branch for each gap, which a verifier would follow each time.
#[inline(always)]
fn port_at(config: Shared<'_, Config>, point: u64) -> u16 {
    const AT: usize = offset_of!(Config, nat.ports);
    let word = config.load::<u64, AT>();
    let more = config.load::<u64, { AT + 8 }>();
    let n = hash::range(point, (word >> 16) as u16 as u32) as u64;
    // A gap is two halves: how many ports are below it, and how many it leaves out.
    let skipped = |gap: u64| (gap >> 16 & 0xffff) & opaque(((gap & 0xffff).wrapping_sub(n + 1) as i64 >> 63) as u64, point);
    word.wrapping_add(n).wrapping_add(skipped(word >> 32)).wrapping_add(skipped(more)).wrapping_add(skipped(more >> 32)) as u16
}

/// By how much of the range, as a 32-bit fraction of it, a flow goes on to its next port.
#[inline(always)]
fn step(count: u64, flow_hash: u64) -> u64 {
    /// Of so few ports some flows' own fraction would meet two or three again and again, as a half does, or a third.
    const FEW: u64 = 2048;
    /// None between this and 2^25 more, about the golden section, is that near to so simple a fraction.
    const GOLDEN: u64 = 0x9d00_0000;
    let own = hash::last(flow_hash) >> 32;
    if count <= TRIES as u64 {
        (1 << 32) / count.max(1) + 1
    } else if count < FEW {
        GOLDEN + (own >> 7)
    } else {
        own | 1
    }
}

/// What entries may be taken: those that are free or whose flow has expired; ...
const IDLE: u32 = 0;
/// ... those whose flow is stuck half-open, and no others. Between them: all these.
const STUCK: u32 = 2;

/// Changes the claim of an entry that may be taken to busy. `which`: [`IDLE`] to [`STUCK`].
#[cold]
#[inline(never)]
fn take<T: Tables>(tables: &T, config: Shared<'_, Config>, flow: Shared<'_, NatFlow>, now: u32, which: u32) -> bool {
    let claim = flow.load::<u64, CLAIM>();
    if claim == NatFlow::BUSY {
        return false;
    }
    if !may_take(config, flow, claim, now, which) {
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

#[inline(always)]
fn may_take(config: Shared<'_, Config>, flow: Shared<'_, NatFlow>, claim: u64, now: u32, which: u32) -> bool {
    if claim == 0 {
        return which != STUCK;
    }
    let (life, tcp) = (Life::of(flow), read!(flow, NatFlow.proto as u8) == TCP);
    which != IDLE && life.is_stuck(tcp, now) || which != STUCK && life.expired_by(tcp, now, config)
}

#[cfg(test)]
mod tests {
    use core::{cell::Cell, ops::RangeInclusive};
    use std::{vec, vec::Vec};

    use super::*;
    use crate::abi::NatPorts;

    /// All ports that flows get, from the lowest point to the highest.
    fn dealt(ranges: &[RangeInclusive<u16>]) -> Vec<u16> {
        let mut config = Config::zeroed();
        config.nat.ports = NatPorts::new(ranges);
        let cell = Cell::new(config);
        let config = Shared::of(&cell);
        let count = port_count(config);
        let point = |n: u64| (n << 32).div_ceil(count);
        (0..count).flat_map(|n| [point(n), point(n + 1) - 1]).map(|point| port_at(config, point << 32)).collect()
    }

    #[test]
    fn no_flow_tries_few_ports_again_and_again() {
        for count in (1..200).chain([255, 256, 500, 1000, 2047]) {
            let least = (0..2000_u64).map(|flow| {
                let hash = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let (mut point, step) = (hash << 32, step(count, hash));
                let mut met: Vec<_> = (0..TRIES)
                    .map(|_| {
                        let port = ((point >> 32) * count) >> 32;
                        point = point.wrapping_add(step << 32);
                        port
                    })
                    .collect();
                met.sort_unstable();
                met.dedup();
                met.len()
            });
            let wanted = if count <= u64::from(TRIES) { count as usize } else { 13 };
            assert!(least.clone().min() >= Some(wanted), "of {count} ports a flow meets {:?}", least.min());
        }
    }

    #[test]
    fn the_ports_of_all_ranges_are_dealt_and_no_others() {
        let all = [1024..=1024, 1026..=1999, 2000..=32_767, 65_534..=u16::MAX];
        let mut lists: Vec<Vec<_>> =
            (0..4).flat_map(|first| (first..4).map(move |last| (first, last))).map(|(a, b)| all[a..=b].to_vec()).collect();
        lists.push(vec![1024..=u16::MAX]);
        for ranges in lists {
            let wanted: Vec<u16> = ranges.iter().cloned().flatten().flat_map(|port| [port; 2]).collect();
            assert!(dealt(&ranges) == wanted, "{ranges:?}");
        }
    }
}
