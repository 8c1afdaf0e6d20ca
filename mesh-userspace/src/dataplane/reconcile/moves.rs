//! Slots of services that nobody translates: each goes to its new owner by the steps of the ledger, so that no flow is torn from its backend.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::{
    abi::{BackendState, SlotFlags, SlotWord, TableRef},
    ledger::{
        among::{self, Others, Progress, records},
        change::{Held, Seen, Wish, next_among},
        rules::Standing,
    },
};

use super::{
    nodes::About,
    standings::{Clock, Owners, Standings},
};
use crate::{
    dataplane::entry,
    model::{BackendId, Proto},
    peers::ledger::{Said, Words},
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
    /// An earlier life of the daemon has published them.
    kept: bool,
}

/// Since which tick a slot's word is what it is, and since when the slot is on its way.
#[derive(Clone, Copy, Debug)]
struct Since {
    word: u32,
    began: u32,
    /// Since when every SYN is remembered.
    recording: Option<u32>,
    /// Our report that tells others of the word first; `None`: it is to come.
    told: Option<u64>,
    /// The target that a change is prepared to.
    asks: Option<u16>,
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

impl Moves {
    /// What a daemon finds that takes over: everything has just begun.
    pub fn adopted(standings: &Standings<'_>, locals: impl Iterator<Item = u16>, now: u32) -> Self {
        let under_way = set_out(standings.words(), now);
        let settling = locals.filter(|l| standings.state(*l) == BackendState::Settling).map(|l| (l, now)).collect();
        Self { under_way, settling, kept: true, ..Self::default() }
    }

    /// Nothing is under way, and no entry of the ledger means anything for the service.
    pub fn at_rest(&self) -> bool {
        self.under_way.is_empty() && self.settling.is_empty() && self.waiting.is_empty() && !self.behind
    }

