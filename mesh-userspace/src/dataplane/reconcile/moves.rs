//! Slots of services that nobody translates: each goes to its new owner by the steps of the ledger, so that no flow is torn from its backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_common::{
    abi::{BackendState, SlotFlags, SlotMemo, SlotWord, TableRef},
    ledger::{
        change::{Held, Seen, Times, Wish, next},
        rules::Standing,
    },
};

use crate::{
    dataplane::{entry, image::Image, nat},
    table::Table,
};

/// What is under way in one service. Whatever is forgotten of it begins to count anew, which takes longer and breaks nothing.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// Slots that are not at rest, by their number.
    under_way: BTreeMap<u32, Since>,
    /// Slots that came to rest.
    settled: Settled,
    /// Backends that were suspected until then, by local index.
    settling: BTreeMap<u16, u32>,
    /// Backends whose state has to wait.
    waiting: BTreeSet<u16>,
    /// The slots have not been compared yet with what is wished.
    behind: bool,
}

/// Since which tick a slot's word is what it is, and since when the slot is on its way.
#[derive(Clone, Copy, Debug)]
struct Since {
    word: u32,
    began: u32,
}

/// Slots that have come to rest, and how long they were on their way, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    pub slots: u64,
    /// Of all of them together.
    pub took: u64,
    pub longest: u32,
}

impl Settled {
    fn count(&mut self, took: u32) {
        self.slots += 1;
        self.took += u64::from(took);
        self.longest = self.longest.max(took);
    }
}

/// Slots of a service that are at the same stage of the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Journey {
    /// Local indices of the owner before, and of the one to be.
    pub from: u16,
    pub to: u16,
    pub flags: SlotFlags,
    pub slots: u32,
    /// Ticks since the first of them set out.
    pub longest: u32,
}

/// Time as the kernel half knows it, and how long things take.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub now: u32,
    pub instant: Instant,
    pub times: Times,
}

impl Clock {
    /// What a handshake may take.
    pub fn handshake(&self) -> Duration {
        nat::span(self.times.handshake)
    }
}

/// The service as it stands in the maps.
#[derive(Clone, Copy)]
pub struct Standings<'a> {
    pub image: &'a Image,
    pub table: Option<TableRef>,
    /// First of its entries in the backend map.
    pub base: u32,
}

impl Standings<'_> {
    fn words(&self) -> impl Iterator<Item = SlotWord> + '_ {
        self.table.into_iter().flat_map(|table| self.image.slots.table(table.base(), 1 << table.log2_slots()))
    }

    fn state(&self, local: u16) -> BackendState {
        if local == SlotWord::NONE {
            BackendState::Absent
        } else {
            BackendState::from_u8(self.image.backends.get(self.base as usize + usize::from(local)).state)
        }
    }

    fn memo(&self, slot: u32) -> SlotMemo {
        self.table.map(|table| self.image.slot_memos.get((table.base() + slot) as usize)).unwrap_or_default()
    }
}

impl Moves {
    /// What a daemon finds that takes over: everything has just begun.
    pub fn adopted(standings: &Standings<'_>, locals: impl Iterator<Item = u16>, now: u32) -> Self {
        let under_way = set_out(standings.words(), now);
        let settling = locals.filter(|l| standings.state(*l) == BackendState::Settling).map(|l| (l, now)).collect();
        Self { under_way, settling, ..Self::default() }
    }

    /// Nothing is under way, and no entry of the ledger means anything for the service.
    pub fn at_rest(&self) -> bool {
        self.under_way.is_empty() && self.settling.is_empty() && self.waiting.is_empty() && !self.behind
    }

    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Slots that are not at rest.
    pub fn slots(&self) -> usize {
        self.under_way.len()
    }

    /// Slots that came to rest since the last call.
    pub fn take_settled(&mut self) -> Settled {
        std::mem::take(&mut self.settled)
    }

    /// The ways that slots are on, each stage of each once.
    pub fn journeys(&self, standings: &Standings<'_>, now: u32) -> Vec<Journey> {
        let Some(at) = standings.table else { return Vec::new() };
        let mut journeys: BTreeMap<(u16, u16, u16), Journey> = BTreeMap::new();
        for (slot, since) in &self.under_way {
            let word = SlotWord(standings.image.slots.word((at.base() + slot) as usize, 0));
            let (from, to, flags) = (word.default(), word.target(), word.flags());
            let journey = journeys.entry((from, to, flags.0)).or_insert(Journey { from, to, flags, slots: 0, longest: 0 });
            journey.slots += 1;
            journey.longest = journey.longest.max(now.wrapping_sub(since.began));
        }
        journeys.into_values().collect()
    }

