//! Ways to keep flows with their backends while tables change: what other balancers do, and the slot ledger by its own rules.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
};

use mesh::table::Table;
use mesh_common::{
    abi::{SlotFlags, SlotWord},
    ledger::{
        change::{Held, Seen, SlotMemo, Times, Wish, next},
        rules::{Entry, Kind, Memory, Sent, Standing, owner},
    },
};

/// One packet of one flow.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Hash of the flow.
    pub hash: u64,
    pub slot: usize,
    /// Node of the balancer that the network gives it to.
    pub node: usize,
    pub opens: bool,
    /// Who took the flow's first packet; `None` for that one itself.
    pub with: Option<u16>,
}

/// Who leads packets.
pub trait Keeper {
    /// Who takes the packet; `None`: nobody.
    fn lead(&mut self, packet: &Packet, now: u32) -> Option<u16>;
    /// Another table is wished for; who is dead is not in it.
    fn wish(&mut self, table: &Table, dead: &[bool], now: u32);
    /// A tick has passed.
    fn step(&mut self, _now: u32) {}
    /// Nobody's flows are led by this backend's name any more, so that it may come back.
    fn is_free_of(&self, _backend: u16) -> bool {
        true
    }
    /// Flows that are remembered now.
    fn entries(&self) -> usize {
        0
    }
}

/// By the table alone.
#[derive(Debug, Default)]
pub struct Stateless(Vec<u16>);

impl Keeper for Stateless {
    fn lead(&mut self, packet: &Packet, _: u32) -> Option<u16> {
        self.0.get(packet.slot).copied()
    }

    fn wish(&mut self, table: &Table, _: &[bool], _: u32) {
        self.0.clone_from(&table.owner);
    }
}

/// By a table of each node's flows, of which the one used longest ago gives way.
#[derive(Debug)]
pub struct Recent {
    owner: Vec<u16>,
    dead: Vec<bool>,
    nodes: Vec<Lru>,
    /// A node that meets more new flows than that in one tick remembers none of the rest.
    gate: u64,
}

#[derive(Debug, Default)]
struct Lru {
    flows: HashMap<u64, (u16, u64)>,
    /// Uses, the oldest first; one that a later use has overtaken says nothing.
    uses: VecDeque<(u64, u64)>,
    clock: u64,
    /// The tick, and new flows in it.
    opened: (u32, u64),
}

impl Recent {
    const ENTRIES: usize = 65_536;

    pub fn new(nodes: usize, gate: u64) -> Self {
        Self { owner: Vec::new(), dead: Vec::new(), nodes: (0..nodes).map(|_| Lru::default()).collect(), gate }
    }
}

impl Lru {
    fn used(&mut self, hash: u64, backend: u16) {
        self.clock += 1;
        self.flows.insert(hash, (backend, self.clock));
        self.uses.push_back((hash, self.clock));
        while self.flows.len() > Recent::ENTRIES || self.uses.len() > 4 * Recent::ENTRIES {
            let Some((hash, clock)) = self.uses.pop_front() else { return };
            if self.flows.get(&hash).is_some_and(|(_, last)| *last == clock) {
                self.flows.remove(&hash);
            }
        }
    }
}

impl Keeper for Recent {
    fn lead(&mut self, packet: &Packet, now: u32) -> Option<u16> {
        let dead = |backend: u16| self.dead.get(usize::from(backend)).copied().unwrap_or(false);
        let node = self.nodes.get_mut(packet.node)?;
        let known = node.flows.get(&packet.hash).map(|(backend, _)| *backend).filter(|b| !packet.opens && !dead(*b));
        let backend = known.or_else(|| self.owner.get(packet.slot).copied())?;
        let opened = if node.opened.0 == now { node.opened.1 + u64::from(known.is_none()) } else { u64::from(known.is_none()) };
        node.opened = (now, opened);
        if known.is_some() || opened <= self.gate {
            node.used(packet.hash, backend);
        }
        Some(backend)
    }

    fn wish(&mut self, table: &Table, dead: &[bool], _: u32) {
        self.owner.clone_from(&table.owner);
        self.dead = dead.to_vec();
    }

    fn entries(&self) -> usize {
        self.nodes.iter().map(|n| n.flows.len()).sum()
    }
}

/// Backends hand on what they don't know to who owned the slot before: a chain of one.
#[derive(Debug, Default)]
pub struct Chain {
    owner: Vec<u16>,
    before: Vec<u16>,
}

