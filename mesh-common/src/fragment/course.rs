//! The second step, which needs nothing of the packet: from what was asked about a first fragment to what becomes of all of them.

use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::{
    abi::{Backend, Config, Family, Fragmented, Mode, NatGauges, NatSource, Reason},
    account,
    aside::Cause,
    flow::{Address, V4, V6, load_address, ports},
    flow_log::{self, Beginning},
    fragment::memory,
    hash,
    header::tcp,
    ledger::places,
    nat, put, read,
    rewrite::Macs,
    select::Candidate,
    shared::Shared,
    tables::Tables,
    tunnel,
};

/// What the steps know of a fragment, this CPU's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Course {
    pub(crate) fragmented: Fragmented,
    /// Hash of the flow.
    pub(super) hash: u64,
    /// As [`Tables::follow`] takes it.
    pub(super) sent: u64,
    /// The answer, where nobody has to be asked.
    pub(super) known: u64,
    /// A SYN's sequence number and one; 0 where a flow begins without; [`Course::GOES_ON`].
    pub(super) begins: u64,
    pub(super) slot: u32,
    /// First of the service's backends.
    pub(super) base: u32,
    /// Of the first fragment, as they came and as they leave.
    pub(super) ports: u32,
    pub(super) new_ports: u32,
    /// Of this fragment: its end in the frame, and bytes of IP.
    pub(super) end: u32,
    pub(super) len: u32,
    /// A [`Mode`], or [`Course::ANSWER`].
    pub(super) mode: u8,
    pub(super) family: u8,
    /// TCP flags.
    pub(super) flags: u8,
    pub(super) opens: u8,
    reserved: u32,
}

impl Course {
    /// Not a mode: an answer, of which all is known.
    pub(super) const ANSWER: u8 = 0;
    /// The packet begins no flow.
    pub(super) const GOES_ON: u64 = u64::MAX;
}

/// Completes the course in [`Tables::course`] by the answer to what was asked; a [`Cause`] as a word.
#[inline(always)]
pub fn complete<T: Tables>(tables: &T, answer: u64) -> u64 {
    let (Some(config), Some(course)) = (tables.config(), tables.course()) else { return Cause::new(0, Reason::BadTable).word() };
    let service = read!(course.fragmented(), Fragmented.service as u32);
    let chosen = if read!(course, Course.mode as u8) == Course::ANSWER {
        Ok(())
    } else if read!(course, Course.family as u8) == Family::V4 as u8 {
        choose::<V4, T>(tables, config, course, answer)
    } else {
        choose::<V6, T>(tables, config, course, answer)
    };
    match chosen {
        Ok(()) => {}
        Err(Refused { reason, mtu }) => return Cause::too_big(service, mtu).with(reason).word(),
    }
    if read!(course.fragmented(), Fragmented.done as u8) & Fragmented::TRANSLATED != 0 {
        let Some(gauges) = tables.nat_gauges() else { return Cause::new(service, Reason::BadTable).word() };
        let id = identification(gauges.next::<{ offset_of!(NatGauges, fragmented) }>(), hash::key(config));
        put!(course.fragmented(), Fragmented.new_id as u32, id);
    }
    Cause::new(service, Reason::Forwarded).word()
}

/// Tells of the packet what the course in [`Tables::course`] says, and remembers that for its other fragments. They are dropped where there was no room: this
/// one is not worth less for it.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T) {
    if let Some(course) = tables.course() {
        tell(tables, course);
        let _ = memory::remember(tables, course);
    }
}

/// Takes over the course that the first fragment of the packet in [`Tables::course`] left; whether there is one.
#[inline(always)]
pub fn recall<T: Tables>(tables: &T) -> bool {
    tables.course().is_some_and(|course| memory::recall(tables, course))
}

/// The identification of packet number `count`: none comes twice within 2^32 packets in fragments, of which IPv4 has the lower 16 bits. The order is secret.
pub const fn identification(count: u64, key: [u64; 2]) -> u32 {
    count.wrapping_mul(key[0] | 1).wrapping_add(key[1]) as u32
}

/// Why the packet can't go on; `mtu` counts for [`Reason::TooBig`].
struct Refused {
    reason: Reason,
    mtu: u16,
}

impl From<Reason> for Refused {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { reason, mtu: 0 }
    }
}

#[inline(always)]
fn choose<A: Address, T: Tables>(tables: &T, config: Shared<'_, Config>, course: Shared<'_, Course>, answer: u64) -> Result<(), Refused> {
    let (mode, base, entry) = (read!(course, Course.mode as u8), read!(course, Course.base as u32), course.fragmented());
    let index = if mode == Mode::Nat as u8 { nat::opened(answer)?.backend() } else { places::followed(answer)?.0 };
    let backend = Candidate::at(tables, base, index).ok_or(Reason::NoBackend)?;
    if !backend.ready() {
        return Err(Reason::NextHop.into());
    }
    way(entry, read!(entry, Fragmented.service as u32), backend.stats(), backend.macs(), backend.ifindex());
    put!(entry, Fragmented.done as u8, 0);
    let came = read!(course, Course.ports as u32);
    let port = backend.port_for((came >> 16) as u16);
    if mode == Mode::Nat as u8 {
        let parties = nat::opened(answer)?;
        let source = load_address!(A, config.source(parties.nat_source() as u64), NatSource.addr);
        translate(course, source, load_address!(A, backend.entry, Backend.addr), ports(parties.nat_port(), port), false);
    } else if mode == Mode::Dnat as u8 {
        let client = load_address!(A, entry, Fragmented.src);
        translate(course, client, load_address!(A, backend.entry, Backend.addr), ports(came as u16, port), false);
    } else if mode == Mode::Tunnel as u8 {
        wrap(course, backend)?;
    }
    Ok(())
}