    /// The states to be published for these members (local index, wanted state), given what is published.
    pub fn states(&mut self, standings: &Standings<'_>, wanted: &[(u16, BackendState)], clock: &Clock) -> Vec<(u16, BackendState)> {
        let in_question = |(local, wanted): &(u16, BackendState)| {
            let now = standings.state(*local);
            *wanted == BackendState::Draining && now.takes_new() || wanted.takes_new() && !now.keeps_old() && now != BackendState::Absent
        };
        let owners = if wanted.iter().any(in_question) { Owners::of(standings) } else { Owners::default() };
        self.waiting.clear();
        self.settling.retain(|local, _| wanted.iter().any(|(l, _)| l == local));
        let mut one = |(local, wanted): &(u16, BackendState)| {
            let state = self.state(standings, &owners, *local, *wanted, clock);
            if state != *wanted {
                self.waiting.insert(*local);
            }
            (*local, state)
        };
        wanted.iter().map(&mut one).collect()
    }

    fn state(&mut self, standings: &Standings<'_>, owners: &Owners, local: u16, wanted: BackendState, clock: &Clock) -> BackendState {
        let now = standings.state(local);
        // Its slots move first: while one still leads new flows to it, it takes them.
        let wanted = if wanted == BackendState::Draining && owners.targets.contains(local) && now.takes_new() { now } else { wanted };
        if !wanted.takes_new() {
            self.settling.remove(&local);
            return wanted;
        }
        match now {
            BackendState::Down | BackendState::Maintenance if owners.named.contains(local) => now,
            BackendState::Soft => {
                self.settling.insert(local, clock.now);
                BackendState::Settling
            }
            BackendState::Settling if !self.settled(standings, local, clock) => BackendState::Settling,
            _ => {
                self.settling.remove(&local);
                wanted
            }
        }
    }

    /// All flows that went elsewhere while it was suspected have ended.
    fn settled(&mut self, standings: &Standings<'_>, local: u16, clock: &Clock) -> bool {
        let since = *self.settling.entry(local).or_insert(clock.now);
        if clock.now.wrapping_sub(since) <= clock.times.idle {
            return false;
        }
        let quiet = |slot: u32| {
            let seen = standings.memo(slot).seen;
            seen == 0 || clock.now.wrapping_sub(seen) as i32 > clock.times.idle as i32
        };
        (0..).zip(standings.words()).filter(|(_, word)| word.target() == local).all(|(slot, _)| quiet(slot))
    }

    /// The slots that change now, by their number, with their new words.
    pub fn slots_to(&mut self, standings: &Standings<'_>, wish: &Wished<'_>, which: Which, clock: &Clock) -> Vec<(u32, SlotWord)> {
        let Some(at) = standings.table else { return Vec::new() };
        let state = |local: u16| wish.states.get(&local).copied().unwrap_or_else(|| standings.state(local));
        let standing = |local: u16| match state(local) {
            state if state.takes_new() => Standing::Takes,
            state if state.keeps_old() => Standing::Keeps,
            _ => Standing::Dead,
        };
        self.behind = false;
        let slots: Vec<u32> = match which {
            Which::All => (0..1 << at.log2_slots()).collect(),
            Which::Moving => self.under_way.keys().copied().collect(),
        };
        let mut changes = Vec::new();
        for slot in slots {
            let word = SlotWord(standings.image.slots.word((at.base() + slot) as usize, 0));
            let wished = entry::slot(wish.table, wished_slot(slot, at, wish.table), wish.locals);
            let held = Held { word, since: self.under_way.get(&slot).map_or(clock.now, |since| since.word) };
            let seen = Seen { held, memo: standings.memo(slot), now: clock.now, handshakes: wish.handshakes };
            if let Some(then) = step(&seen, wished, clock, standing) {
                changes.push((slot, then));
                self.stepped(slot, then, clock.now);
            }
        }
        changes
    }

