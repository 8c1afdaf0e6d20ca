//! One node: what it does with packets, and with its slot.

use mesh_common::{
    abi::SlotFlags,
    ledger::{
        among::{self, Others, Peer, records},
        change::{Held, Seen, Wish, next_among},
        rules::{self, Memory, Sent},
    },
};

use super::{Fault, Node, TIMES, global, id, local, local_of, vip};
use crate::peers::ledger::{Kind, Report, Said, Standing, View, Words};
use mesh_common::abi::SlotWord;

/// Which of two entries of one flow stands: who is a flow, then who was used last.
pub(super) fn wins(new: (u16, Kind, u32), old: (u16, Kind, u32)) -> bool {
    let rank = |(_, kind, used): (u16, Kind, u32)| (kind == Kind::Flow, used);
    rank(new) > rank(old)
}

impl Node {
    pub(super) fn age(&mut self, tick: u32) {
        for entry in &mut self.entries {
            let limit = |kind| if kind == Kind::Flow { TIMES.remembered() } else { TIMES.handshake };
            if entry.is_some_and(|(_, kind, used)| tick.wrapping_sub(used) > limit(kind)) {
                *entry = None;
            }
        }
    }

    pub(super) fn others(&self, n: usize, now: u64) -> Others {
        let Some(machine) = &self.machine else { return Others::NONE };
        if machine.is_joining() {
            return Others::SILENT;
        }
        let counts = |standing| matches!(standing, Standing::Here | Standing::Awaited | Standing::Joining);
        let peers = machine.peers(now).into_iter().filter(|(_, view)| counts(view.standing)).map(|(_, view)| {
            let said = view.report.get(&vip()).and_then(|words| words.slots.get(&0)).filter(|said| !said.rest);
            Peer { heard: !view.unsure && self.told.is_some_and(|told| view.heard >= told), said: said.map(|said| translated(n, said)) }
        });
        let others = Others::of(self.word, peers);
        if self.fault == Some(Fault::Alone) { Others { apart: others.apart, ..Others::NONE } } else { others }
    }

    /// How many others count.
    fn counted(&self, now: u64) -> usize {
        let counts = |view: &View| matches!(view.standing, Standing::Here | Standing::Awaited | Standing::Joining);
        self.machine.iter().flat_map(|machine| machine.peers(now)).filter(|(_, view)| counts(view)).count()
    }

    pub(super) fn step(&mut self, n: usize, now: u64, tick: u32) {
        if let Some(machine) = &mut self.machine {
            machine.look(now);
        }
        let counted = self.counted(now);
        if counted < self.counted && self.fault != Some(Fault::Careless) && among::counts_anew(self.word.flags()) {
            self.since = tick;
        }
        self.counted = counted;
        let asks = (local(n, self.wish.0) != self.word.target()).then_some(self.wish.0);
        if asks.is_some() && asks != self.asks && self.word.flags() != SlotFlags::STEADY {
            self.told = None;
        }
        self.asks = asks;
        let others = self.others(n, now);
        let seen = self.seen(tick);
        let wish = Wish { target: local(n, self.wish.0), secondary: local(n, self.wish.1), host: false };
        if let Some(word) = next_among(&seen, &others, wish, &TIMES, |_| rules::Standing::Takes) {
            self.write(word, tick);
        }
        let said = self.said(n, tick);
        let report = if said.rest {
            Report::new()
        } else {
            Report::from([(vip(), Words { log2_slots: 0, foreign: false, slots: [(0, said)].into() })])
        };
        let Some(machine) = &mut self.machine else { return };
        let version = machine.say(&report);
        self.told.get_or_insert(version);
    }

    pub(super) fn write(&mut self, word: SlotWord, tick: u32) {
        (self.word, self.since, self.told) = (word, tick, None);
        let records = word.flags() != SlotFlags::STEADY && records(word.target(), word.default(), word.flags());
        self.recording = if records { self.recording.or(Some(tick)) } else { None };
    }

