//! One balancer: what it does with packets, and with its slot.

use mesh_common::{
    abi::{SlotFlags, SlotWord},
    ledger::{
        among::{Others, Peer, Said, records},
        change::{Held, Seen, SlotMemo, Wish, next_among},
        rules::{Entry, Kind, Memory, Sent, Standing, owner},
    },
};

use crate::{
    setup::{Fault, OLD, Setup},
    world::{BACKENDS, REST, isn},
};

/// What a node tells of its slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Told {
    pub target: u8,
    pub default: u8,
    pub asks: bool,
    pub progress: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Remembered {
    pub backend: u8,
    /// `None`: a flow; else the attempt.
    pub pending: Option<u8>,
    pub age: u8,
    /// How old the other believes it to be; [`NEVER`]: it does not know of it.
    pub known: u8,
    /// For how long it has been owed to the other.
    pub owed: Option<u8>,
    /// It was made before the last look.
    pub before: bool,
    /// The other had no room for it in this tick: it is told again in the next one.
    pub refused: bool,
    /// A handshake made it, or used it last, and nobody else knows: the flow does not change its balancer within that moment.
    pub begun: bool,
}

pub const NEVER: u8 = u8::MAX;
const NOBODY: u8 = u8::MAX;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node<const FLOWS: usize> {
    /// Target, default, secondary, flags.
    pub word: [u8; 4],
    pub since: u8,
    pub seen: u8,
    pub refused: u8,
    /// Since when every SYN is remembered; [`NEVER`]: it is not.
    pub recording: u8,
    pub wish: u8,
    /// What it asked for when it looked last.
    pub asks: Option<u8>,
    pub knows_dead: [bool; BACKENDS],
    /// It has looked in this tick.
    pub looked: bool,
    /// What it says, and whether it said so knowing the other's present word.
    pub said: Option<Told>,
    pub considered: bool,
    /// For how many ticks the other has not heard that.
    pub behind: u8,
    /// What the other has said, as known here; whether that was said knowing the present word of here; and whether it tells of the other's present word.
    pub view: Option<Told>,
    pub heard: bool,
    pub informed: bool,
    pub entries: [Option<Remembered>; FLOWS],
}

impl<const FLOWS: usize> Node<FLOWS> {
    /// All is at rest with this backend.
    pub fn new(owner: u8, setup: &Setup) -> Self {
        Self {
            word: [owner, owner, if setup.deaths > 0 { 1 } else { NOBODY }, 0],
            since: setup.old(),
            seen: setup.old(),
            refused: setup.old(),
            recording: NEVER,
            wish: owner,
            asks: None,
            knows_dead: [false; BACKENDS],
            looked: false,
            said: REST,
            considered: true,
            behind: 0,
            view: REST,
            heard: true,
            informed: true,
            entries: [None; FLOWS],
        }
    }

    pub fn is_steady(&self) -> bool {
        self.word[3] == 0
    }

    pub fn is_strict(&self) -> bool {
        self.flags().has(SlotFlags::STRICT)
    }

    pub fn flags(&self) -> SlotFlags {
        SlotFlags(self.word[3].into())
    }

    fn slot(&self) -> SlotWord {
        let [target, default, secondary, _] = self.word.map(u16::from);
        SlotWord::new(target, default, secondary, self.flags())
    }

    fn standing(&self, backend: u16) -> Standing {
        if self.knows_dead.get(usize::from(backend)) == Some(&false) { Standing::Takes } else { Standing::Dead }
    }

    /// Looks, steps and says. Whether the word is another one now.
    pub fn look(&mut self, setup: &Setup) -> bool {
        // Who asks for something else counts on what others say when they have heard of it.
        let asks = (self.wish != self.word[0]).then_some(self.wish);
        let begins = asks.is_some() && asks != self.asks && !self.is_steady();
        self.asks = asks;
        self.heard &= !begins || setup.fault == Some(Fault::Unasked);
        let said = self.view.map(|told| Said {
            target: told.target.into(),
            default: told.default.into(),
            asks: told.asks,
            progress: mesh_common::ledger::among::Progress(told.progress),
        });
        let mut others = Others::of(self.slot(), [Peer { heard: self.heard, said }]);
        if setup.fault == Some(Fault::Alone) {
            others = Others { apart: others.apart, ..Others::NONE };
        }
        // Without deaths nobody is led to a secondary.
        let secondary = if self.word[2] == NOBODY { NOBODY } else { (self.wish + 1) % BACKENDS as u8 };
        let wish = Wish { target: self.wish.into(), secondary: secondary.into(), host: false };
        let next = next_among(&self.sight(setup), &others, wish, &setup.times(), |backend| self.standing(backend));
        if let Some(word) = next {
            self.write(word);
        }
        self.looked = true;
        self.say(setup);
        next.is_some() || begins
    }

