//! The choice itself.

use core::mem::offset_of;

use crate::{
    abi::{BackendLoad, Schedule, Scheduler, SlotWord, TableRef},
    hash,
    nat::Opening,
    read,
    select::{Candidate, slot_index},
    shared::{Shared, opaque},
    tables::Tables,
};

/// Backends that a service may have for all of them to be compared; of more, [`DRAWS`] slots are.
pub const SCAN: u32 = 64;
/// Slots that are drawn where not all backends are compared.
const DRAWS: u32 = 8;
/// Slots that are drawn until somebody takes the flow.
const TRIES: u32 = 4;
/// From one draw to the next: as many turns as a table has slots meet each slot once, and mix them. By the upper bits, which say the slot.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// More is not told apart, so that a cost fits a word.
const MOST_FLOWS: u64 = (1 << 26) - 1;
const MOST_TURNS: u64 = i32::MAX as u64;
const MOST_LATENCY: u64 = (1 << 20) - 1;
const MOST_CARRIED: u64 = (1 << 38) - 1;
/// Bits of a cost behind the point.
const FRACTION: u32 = 24;
/// What the flow would cost who does not take it.
const NEVER: u64 = u64::MAX;

/// What one backend carries.
#[derive(Clone, Copy)]
pub(super) struct Load<'a>(Shared<'a, BackendLoad>);

impl<'a> Load<'a> {
    #[inline(always)]
    pub fn at<T: Tables>(tables: &'a T, stats: u32) -> Option<Self> {
        Some(Self(tables.backend_load(stats)?))
    }

    #[inline(always)]
    pub fn add_live(self, more: i64) {
        self.0.add::<{ offset_of!(BackendLoad, live) }>(more);
    }

    #[inline(always)]
    pub fn take_turn(self) {
        self.0.add::<{ offset_of!(BackendLoad, turns) }>(1);
    }

    #[inline(always)]
    fn weight(self) -> u64 {
        (read!(self.0, BackendLoad.weight as u32) & BackendLoad::MOST) as u64
    }

    /// With the flow that is to be given.
    #[inline(always)]
    fn carries(self, scheduler: Scheduler) -> u64 {
        if scheduler == Scheduler::RoundRobin {
            return (read!(self.0, BackendLoad.turns as u64) & MOST_TURNS) + 1;
        }
        let live = read!(self.0, BackendLoad.live as i64);
        // Fewer than none are none.
        let flows = ((live & !(live >> 63)) as u64 & MOST_FLOWS) + 1;
        if scheduler != Scheduler::LeastResponseTime {
            return flows;
        }
        let latency = (read!(self.0, BackendLoad.latency as u32) as u64 & MOST_LATENCY) + 1;
        (flows * latency).min(MOST_CARRIED)
    }
}

/// What a new flow would cost backend `index` of the service whose entries begin at `base`, by what its `scheduler` compares; less is better, and
/// [`takes`] says whether it takes one at all.
#[inline(always)]
pub fn cost<T: Tables>(tables: &T, base: u32, index: u16, scheduler: u32) -> u64 {
    weighed(tables, base, index, Scheduler::from_u8(scheduler as u8)).unwrap_or(NEVER)
}

#[inline(always)]
fn weighed<T: Tables>(tables: &T, base: u32, index: u16, scheduler: Scheduler) -> Option<u64> {
    let candidate = Candidate::at(tables, base, index)?;
    if !candidate.state().takes_new() || !candidate.ready() {
        return None;
    }
    let load = Load::at(tables, candidate.stats())?;
    (load.carries(scheduler) << FRACTION).checked_div(load.weight())
}

/// A backend of this [`cost`] takes new flows.
pub(super) const fn takes(cost: u64) -> bool {
    cost != NEVER
}

/// Who costs the least so far. A verifier knows nothing of it, so that it follows each look once, whoever was best before.
struct Best {
    index: u64,
    cost: u64,
    noise: u64,
}

impl Best {
    #[inline(always)]
    fn none(noise: u64) -> Self {
        Self { index: opaque(SlotWord::NONE as u64, noise), cost: opaque(NEVER, noise), noise }
    }

    #[inline(always)]
    fn consider(&mut self, index: u16, cost: u64) {
        if cost < self.cost {
            (self.index, self.cost) = (opaque(index as u64, self.noise), cost);
        }
    }

    #[inline(always)]
    fn index(&self) -> Option<u16> {
        let index = self.index as u16;
        (index != SlotWord::NONE).then_some(index)
    }
}

