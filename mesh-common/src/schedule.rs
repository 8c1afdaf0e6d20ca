//! New flows that are not led by their hash alone: a scheduler chooses their backend, or their source's last flow does, and it is remembered.
//!
//! A service that wants none of it pays for none of it: a flag of its entry says so. `nat` remembers flows anyhow; elsewhere they have entries in a
//! table of a bounded size, and a flow that finds no room there goes by its hash, as does a packet of a flow that has no entry.

mod memory;
mod pick;

use core::mem::offset_of;

use crate::{
    abi::{FlowWord, Schedule, ScheduleStats, Scheduler, ServiceFlags, SlotWord, Vip},
    flow::Address,
    forward::Arrival,
    header::{TCP, tcp},
    ledger::places,
    nat::Opening,
    put, read,
    select::Candidate,
    shared::Shared,
    tables::Tables,
};
use memory::Memory;
use pick::Load;
pub use pick::cost;

/// Who has chosen a flow's backend.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Nobody: the flow's hash, or what `nat` or the ledger remembers.
    Hash = 0,
    /// The scheduler, now.
    Scheduler = 1,
    /// The scheduler, when the flow began.
    Memory = 2,
    /// The source's last flow.
    Source = 3,
    /// The hash, because there was no room to remember another choice.
    Full = 4,
    /// The server id in a QUIC packet's connection id.
    Id = 5,
}

impl By {
    pub const fn from_u8(raw: u8) -> Self {
        match raw {
            1 => Self::Scheduler,
            2 => Self::Memory,
            3 => Self::Source,
            4 => Self::Full,
            5 => Self::Id,
            _ => Self::Hash,
        }
    }
}

/// A choice as one word, which passes between parts of a program that are verified apart: the backend's index, and who has chosen it.
#[derive(Clone, Copy)]
pub(crate) struct Choice(u32);

impl Choice {
    /// Nothing is chosen: the hash says.
    pub(crate) const NONE: Self = Self::by_hash(By::Hash);

    const fn by_hash(why: By) -> Self {
        Self(SlotWord::NONE as u32 | (why as u32) << 16)
    }

    const fn new(backend: u16, by: By) -> Self {
        Self(backend as u32 | (by as u32) << 16)
    }

    /// Whom a connection id names.
    #[inline(always)]
    fn named(opening: Shared<'_, Opening>) -> Self {
        Self::new(read!(opening, Opening.named as u32) as u16, By::Id)
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word as u32)
    }

    pub(crate) const fn word(self) -> u32 {
        self.0
    }

    /// Index of the backend within the service; [`SlotWord::NONE`] = the hash says.
    pub(crate) const fn backend(self) -> u16 {
        self.0 as u16
    }
}

/// Picks a backend for what [`Tables::opening`] describes: its index, or [`SlotWord::NONE`].
#[inline(always)]
pub fn pick<T: Tables>(tables: &T) -> u64 {
    pick::pick(tables).unwrap_or(SlotWord::NONE) as u64
}

/// What a packet tells, beside what stands in the [`Opening`]: TCP flags, and whether flows are translated.
const TRANSLATED: u64 = 1 << 8;
/// Stands beside it in [`Opening`] where a choice is asked for.
const ASKED: u64 = 1 << 16;
/// ... and where a connection id has named the backend.
const NAMED: u64 = 1 << 17;

/// Notes what a choice has to know of a packet.
#[inline(always)]
pub(crate) fn note<A: Address, T: Tables>(tables: &T, opening: Shared<'_, Opening>, arrival: &Arrival<'_, A>) {
    arrival.src.store::<Opening, { offset_of!(Opening, client) }, { offset_of!(Opening, client) + 8 }>(opening);
    put!(opening, Opening.hash as u64, arrival.hash);
    put!(opening, Opening.slot as u32, arrival.slot());
    put!(opening, Opening.table as u64, read!(arrival.vip, Vip.table as u64));
    put!(opening, Opening.backend_base as u32, read!(arrival.vip, Vip.backend_base as u32));
    put!(opening, Opening.service as u32, arrival.service());
    put!(opening, Opening.now as u32, tables.tick());
    put!(opening, Opening.proto as u8, arrival.headers.proto);
}