    fn sight(&self, setup: &Setup) -> Seen {
        let memo = SlotMemo { seen: setup.moment(self.seen), refused: setup.moment(self.refused) };
        // What is oldest may be older than anything of which a moment is known.
        let age = if self.since == setup.old() { NOW / 2 } else { self.since.into() };
        Seen { held: Held { word: self.slot(), since: NOW - age }, memo, now: NOW, handshakes: setup.handshakes }
    }

    fn write(&mut self, word: SlotWord) {
        let flags = word.flags();
        self.word = [word.target() as u8, word.default() as u8, word.secondary() as u8, flags.0 as u8];
        self.since = 0;
        let records = flags != SlotFlags::STEADY && records(word.target(), word.default(), flags);
        self.recording = match self.recording {
            _ if !records => NEVER,
            NEVER => 0,
            since => since,
        };
        self.heard = flags == SlotFlags::STEADY;
    }

    fn say(&mut self, setup: &Setup) {
        let recording = (self.recording != NEVER).then(|| NOW - u32::from(self.recording));
        let told = Told {
            target: self.word[0],
            default: self.word[1],
            asks: self.wish != self.word[0],
            progress: self.sight(setup).progress(recording, &setup.times()).0,
        };
        self.said = if self.is_steady() { REST } else { Some(told) };
        self.considered = self.informed;
        self.entries.iter_mut().flatten().for_each(|entry| entry.before = entry.owed.is_some());
    }

    pub fn tick(&mut self, setup: &Setup) {
        self.looked = false;
        for age in [&mut self.since, &mut self.seen, &mut self.refused] {
            *age = setup.older(*age);
        }
        if self.recording != NEVER {
            self.recording = setup.older(self.recording);
        }
        for place in &mut self.entries {
            let Some(entry) = place else { continue };
            entry.tick(setup);
            if !entry.live(setup) {
                *place = None;
            }
        }
    }

    /// What the kernel half does with a packet.
    pub fn packet(&mut self, flow: usize, sent: Sent, room: bool, setup: &Setup) -> Option<u8> {
        self.carry(flow, sent, room, setup).0
    }

    /// The same, and whether the packet's flow could not be remembered.
    pub fn carry(&mut self, flow: usize, sent: Sent, room: bool, setup: &Setup) -> (Option<u8>, bool) {
        if self.is_steady() {
            return (Some(self.word[0]), false);
        }
        let (slot, known) = (self.slot(), self.knows_dead);
        let standing = |b: u16| if known.get(usize::from(b)) == Some(&false) { Standing::Takes } else { Standing::Dead };
        let handshake = matches!(sent, Sent::Syn { isn: 0 } | Sent::Segment { seq: 1 });
        let mut memory = Recall { node: self, flow, room, setup, refused: false };
        let to = owner(slot, sent, standing, &mut memory);
        let refused = memory.refused;
        if let Some(entry) = &mut self.entries[flow] {
            entry.owes(setup);
            entry.begun |= handshake && entry.owed.is_some();
        }
        (to.map(|to| to as u8), refused)
    }

    /// The flow has begun here.
    pub fn begins(&mut self, flow: usize) {
        self.entries[flow].iter_mut().for_each(|entry| entry.begun = entry.owed.is_some());
    }

    /// Another attempt begins: entries of the one before are of an old one.
    pub fn attempt_is_old(&mut self, flow: usize) {
        if let Some(Remembered { pending: Some(attempt @ 0), .. }) = &mut self.entries[flow] {
            *attempt = 1;
        }
    }

    /// What the other is told of the flow.
    pub fn tell(&mut self, flow: usize) -> Option<Remembered> {
        let entry = self.entries[flow].as_mut()?;
        (entry.known, entry.owed, entry.before, entry.begun, entry.refused) = (entry.age, None, false, false, false);
        Some(*entry)
    }

    /// The other had no room for it.
    pub fn is_refused(&mut self, flow: usize, setup: &Setup) {
        if setup.fault == Some(Fault::Shrugs) {
            self.tell(flow);
        } else if let Some(entry) = &mut self.entries[flow] {
            entry.refused = true;
        }
    }