/// The backend that gets a new flow; `None`: nobody that was asked takes it.
#[inline(always)]
pub(super) fn pick<T: Tables>(tables: &T) -> Option<u16> {
    let opening = tables.opening()?;
    let schedule = tables.schedule(read!(opening, Opening.service as u32))?;
    let scheduler = Scheduler::from_u8(read!(schedule, Schedule.scheduler as u8));
    let base = read!(opening, Opening.backend_base as u32);
    let flow = read!(opening, Opening.hash as u64);
    let kind = opaque(scheduler as u64, flow) as u32;
    if matches!(scheduler, Scheduler::Hash | Scheduler::HashUnlessCrowded) {
        return by_hash(tables, opening, schedule, scheduler);
    }
    let turn = read!(schedule, Schedule.drawn as u64);
    schedule.count::<{ offset_of!(Schedule, drawn) }>(1);
    let members = read!(schedule, Schedule.members as u32);
    let random = hash::last(hash::step(flow, turn));
    if !matches!(scheduler, Scheduler::Random | Scheduler::TwoChoices) && members <= SCAN {
        // Equals are not always met in the same order.
        let start = if scheduler == Scheduler::RoundRobin { 0 } else { hash::range(random, members) };
        return of_all(tables, base, members, kind, opaque(start as u64, flow) as u32, Best::none(flow));
    }
    let (from, looks) = match scheduler {
        Scheduler::RoundRobin => (turn, TRIES),
        Scheduler::Random => (random, TRIES),
        Scheduler::TwoChoices => (random, 2),
        _ => (random, DRAWS),
    };
    let first = matches!(scheduler, Scheduler::RoundRobin | Scheduler::Random);
    let draws = Draws {
        table: TableRef(read!(opening, Opening.table as u64)),
        next: opaque(from.wrapping_mul(STRIDE), flow),
        looks: opaque(looks as u64, flow) as u32,
        first: opaque(first as u64, flow) != 0,
    };
    drawn(tables, base, kind, draws, Best::none(flow))
}

/// The best of all `members`, of equals the first from `start` on.
#[inline(always)]
fn of_all<T: Tables>(tables: &T, base: u32, members: u32, scheduler: u32, start: u32, mut best: Best) -> Option<u16> {
    for look in 0..SCAN {
        if look >= members {
            break;
        }
        let index = start.wrapping_add(look);
        let index = (if index >= members { index.wrapping_sub(members) } else { index }) as u16;
        best.consider(index, tables.cost(base, index, scheduler));
    }
    best.index()
}

/// Slots that are drawn.
struct Draws {
    table: TableRef,
    /// The hash that says the next one.
    next: u64,
    looks: u32,
    /// Whoever takes the flow first gets it.
    first: bool,
}

/// The best target of some slots, or the first that takes the flow.
#[inline(always)]
fn drawn<T: Tables>(tables: &T, base: u32, scheduler: u32, mut draws: Draws, mut best: Best) -> Option<u16> {
    for look in 0..DRAWS {
        if look >= draws.looks {
            break;
        }
        let slot = tables.slot(slot_index(draws.table, draws.next));
        draws.next = draws.next.wrapping_add(STRIDE);
        let Some(slot) = slot else { continue };
        let cost = tables.cost(base, slot.target(), scheduler);
        best.consider(slot.target(), cost);
        if draws.first && takes(cost) {
            break;
        }
    }
    best.index()
}

/// The slot's target, or its secondary where the target has half as many flows again as all have on average, and more than the secondary.
#[inline(always)]
fn by_hash<T: Tables>(tables: &T, opening: Shared<'_, Opening>, schedule: Shared<'_, Schedule>, scheduler: Scheduler) -> Option<u16> {
    let base = read!(opening, Opening.backend_base as u32);
    let slot = tables.slot(read!(opening, Opening.slot as u32))?;
    let cost = tables.cost(base, slot.target(), scheduler as u32);
    if !takes(cost) {
        return None;
    }
    let live = (read!(schedule, Schedule.live as u64) & MOST_FLOWS) + read!(schedule, Schedule.members as u32) as u64;
    let usual = (live << FRACTION).checked_div(read!(schedule, Schedule.weight as u32) as u64).unwrap_or(0);
    let crowded = scheduler == Scheduler::HashUnlessCrowded && 2 * cost > 3 * usual;
    if crowded && tables.cost(base, slot.secondary(), scheduler as u32) < cost {
        return Some(slot.secondary());
    }
    Some(slot.target())
}
