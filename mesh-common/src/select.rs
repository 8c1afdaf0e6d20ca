//! From a flow's slot to the backend that takes the flow, by state.

use crate::{
    abi::{Backend, BackendState, Reason, SlotFlags, SlotWord, TableRef},
    flow::either,
    ledger::{places, rules::Sent},
    read,
    rewrite::Macs,
    shared::{Shared, shifted},
    tables::Tables,
};

/// A backend's entry, with the word read that says what may be done with it.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub entry: Shared<'a, Backend>,
    /// `state | flags | nat_source`.
    status: u32,
}

/// The backend that a new flow of slot `at` of the arena goes to, and its index within the service. `base`: the first of the service's backends.
#[inline(always)]
pub(crate) fn backend<T: Tables>(tables: &T, at: u32, base: u32) -> Result<(u16, Candidate<'_>), Reason> {
    let Some(slot) = tables.slot(at) else { return Err(Reason::BadTable) };
    if slot.flags() == SlotFlags::STEADY
        && let Some(target) = Candidate::at(tables, base, slot.target())
        && target.state().takes_new()
        && target.ready()
    {
        return Ok((slot.target(), target));
    }
    chosen(tables, base, unsteady(tables, base, slot))
}

/// The backend that a packet goes to whose flow nobody translates: in the steady state of its slot by the slot alone, unless a scheduler is `asked`; else by
/// [`Tables::owner`]. `key` and `sent` are asked for in the latter case only, `base` where it is needed: what is read anew need not be kept. Also the index
/// of who else may have the flow, if the ledger names one.
#[inline(always)]
pub(crate) fn owners<'a, T: Tables>(
    tables: &'a T,
    (at, slot): (u32, SlotWord),
    base: impl Fn() -> u32,
    asked: u64,
    key: impl FnOnce() -> u64,
    sent: impl FnOnce() -> Sent,
) -> Result<(Candidate<'a>, u16), Reason> {
    if asked == 0
        && let Some(index) = slot.at_rest()
        && let Some(target) = Candidate::entry(tables, base().wrapping_add(index))
        && target.takes_all()
    {
        return Ok((target, SlotWord::NONE));
    }
    core::hint::cold_path();
    let (base, key, sent) = (base(), key(), sent().pack());
    // Most services want nobody chosen: for their packets it is one call less.
    let answer = if asked == 0 { tables.follow(at, base, key, sent) } else { tables.owner(at, base, key, sent, asked) };
    let (index, other) = places::followed(answer)?;
    match Candidate::at(tables, base, index) {
        Some(chosen) if chosen.ready() => Ok((chosen, other)),
        Some(_) => Err(Reason::NextHop),
        None => Err(Reason::NoBackend),
    }
}

/// The backend that [`owners`] finds by the slot alone; `None`: [`Tables::follow`] has to be asked.
#[inline(always)]
pub(crate) fn at_rest<T: Tables>(tables: &T, at: u32, base: u32) -> Option<u16> {
    let slot = tables.slot(at)?;
    let target = Candidate::at(tables, base, slot.target())?;
    (slot.flags() == SlotFlags::STEADY && target.takes_all()).then_some(slot.target())
}

/// The backend that hears of a flow which nobody translates: without the ledger, for which the stack has no room where errors are relayed. In a slot on
/// its way this is whoever most of its flows are with.
#[inline(always)]
pub(crate) fn about<T: Tables>(tables: &T, at: u32, base: u32) -> Result<Candidate<'_>, Reason> {
    let Some(slot) = tables.slot(at) else { return Err(Reason::BadTable) };
    match Candidate::at(tables, base, slot.default()) {
        Some(backend) if backend.state().keeps_old() => return if backend.ready() { Ok(backend) } else { Err(Reason::NextHop) },
        _ => {}
    }
    chosen(tables, base, unsteady(tables, base, slot)).map(|(_, backend)| backend)
}

/// Where new flows of a slot go.
#[inline(always)]
pub(crate) fn target<T: Tables>(tables: &T, at: u32, base: u32) -> Option<Candidate<'_>> {
    Candidate::at(tables, base, tables.slot(at)?.target())
}