    /// At rest, and nothing is to be told of what was not.
    pub fn is_still(&self) -> bool {
        self.at_rest() && self.settled == Settled::default()
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
            *wanted == BackendState::Draining && now.takes_new() || wanted.keeps_old() && !now.keeps_old() && now != BackendState::Absent
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
        // Its flows have gone on elsewhere, be it only suspected now, or drained.
        if wanted.keeps_old() && matches!(now, BackendState::Down | BackendState::Maintenance) && owners.named.contains(local) {
            return now;
        }
        // Its slots move first: while one still leads new flows to it, it takes them.
        let wanted = if wanted == BackendState::Draining && owners.targets.contains(local) && now.takes_new() { now } else { wanted };
        if !wanted.takes_new() {
            self.settling.remove(&local);
            return wanted;
        }
        match now {
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
            let seen = standings.memo(slot, clock.now).seen;
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
            Which::Moving => {
                let elsewhere = wish.about.map(|about| about.moving()).unwrap_or_default();
                elsewhere.into_iter().chain(self.under_way.keys().copied()).collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        let mut changes = Vec::new();
        for slot in slots {
            let word = SlotWord(standings.image.slots.word((at.base() + slot) as usize, 0));
            let wished = entry::slot(wish.table, wished_slot(slot, at, wish.table), wish.locals);
            let held = Held { word, since: self.under_way.get(&slot).map_or(clock.now, |since| since.word) };
            let seen = Seen { held, memo: standings.memo(slot, clock.now), now: clock.now, handshakes: wish.handshakes };
            let asks = Some(wished.target()).filter(|target| *target != word.target() && *target != SlotWord::NONE);
            self.asks(slot, asks);
            let told = self.under_way.get(&slot).map_or(Some(0), |since| since.told);
            let others = wish.about.map_or(Others::NONE, |about| about.others(slot, word, told));
            let asked = Wish { target: wished.target(), secondary: wished.secondary(), host: wish.host };
            if let Some(then) = step(&seen, &others, asked, clock, standing) {
                changes.push((slot, then));
                self.stepped(slot, then, clock.now);
            }
            if let Some(since) = self.under_way.get_mut(&slot) {
                since.asks = asks;
            }
        }
        changes
    }

    /// What others have said before they heard that this is asked for does not count.
    fn asks(&mut self, slot: u32, asks: Option<u16>) {
        if let Some(since) = self.under_way.get_mut(&slot)
            && since.asks != asks
        {
            since.told = since.told.filter(|_| asks.is_none());
            since.asks = asks;
        }
    }

    fn stepped(&mut self, slot: u32, word: SlotWord, now: u32) {
        if word.flags() != SlotFlags::STEADY {
            let since = self.under_way.entry(slot).or_insert(Since::new(now));
            let recording = records(word.target(), word.default(), word.flags()).then(|| since.recording.unwrap_or(now));
            *since = Since { word: now, recording, told: None, ..*since };
        } else if let Some(since) = self.under_way.remove(&slot) {
            self.settled.count(now.wrapping_sub(since.began));
        }
    }

    /// What others are told of the slots that are on their way, and of those that are at rest if `all`.
    pub fn words(
        &self,
        standings: &Standings<'_>,
        about: &About<'_>,
        id: impl Fn(u16) -> Option<BackendId>,
        all: bool,
        clock: &Clock,
    ) -> Words {
        let said = |slot: u32, word: SlotWord, since: Option<&Since>| {
            let held = Held { word, since: since.map_or(clock.now, |since| since.word) };
            let seen = Seen { held, memo: standings.memo(slot, clock.now), now: clock.now, handshakes: about.vip.proto == Proto::Tcp };
            let progress = seen.progress(since.and_then(|since| since.recording), &clock.times);
            Said {
                target: id(word.target()),
                default: id(word.default()),
                asks: since.and_then(|since| since.asks).and_then(&id),
                progress: if about.names_unknown(slot) { progress.without(Progress::RECORDED) } else { progress },
                rest: word.flags() == SlotFlags::STEADY,
            }
        };
        let log2_slots = u8::try_from(about.table.log2_slots()).unwrap_or_default();
        let word = |slot: u32| SlotWord(standings.image.slots.word((about.table.base() + slot) as usize, 0));
        let slots = match all {
            true => (0..).zip(standings.words()).map(|(slot, word)| (slot, said(slot, word, self.under_way.get(&slot)))).collect(),
            false => self.under_way.iter().map(|(slot, since)| (*slot, said(*slot, word(*slot), Some(since)))).collect(),
        };
        Words { log2_slots, foreign: false, slots }
    }

    /// Others have been told, in this report.
    pub fn were_told(&mut self, version: u64) {
        self.under_way.values_mut().for_each(|since| since.told = since.told.or(Some(version)));
    }

    /// The slots that become others where this node has just come, or was away.
    pub fn join(&mut self, standings: &Standings<'_>, about: &About<'_>, now: u32) -> Vec<(u32, SlotWord)> {
        if self.kept && about.are_held() {
            return Vec::new();
        }
        let joined = |(slot, word): (u32, SlotWord)| {
            let (said, rest) = about.to_join(slot)?;
            Some((slot, among::joined(word, &said, rest)?))
        };
        let changes: Vec<_> = (0..).zip(standings.words()).filter_map(joined).collect();
        changes.iter().for_each(|(slot, word)| self.stepped(*slot, *word, now));
        changes
    }

    /// Another node is lost.
    pub fn count_anew(&mut self, standings: &Standings<'_>, now: u32) {
        let Some(at) = standings.table else { return };
        for (slot, since) in &mut self.under_way {
            let word = SlotWord(standings.image.slots.word((at.base() + slot) as usize, 0));
            if among::counts_anew(word.flags()) {
                since.word = now;
            }
        }
    }

    /// Another node has no room for what it is told: for the time of a handshake no more flows are led elsewhere, as if there were no room here.
    pub fn hold(&self, standings: &Standings<'_>, now: u32) {
        self.under_way.keys().for_each(|slot| standings.refuse(*slot, now));
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
    moving.map(|(slot, _)| (slot, Since::new(now))).collect()
}

impl Since {
    fn new(now: u32) -> Self {
        Self { word: now, began: now, recording: None, told: None, asks: None }
    }
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
    /// What other nodes say of the service, where there are any.
    pub about: Option<About<'a>>,
    /// While nobody takes new flows, they are the host's.
    pub host: bool,
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

fn step(seen: &Seen, others: &Others, wish: Wish, clock: &Clock, standing: impl Fn(u16) -> Standing) -> Option<SlotWord> {
    let word = seen.held.word;
    let dead = |local| standing(local) == Standing::Dead;
    if dead(word.target()) && dead(word.default()) && (word.target() == SlotWord::NONE || wish.target == SlotWord::NONE) {
        // Nobody's flows are here: they begin with who takes them now, for who is dead does not come back while a slot names it.
        let (target, secondary) = (wish.target, wish.secondary);
        let wished =
            if dead(target) && !dead(secondary) { SlotWord::steady(secondary, target) } else { SlotWord::steady(target, secondary) };
        return (word != wished).then_some(wished);
    }
    next_among(seen, others, wish, &clock.times, standing)
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