/// The way of a single packet of `len` bytes of IP to `backend`, in an outer header; whether it fits.
#[inline(always)]
pub(crate) fn outer(course: Shared<'_, Course>, backend: Candidate<'_>, hash: u64, len: usize) -> bool {
    put!(course, Course.hash as u64, hash);
    put!(course, Course.len as u32, len as u32);
    way(course.fragmented(), 0, backend.stats(), backend.macs(), backend.ifindex());
    wrap(course, backend).is_ok()
}

/// The outer header; the family of the backend's address is no matter here, for its bytes are copied.
#[inline(always)]
fn wrap(course: Shared<'_, Course>, backend: Candidate<'_>) -> Result<(), Refused> {
    let (entry, hash) = (course.fragmented(), read!(course, Course.hash as u64));
    let (gue, v6) = (backend.flags() & Backend::GUE != 0, backend.flags() & Backend::V6 != 0);
    let (room, mtu) = (tunnel::room(v6, gue), backend.mtu());
    if mtu != 0 && read!(course, Course.len as u32) as usize + room > mtu as usize {
        return Err(Refused { reason: Reason::TooBig, mtu: mtu.wrapping_sub(room as u16) });
    }
    put!(entry, Fragmented.mtu as u16, mtu);
    put!(entry, Fragmented.port as u16, tunnel::source_port(hash));
    put!(entry, Fragmented.sum as u16, read!(backend.entry, Backend.addr_csum as u16));
    put!(entry, Fragmented.new_id as u32, tunnel::label(hash));
    let done = if v6 { Fragmented::OUTER_V6 } else { Fragmented::OUTER_V4 };
    put!(entry, Fragmented.done as u8, done | if gue { Fragmented::GUE } else { 0 });
    store_addresses(entry, load_address!(V6, backend.entry, Backend.source), load_address!(V6, backend.entry, Backend.addr));
    Ok(())
}

/// Counts the packet as the opening of a flow, and tells of it, where it is one.
#[inline(always)]
fn tell<T: Tables>(tables: &T, course: Shared<'_, Course>) {
    let entry = course.fragmented();
    let (stats, flags) = (read!(entry, Fragmented.stats as u32), read!(course, Course.flags as u8) as u32);
    let reply = read!(course, Course.mode as u8) == Course::ANSWER;
    let opens = read!(course, Course.opens as u8) as u32;
    if opens != 0 || flags & tcp::RST as u32 != 0 {
        account::seldom(tables, stats, (0, 1), flags | opens << 8 | (reply as u32) << 9);
    }
    let (begins, hash) = (read!(course, Course.begins as u64), read!(course, Course.hash as u64));
    let Some(config) = tables.config() else { return };
    if reply
        || begins == Course::GOES_ON
        || read!(course, Course.mode as u8) == Mode::Nat as u8
        || !flow_log::is_drawn(hash, read!(config, Config.flow_sample as u32))
    {
        return;
    }
    let src = load_address!(V6, entry, Fragmented.src);
    tables.tell_flow(Beginning {
        client: src.0,
        key: hash::last(hash ^ begins << 16),
        whose: read!(entry, Fragmented.service as u32) as u64 | (stats as u64) << 32,
        ports: read!(course, Course.ports as u32) as u64 | (read!(course, Course.family as u8) as u64) << 32,
    });
}

/// Where the fragments go.
#[inline(always)]
pub(super) fn way(entry: Shared<'_, Fragmented>, service: u32, stats: u32, macs: Macs, ifindex: u32) {
    put!(entry, Fragmented.service as u32, service);
    put!(entry, Fragmented.stats as u32, stats);
    put!(entry, Fragmented.to_mac as u64, macs.dst);
    put!(entry, Fragmented.from_mac as u64, macs.src);
    put!(entry, Fragmented.ifindex as u32, ifindex);
}

/// What they become.
#[inline(always)]
pub(super) fn translate<A: Address>(course: Shared<'_, Course>, src: A, dst: A, ports: u32, reply: bool) {
    let entry = course.fragmented();
    store_addresses(entry, src, dst);
    put!(course, Course.new_ports as u32, ports);
    put!(entry, Fragmented.done as u8, Fragmented::TRANSLATED | if reply { Fragmented::REPLY } else { 0 });
}

#[inline(always)]
fn store_addresses<A: Address>(entry: Shared<'_, Fragmented>, src: A, dst: A) {
    src.store::<Fragmented, { offset_of!(Fragmented, new_src) }, { offset_of!(Fragmented, new_src) + 8 }>(entry);
    dst.store::<Fragmented, { offset_of!(Fragmented, new_dst) }, { offset_of!(Fragmented, new_dst) + 8 }>(entry);
}