impl Keeper for Chain {
    fn lead(&mut self, packet: &Packet, _: u32) -> Option<u16> {
        let now = self.owner.get(packet.slot).copied()?;
        match packet.with {
            Some(with) if with != now => self.before.get(packet.slot).copied(),
            _ => Some(now),
        }
    }

    fn wish(&mut self, table: &Table, _: &[bool], _: u32) {
        // Each slot's own: what moved before stays known until it moves again.
        if self.owner.is_empty() {
            self.before = table.owner.clone();
        }
        for ((before, owner), now) in self.before.iter_mut().zip(&self.owner).zip(&table.owner) {
            if owner != now {
                *before = *owner;
            }
        }
        self.owner.clone_from(&table.owner);
    }
}

/// By the slot ledger: the rules of its packets and of its changes are those that run in the kernel and in the daemon.
#[derive(Debug)]
pub struct Ledger {
    words: Vec<SlotWord>,
    wishes: Vec<Wish>,
    dead: Vec<bool>,
    under_way: BTreeMap<usize, u32>,
    /// Of each node; one for all where they tell each other what they remember.
    nodes: Vec<Rc<RefCell<Remembered>>>,
    times: Times,
}

#[derive(Debug, Default)]
struct Remembered {
    entries: HashMap<u64, (Entry, u32)>,
    memos: HashMap<usize, SlotMemo>,
    room: usize,
    swept: u32,
    full: Full,
    /// Uses, the oldest first, where somebody gives way; one that a later use has overtaken says nothing.
    uses: VecDeque<(u64, u32)>,
}

/// What becomes of a flow that finds no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Full {
    /// It goes the way for which nothing has to be remembered.
    #[default]
    Refused,
    /// The one used longest ago gives way.
    Ousts,
}

impl Ledger {
    /// `room`: entries of each node. `shared`: nodes tell each other at once what they remember.
    pub fn new(nodes: usize, shared: bool, room: usize, full: Full, times: Times) -> Self {
        let one = || Rc::new(RefCell::new(Remembered { room, full, ..Remembered::default() }));
        let first = one();
        let nodes = (0..nodes).map(|_| if shared { Rc::clone(&first) } else { one() }).collect();
        Self { words: Vec::new(), wishes: Vec::new(), dead: Vec::new(), under_way: BTreeMap::new(), nodes, times }
    }

    fn standing(dead: &[bool], backend: u16) -> Standing {
        if backend == SlotWord::NONE || dead.get(usize::from(backend)).copied().unwrap_or(true) { Standing::Dead } else { Standing::Takes }
    }

    /// What all nodes together tell of a slot.
    fn memo(&self, slot: usize) -> SlotMemo {
        let memos = self.nodes.iter().map(|node| node.borrow().memos.get(&slot).copied().unwrap_or_default());
        memos.fold(SlotMemo::default(), |a, b| SlotMemo { seen: a.seen.max(b.seen), refused: a.refused.max(b.refused) })
    }

    fn look(&mut self, slot: usize, now: u32) {
        let (Some(word), Some(wish)) = (self.words.get(slot).copied(), self.wishes.get(slot).copied()) else { return };
        let held = Held { word, since: self.under_way.get(&slot).copied().unwrap_or(now) };
        let seen = Seen { held, memo: self.memo(slot), now, handshakes: true };
        let Some(then) = next(&seen, wish, &self.times, |b| Self::standing(&self.dead, b)) else { return };
        self.words[slot] = then;
        if then.flags() == SlotFlags::STEADY {
            self.under_way.remove(&slot);
        } else {
            self.under_way.insert(slot, now);
        }
    }
}

impl Keeper for Ledger {
    fn lead(&mut self, packet: &Packet, now: u32) -> Option<u16> {
        let word = self.words.get(packet.slot).copied()?;
        if word.flags() == SlotFlags::STEADY && Self::standing(&self.dead, word.target()) == Standing::Takes {
            return Some(word.target());
        }
        let isn = packet.hash as u32;
        let sent = if packet.opens { Sent::Syn { isn } } else { Sent::Segment { seq: isn.wrapping_add(1) } };
        let mut remembered = self.nodes.get(packet.node)?.borrow_mut();
        let mut memory = View { of: &mut remembered, hash: packet.hash, slot: packet.slot, now, times: self.times };
        owner(word, sent, |backend| Self::standing(&self.dead, backend), &mut memory)
    }