    fn stepped(&mut self, slot: u32, word: SlotWord, now: u32) {
        if word.flags() != SlotFlags::STEADY {
            self.under_way.entry(slot).or_insert(Since { word: now, began: now }).word = now;
        } else if let Some(since) = self.under_way.remove(&slot) {
            self.settled.count(now.wrapping_sub(since.began));
        }
    }

    /// The slots of a table begin to count anew, for they are in another place.
    pub fn moved(&mut self, words: &[SlotWord], now: u32) {
        self.behind = true;
        self.settling.values_mut().for_each(|since| *since = now);
        self.under_way = set_out(words.iter().copied(), now);
    }
}

/// Those of a table's slots that are not at rest, as if they had just set out.
fn set_out(words: impl Iterator<Item = SlotWord>, now: u32) -> BTreeMap<u32, Since> {
    let moving = (0..).zip(words).filter(|(_, word)| word.flags() != SlotFlags::STEADY);
    moving.map(|(slot, _)| (slot, Since { word: now, began: now })).collect()
}

/// What the slots of a service shall say.
#[derive(Clone, Copy)]
pub struct Wished<'a> {
    pub table: &'a Table,
    /// Local index of each of its members.
    pub locals: &'a [u16],
    /// What will be published of the backends before.
    pub states: &'a BTreeMap<u16, BackendState>,
    /// Flows begin with a handshake.
    pub handshakes: bool,
}

/// Which slots are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    All,
    /// Those that are not at rest.
    Moving,
}

/// Slot of the wished table that a slot of the table in use lies in: the latter may be the larger one.
fn wished_slot(slot: u32, at: TableRef, table: &Table) -> usize {
    slot as usize >> at.log2_slots().saturating_sub(u32::from(table.log2_slots))
}

fn step(seen: &Seen, wished: SlotWord, clock: &Clock, standing: impl Fn(u16) -> Standing) -> Option<SlotWord> {
    let word = seen.held.word;
    let dead = |local| standing(local) == Standing::Dead;
    if dead(word.target()) && dead(word.default()) && (word.target() == SlotWord::NONE || wished.target() == SlotWord::NONE) {
        // Nobody's flows are here: they begin with who takes them now, for who is dead does not come back while a slot names it.
        let (target, secondary) = (wished.target(), wished.secondary());
        let wished = if dead(target) && !dead(secondary) { SlotWord::steady(secondary, target) } else { wished };
        return (word != wished).then_some(wished);
    }
    if wished.target() == SlotWord::NONE {
        return None;
    }
    next(seen, Wish { target: wished.target(), secondary: wished.secondary() }, &clock.times, standing)
}

/// Who is named by the slots of a service.
#[derive(Default)]
struct Owners {
    targets: Locals,
    /// As target or default.
    named: Locals,
}

impl Owners {
    fn of(standings: &Standings<'_>) -> Self {
        let (mut targets, mut named) = (Locals::default(), Locals::default());
        for word in standings.words() {
            targets.insert(word.target());
            // Where all are dead, nobody's flows live that could be led back.
            if [word.target(), word.secondary(), word.default()].into_iter().any(|owner| standings.state(owner).keeps_old()) {
                named.insert(word.target());
                named.insert(word.default());
            }
        }
        Self { targets, named }
    }
}

/// A set of local indices.
#[derive(Default)]
struct Locals(Vec<bool>);

impl Locals {
    fn insert(&mut self, local: u16) {
        let at = usize::from(local);
        if self.0.len() <= at {
            self.0.resize(at + 1, false);
        }
        self.0[at] = true;
    }

    fn contains(&self, local: u16) -> bool {
        self.0.get(usize::from(local)).copied().unwrap_or(false)
    }
}

/// A table in use, spread over a larger one: each slot of it becomes several that say the same.
pub fn spread(old: &[SlotWord], len: usize) -> Vec<SlotWord> {
    let each = (len / old.len().max(1)).max(1);
    old.iter().flat_map(|word| std::iter::repeat_n(*word, each)).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_table_begins_as_the_smaller_one() {
        let old = [SlotWord::steady(1, 2), SlotWord::steady(3, 4)];
        assert_eq!(spread(&old, 8), [[old[0]; 4], [old[1]; 4]].concat());
    }
}