    /// What the other tells: a flow stands before a handshake, and the younger before the older.
    pub fn take(&mut self, flow: usize, told: Remembered) {
        let rank = |entry: Remembered| (entry.pending.is_none(), OLD - entry.age);
        if self.entries[flow].is_none_or(|own| rank(told) > rank(own)) {
            self.entries[flow] = Some(told);
        }
    }
}

impl Remembered {
    fn live(&self, setup: &Setup) -> bool {
        let times = setup.times();
        u32::from(self.age) <= if self.pending.is_some() { times.handshake } else { times.remembered() }
    }

    /// The other has to be told of it, or of its use: `dataplane::replica` decides likewise.
    fn owes(&mut self, setup: &Setup) {
        if setup.fault == Some(Fault::Mute) {
            self.begun = false;
            return;
        }
        let often = if self.pending.is_some() { setup.times().handshake / 3 } else { setup.times().idle / 3 };
        let behind = u32::from(self.known.saturating_sub(self.age));
        let used = behind > often || behind > 0 && u32::from(self.age) > often;
        if self.known == NEVER || used && setup.fault != Some(Fault::Stale) {
            self.owed = self.owed.or(Some(0));
        }
    }

    fn tick(&mut self, setup: &Setup) {
        self.age = setup.older(self.age);
        if self.known != NEVER {
            self.known = setup.older(self.known);
        }
        self.owed = self.owed.map(|age| (age + 1).min(setup.lag));
        self.refused = false;
        self.owes(setup);
    }

    pub fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    pub fn is_overdue(&self, lag: u8) -> bool {
        self.owed.is_some_and(|age| age >= lag) && !self.refused
    }

    pub fn goes_before(&self) -> bool {
        self.owed.is_some() && self.before
    }

    pub fn begins(&self) -> bool {
        self.owed.is_some() && self.begun
    }
}

struct Recall<'a, const FLOWS: usize> {
    node: &'a mut Node<FLOWS>,
    flow: usize,
    room: bool,
    setup: &'a Setup,
    refused: bool,
}

impl<const FLOWS: usize> Memory for Recall<'_, FLOWS> {
    fn entry(&self) -> Option<Entry> {
        self.node.entries[self.flow].map(|found| Entry {
            backend: found.backend.into(),
            kind: found.pending.map_or(Kind::Flow { number: 0, ended: false }, |attempt| Kind::Pending { isn: isn(attempt) }),
        })
    }

    fn touch(&mut self) {
        if let Some(entry) = &mut self.node.entries[self.flow] {
            entry.age = 0;
        }
    }

    fn promote(&mut self) {
        let defaulted = self.node.only_prepares() && self.node.entries[self.flow].is_some_and(|entry| entry.backend == self.node.default());
        if defaulted && self.setup.fault == Some(Fault::Defaulted) {
            return;
        }
        if let Some(entry) = &mut self.node.entries[self.flow] {
            (entry.pending, entry.age, entry.known, entry.begun) = (None, 0, NEVER, true);
        }
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

    fn remember(&mut self, entry: Entry) -> bool {
        if !self.room || self.node.entries[self.flow].is_some() {
            return false;
        }
        let pending = match entry.kind {
            Kind::Pending { isn } => Some((isn >> 28) as u8),
            Kind::Flow { .. } => None,
        };
        let begun = pending.is_some();
        self.node.entries[self.flow] = Some(Remembered {
            backend: entry.backend as u8,
            pending,
            age: 0,
            known: NEVER,
            owed: None,
            before: false,
            refused: false,
            begun,
        });
        true
    }

    fn refused_lately(&self) -> bool {
        u32::from(self.node.refused) <= self.setup.times().handshake
    }

    fn note_refusal(&mut self) {
        self.refused = true;
        if self.setup.fault != Some(Fault::RefusalsForgotten) {
            self.node.refused = 0;
        }
    }

    fn note_elsewhere(&mut self) {
        if self.setup.fault != Some(Fault::ElsewhereForgotten) {
            self.node.seen = 0;
        }
    }
}

/// The present, as the code under test sees it.
const NOW: u32 = 1000;

impl Setup {
    fn moment(&self, age: u8) -> u32 {
        if age == self.old() { 0 } else { NOW - u32::from(age) }
    }
}