/// Asks for a choice for a flow that `nat` is about to open, and that is noted in `opening`, if its service wants one: [`answer`] makes it.
#[inline(always)]
pub(crate) fn ask_for_translation<A>(opening: Shared<'_, Opening>, arrival: &Arrival<'_, A>) {
    let asked = match wishes(opening, arrival) {
        0 => 0,
        wishes => wishes | TRANSLATED | tcp::SYN as u64,
    };
    put!(opening, Opening.asked as u32, asked as u32);
    put!(opening, Opening.chosen as u32, Choice::NONE.word());
}

/// Asks for the owner of a packet's flow, where nobody translates and the service wants it chosen: what [`owner`] is to know, or 0. [`answer`] tells it
/// as well.
#[inline(always)]
pub(crate) fn ask_for_owner<A: Address, T: Tables>(tables: &T, arrival: &Arrival<'_, A>) -> u64 {
    if arrival.wanted() & (ServiceFlags::CHOOSES | ServiceFlags::QUIC) == 0 {
        return 0;
    }
    let Some(opening) = tables.opening() else { return 0 };
    let wishes = wishes(opening, arrival);
    if wishes == 0 {
        return 0;
    }
    note(tables, opening, arrival);
    let asked = wishes | arrival.flags as u64;
    put!(opening, Opening.asked as u32, asked as u32);
    asked
}

/// Makes the choice that was asked for, if one was: index of the backend; [`SlotWord::NONE`]: the hash says.
#[inline(always)]
pub(crate) fn answer<T: Tables>(tables: &T) -> u16 {
    let Some(opening) = tables.opening() else { return SlotWord::NONE };
    let asked = read!(opening, Opening.asked as u32);
    if asked == 0 {
        return SlotWord::NONE;
    }
    let chosen = if asked & ASKED as u32 == 0 { Choice::named(opening) } else { Choice::from_word(tables.choose(asked as u64)) };
    put!(opening, Opening.chosen as u32, chosen.word());
    chosen.backend()
}

/// Who has a packet's flow where its slot can't say: who was chosen for it, if that was `asked` for, or else whom [`Tables::follow`] tells, by its word.
#[inline(always)]
pub fn owner<T: Tables>(tables: &T, slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
    if asked != 0 {
        let chosen = answer(tables);
        if chosen != SlotWord::NONE {
            return places::answer(chosen, SlotWord::NONE);
        }
    }
    tables.follow(slot, base, key, sent)
}

/// What is to be asked for a packet: [`ASKED`] where its service has a scheduler, or had one, and [`NAMED`].
#[inline(always)]
fn wishes<A>(opening: Shared<'_, Opening>, arrival: &Arrival<'_, A>) -> u64 {
    let wanted = arrival.wanted();
    let asked = if wanted & ServiceFlags::CHOOSES != 0 { ASKED } else { 0 };
    if wanted & ServiceFlags::QUIC == 0 {
        put!(opening, Opening.named as u32, SlotWord::NONE as u32);
        return asked;
    }
    let named = read!(opening, Opening.named as u32) != SlotWord::NONE as u32;
    if named { asked | NAMED } else { asked }
}

/// A translated flow of a service with a scheduler has ended, or is about to.
#[inline(always)]
pub(crate) fn ended<T: Tables>(tables: &T, stats: u32) {
    if let Some(load) = Load::at(tables, stats) {
        load.add_live(-1);
    }
}

/// Chooses for the packet that [`Tables::opening`] describes: a [`Choice`]. `sent`: see [`TRANSLATED`].
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, sent: u64) -> u64 {
    chosen(tables, sent).unwrap_or(Choice::NONE).word() as u64
}