    fn wish(&mut self, table: &Table, dead: &[bool], now: u32) {
        let wishes = table.owner.iter().zip(&table.secondary).map(|(target, secondary)| Wish {
            target: *target,
            secondary: *secondary,
            host: false,
        });
        self.wishes = wishes.collect();
        self.dead = dead.to_vec();
        if self.words.is_empty() {
            self.words = self.wishes.iter().map(|w| SlotWord::steady(w.target, w.secondary)).collect();
        }
        (0..self.words.len()).for_each(|slot| self.look(slot, now));
    }

    fn step(&mut self, now: u32) {
        for slot in self.under_way.keys().copied().collect::<Vec<_>>() {
            self.look(slot, now);
        }
    }

    fn is_free_of(&self, backend: u16) -> bool {
        self.words.iter().all(|word| word.target() != backend && word.default() != backend)
    }

    fn entries(&self) -> usize {
        self.nodes.iter().map(|node| node.borrow().entries.len()).max().unwrap_or(0)
    }
}

impl Remembered {
    fn note_use(&mut self, hash: u64, now: u32) {
        if self.full == Full::Ousts {
            self.uses.push_back((hash, now));
        }
    }

    /// Forgets the one used longest ago.
    fn oust(&mut self) -> bool {
        let Some((hash, used)) = self.uses.pop_front() else { return false };
        if self.entries.get(&hash).is_some_and(|(_, last)| *last == used) {
            self.entries.remove(&hash);
        }
        true
    }
}

/// What is remembered, as it is to one packet.
struct View<'a> {
    of: &'a mut Remembered,
    hash: u64,
    slot: usize,
    now: u32,
    times: Times,
}

impl View<'_> {
    fn live(&self, (entry, used): &(Entry, u32)) -> bool {
        let limit = if matches!(entry.kind, Kind::Flow { .. }) { self.times.idle } else { self.times.handshake };
        self.now.wrapping_sub(*used) <= limit
    }

    fn memo(&mut self) -> &mut SlotMemo {
        self.of.memos.entry(self.slot).or_default()
    }
}

impl Memory for View<'_> {
    fn entry(&self) -> Option<Entry> {
        self.of.entries.get(&self.hash).filter(|known| self.live(known)).map(|(entry, _)| *entry)
    }

    fn touch(&mut self) {
        if let Some(known) = self.of.entries.get_mut(&self.hash) {
            known.1 = self.now;
            self.of.note_use(self.hash, self.now);
        }
    }

    fn promote(&mut self) {
        if let Some(known) = self.of.entries.get_mut(&self.hash) {
            let number = if let Kind::Pending { isn } = known.0.kind { isn } else { 0 };
            *known = (Entry { kind: Kind::Flow { number, ended: false }, ..known.0 }, self.now);
            self.of.note_use(self.hash, self.now);
        }
    }

    fn note(&mut self, number: u32, ended: bool) {
        if let Some(known) = self.of.entries.get_mut(&self.hash) {
            *known = (Entry { kind: Kind::Flow { number, ended }, ..known.0 }, self.now);
            self.of.note_use(self.hash, self.now);
        }
    }

    /// Flows say nothing of their end here.
    fn notes_ends(&self) -> bool {
        false
    }

    fn forget(&mut self) {
        self.of.entries.remove(&self.hash);
    }

    fn remember(&mut self, entry: Entry) -> bool {
        if self.of.entries.len() >= self.of.room && self.of.swept != self.now {
            let mut entries = std::mem::take(&mut self.of.entries);
            entries.retain(|_, known| self.live(known));
            (self.of.entries, self.of.swept) = (entries, self.now);
        }
        while self.of.full == Full::Ousts && self.of.entries.len() >= self.of.room && self.of.oust() {}
        let room = self.of.entries.len() < self.of.room || self.of.entries.contains_key(&self.hash);
        if room {
            self.of.entries.insert(self.hash, (entry, self.now));
            self.of.note_use(self.hash, self.now);
        }
        room
    }

    fn refused_lately(&self) -> bool {
        let refused = self.of.memos.get(&self.slot).map_or(0, |memo| memo.refused);
        refused != 0 && self.now.wrapping_sub(refused) <= self.times.handshake
    }

    fn note_refusal(&mut self) {
        self.memo().refused = self.now;
    }

    fn note_elsewhere(&mut self) {
        self.memo().seen = self.now;
    }
}