/// What [`unsteady`] has answered.
#[inline(always)]
fn chosen<T: Tables>(tables: &T, base: u32, answer: u32) -> Result<(u16, Candidate<'_>), Reason> {
    if answer & REFUSED != 0 {
        return Err(Reason::from_u8(answer as u8));
    }
    let index = answer as u16;
    match Candidate::at(tables, base, index) {
        Some(backend) => Ok((index, backend)),
        None => Err(Reason::NoBackend),
    }
}

/// Where in the arena the slot of this hash is.
#[inline(always)]
pub(crate) fn slot_index(table: TableRef, hash: u64) -> u32 {
    table.base().wrapping_add(shifted(hash >> 1, table.half_shift()) as u32)
}

/// The choice where the target can't simply be taken. Those that take new flows go first: target, secondary, default; if nobody does, one that is
/// still alive is better than none, and then the one that the slot's old flows are with is the best.
///
/// An index, or [`REFUSED`] and a reason: one word, which takes no room on the stack of a program that has little.
#[cold]
#[inline(never)]
fn unsteady<T: Tables>(tables: &T, base: u32, slot: SlotWord) -> u32 {
    let mut chosen = REFUSED | Reason::NoBackend as u32;
    let mut owners = slot.target() as u64 | (slot.secondary() as u64) << 16 | (slot.default() as u64) << 32;
    for round in 0..3 {
        let index = owners as u16;
        owners >>= 16;
        let Some(candidate) = Candidate::at(tables, base, index) else { continue };
        if candidate.state().takes_new() {
            return candidate.if_ready(index);
        }
        if candidate.state().keeps_old() && (chosen & REFUSED != 0 || round == 2) {
            chosen = candidate.if_ready(index);
        }
    }
    chosen
}

/// Nobody can be chosen.
const REFUSED: u32 = 1 << 16;

impl<'a> Candidate<'a> {
    /// Backend `index` of the service whose entries begin at `base`; `None` where no entry stands.
    #[inline(always)]
    pub(crate) fn at<T: Tables>(tables: &'a T, base: u32, index: u16) -> Option<Self> {
        if index == SlotWord::NONE {
            core::hint::cold_path();
            return None;
        }
        Self::entry(tables, base.wrapping_add(index as u32))
    }

    /// The backend whose entry is number `at` of all.
    #[inline(always)]
    fn entry<T: Tables>(tables: &'a T, at: u32) -> Option<Self> {
        let entry = tables.backend(at)?;
        Some(Self { entry, status: read!(entry, Backend.state as u32) })
    }

    #[inline(always)]
    pub(crate) fn state(self) -> BackendState {
        BackendState::from_u8(self.status as u8)
    }

    /// Its next hop is resolved.
    #[inline(always)]
    pub(crate) fn ready(self) -> bool {
        self.status & (Backend::READY as u32) << 8 != 0
    }

    /// At rest, and ready: by one comparison, for nearly all packets ask for it.
    #[inline(always)]
    fn takes_all(self) -> bool {
        const WANTED: u32 = BackendState::Active as u32 | (Backend::READY as u32) << 8;
        const EITHER: u32 = BackendState::Active as u32 ^ BackendState::Recovering as u32;
        self.status & (0xff & !EITHER | (Backend::READY as u32) << 8) == WANTED
    }

    /// [`Backend::flags`].
    #[inline(always)]
    pub(crate) fn flags(self) -> u8 {
        (self.status >> 8) as u8
    }

    #[inline(always)]
    pub(crate) fn mtu(self) -> u16 {
        read!(self.entry, Backend.mtu as u16)
    }

    #[inline(always)]
    pub(crate) fn stats(self) -> u32 {
        read!(self.entry, Backend.stats as u32)
    }

    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        read!(self.entry, Backend.ifindex as u32)
    }

    #[inline(always)]
    pub(crate) fn macs(self) -> Macs {
        Macs { dst: read!(self.entry, Backend.dst_mac as u64), src: read!(self.entry, Backend.src_mac as u64) }
    }

    /// The port that a packet for port `asked` goes to, as they lie in the packet.
    #[inline(always)]
    pub(crate) fn port_for(self, asked: u16) -> u16 {
        either(read!(self.entry, Backend.port as u16), asked)
    }

    fn if_ready(self, index: u16) -> u32 {
        if self.ready() { index as u32 } else { REFUSED | Reason::NextHop as u32 }
    }
}