    pub(super) fn seen(&self, now: u32) -> Seen {
        Seen { held: Held { word: self.word, since: self.since }, memo: self.memo, now, handshakes: true }
    }

    pub(super) fn said(&self, n: usize, tick: u32) -> Said {
        let name = |local| Some(id(global(n, local)));
        let asks = (local(n, self.wish.0) != self.word.target()).then(|| id(self.wish.0));
        Said {
            target: name(self.word.target()),
            default: name(self.word.default()),
            asks: asks.filter(|_| self.word.flags() != SlotFlags::STEADY),
            progress: self.seen(tick).progress(self.recording, &TIMES),
            rest: self.word.flags() == SlotFlags::STEADY,
        }
    }

    /// It knows what others know: their slots are its own, unless they have never stopped counting on it.
    pub(super) fn join(&mut self, n: usize, now: u64, tick: u32) {
        let Some(machine) = &mut self.machine else { return };
        machine.join();
        let views: Vec<_> = machine.peers(now).into_iter().map(|(_, view)| view).filter(|view| view.version > 0 && !view.unsure).collect();
        if self.fault == Some(Fault::Stubborn) || views.iter().any(|view| view.holds_us) {
            return;
        }
        let said = views.iter().filter_map(|view| view.report.get(&vip())?.slots.get(&0)).min_by_key(|said| said.rest).copied();
        if let Some(word) = said.and_then(|said| among::joined(self.word, &translated(n, &said), said.rest)) {
            self.write(word, tick);
        }
    }

    pub(super) fn packet(&mut self, flow: usize, sent: Sent, tick: u32) -> Option<u16> {
        let word = self.word;
        if word.flags() == SlotFlags::STEADY {
            return Some(word.target());
        }
        rules::owner(word, sent, |_| rules::Standing::Takes, &mut Recall { node: self, flow, tick })
    }
}

fn translated(n: usize, said: &Said) -> among::Said {
    let asks = said.asks.is_some();
    among::Said { target: local_of(n, said.target), default: local_of(n, said.default), asks, progress: said.progress }
}

struct Recall<'a> {
    node: &'a mut Node,
    flow: usize,
    tick: u32,
}

impl Memory for Recall<'_> {
    fn entry(&self) -> Option<rules::Entry> {
        self.node.entries[self.flow].map(|(backend, kind, _)| rules::Entry {
            backend,
            kind: match kind {
                Kind::Flow => rules::Kind::Flow { number: 0, ended: false },
                Kind::Pending { isn } => rules::Kind::Pending { isn },
            },
        })
    }

    fn touch(&mut self) {
        let tick = self.tick;
        self.node.entries[self.flow].iter_mut().for_each(|entry| entry.2 = tick);
    }

    fn promote(&mut self) {
        let tick = self.tick;
        self.node.entries[self.flow].iter_mut().for_each(|entry| (entry.1, entry.2) = (Kind::Flow, tick));
    }

    fn note(&mut self, _: u32, _: bool) {
        self.touch();
    }

    fn notes_ends(&self) -> bool {
        false
    }

    fn forget(&mut self) {
        self.node.entries[self.flow] = None;
    }

    fn remember(&mut self, entry: rules::Entry) -> bool {
        if self.node.entries[self.flow].is_some() {
            return false;
        }
        let kind = match entry.kind {
            rules::Kind::Flow { .. } => Kind::Flow,
            rules::Kind::Pending { isn } => Kind::Pending { isn },
        };
        self.node.entries[self.flow] = Some((entry.backend, kind, self.tick));
        true
    }

    fn refused_lately(&self) -> bool {
        self.node.memo.refused != 0 && self.tick.wrapping_sub(self.node.memo.refused) <= TIMES.handshake
    }

    fn note_refusal(&mut self) {
        self.node.memo.refused = self.tick;
    }

    fn note_elsewhere(&mut self) {
        self.node.memo.seen = self.tick;
    }
}