#[inline(always)]
fn chosen<T: Tables>(tables: &T, sent: u64) -> Option<Choice> {
    let (config, opening) = (tables.config()?, tables.opening()?);
    let schedule = tables.schedule(read!(opening, Opening.service as u32))?;
    let memory = Memory { tables, config, opening, now: read!(opening, Opening.now as u32) };
    let begins = read!(opening, Opening.proto as u8) != TCP || sent as u8 & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN;
    if sent & TRANSLATED == 0
        && let Some(choice) = remembered(&memory, sent as u8, begins)
    {
        return Some(choice);
    }
    begins.then(|| first(&memory, schedule, sent & TRANSLATED != 0))?
}

/// Who has the flow. One whose backend is dead is forgotten: what goes on goes where the hash says, whose kernel tells the client.
#[inline(always)]
fn remembered<T: Tables>(memory: &Memory<'_, T>, flags: u8, begins: bool) -> Option<Choice> {
    let (entry, word) = memory.find(memory.flow())?;
    // A SYN for what the client has ended begins anew.
    if begins && word.kind() & FlowWord::ENDING != 0 {
        return None;
    }
    let backend = Candidate::at(memory.tables, memory.base(), word.backend());
    // The client's port has another connection now.
    if memory.names_another(word.backend()) {
        memory.forget(entry);
        ended(memory.tables, backend?.stats());
        return None;
    }
    match backend.filter(|backend| backend.state().keeps_old()) {
        Some(backend) => {
            if memory.go_on(entry, word, flags) {
                ended(memory.tables, backend.stats());
            }
            Some(Choice::new(word.backend(), if memory.is_named() { By::Id } else { By::Memory }))
        }
        None => {
            memory.forget(entry);
            count::<{ offset_of!(ScheduleStats, lost) }, T>(memory.tables);
            None
        }
    }
}

/// A flow's first packet.
#[inline(always)]
fn first<T: Tables>(memory: &Memory<'_, T>, schedule: Shared<'_, Schedule>, translated: bool) -> Option<Choice> {
    let tables = memory.tables;
    let scheduler = Scheduler::from_u8(read!(schedule, Schedule.scheduler as u8));
    let affinity = read!(schedule, Schedule.affinity_ticks as u32);
    if scheduler == Scheduler::Hash && affinity == 0 {
        return memory.is_named().then(|| Choice::named(memory.opening));
    }
    let known = if affinity == 0 || memory.is_named() { None } else { of_source(memory) };
    let (index, by) = match known {
        _ if memory.is_named() => (memory.named(), By::Id),
        Some(index) => (index, By::Source),
        None => (picked(tables.pick())?, By::Scheduler),
    };
    if !translated && !memory.remember(memory.flow(), memory.begun(index)) {
        count::<{ offset_of!(ScheduleStats, full) }, T>(tables);
        return Some(if by == By::Id { Choice::new(index, by) } else { Choice::by_hash(By::Full) });
    }
    if affinity != 0 && by != By::Id {
        // Where there is no room for it, the source is led anew the next time.
        memory.remember(memory.source(), memory.of_source(index, affinity));
    }
    let stats = Candidate::at(tables, memory.base(), index)?.stats();
    let load = Load::at(tables, stats)?;
    load.add_live(1);
    match by {
        By::Scheduler => {
            load.take_turn();
            count::<{ offset_of!(ScheduleStats, chosen) }, T>(tables);
        }
        By::Source => count::<{ offset_of!(ScheduleStats, affine) }, T>(tables),
        _ => {}
    }
    Some(Choice::new(index, by))
}

/// Where the source's last flow went, if new flows may go there still.
#[inline(always)]
fn of_source<T: Tables>(memory: &Memory<'_, T>) -> Option<u16> {
    let (_, word) = memory.find(memory.source())?;
    pick::takes(memory.tables.cost(memory.base(), word.backend(), Scheduler::Hash as u32)).then_some(word.backend())
}

/// What [`pick`] has answered.
#[inline(always)]
fn picked(answer: u64) -> Option<u16> {
    (answer as u16 != SlotWord::NONE).then_some(answer as u16)
}

#[inline(always)]
fn count<const AT: usize, T: Tables>(tables: &T) {
    if let Some(stats) = tables.schedule_stats() {
        stats.count::<AT>(1);
    }
}
