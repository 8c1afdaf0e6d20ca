//! Two or three nodes with one slot, and the network between them.

mod node;
mod nouns;

use std::collections::VecDeque;

use mesh_common::{
    abi::{SlotFlags, SlotWord},
    ledger::{change::SlotMemo, rules::Sent},
};
use proptest::test_runner::TestCaseError;

use node::wins;
pub use nouns::{Act, FLOWS, Fault, HELD_UP, LOST, TIMES, TOLD, address, id, vip};
use nouns::{Flow, SILENCE, START, STEP, TICK, global, local, local_of};

use crate::peers::ledger::{Entry, Kind, Machine, Options, Report, Words};

#[derive(Debug)]
struct Node {
    /// `None`: its daemon is dead.
    machine: Option<Machine>,
    back_at: u64,
    serves: bool,
    word: SlotWord,
    since: u32,
    /// Our report that tells of the word first; `None`: it is to come.
    told: Option<u64>,
    /// What it asked for when it looked last.
    asks: Option<u16>,
    recording: Option<u32>,
    memo: SlotMemo,
    wish: (u16, u16),
    wished: VecDeque<(u64, (u16, u16))>,
    entries: [Option<(u16, Kind, u32)>; FLOWS],
    shadow: [Option<(u16, Kind, u32)>; FLOWS],
    cut_until: u64,
    /// How many others counted when it looked last.
    counted: usize,
    fault: Option<Fault>,
}

pub struct World {
    now: u64,
    seed: u64,
    /// Of a hundred messages so many are lost, ...
    pub loss: u64,
    /// ... and the others take up to so many milliseconds.
    pub delay: u64,
    /// Nodes want a change within so long.
    skew: u64,
    nodes: Vec<Node>,
    flows: [Flow; FLOWS],
    at: [usize; FLOWS],
    wire: Vec<(u64, usize, usize, Vec<u8>)>,
    starts: u64,
    isn: u32,
    /// What has happened.
    told: Vec<String>,
}

impl World {
    pub fn new(nodes: usize, seed: u64, loss: u8) -> Self {
        let node = |n: usize| Node {
            machine: None,
            back_at: 0,
            serves: true,
            word: SlotWord::steady(local(n, 0), local(n, 1)),
            since: START,
            told: Some(0),
            asks: None,
            recording: None,
            memo: SlotMemo::default(),
            wish: (0, 1),
            wished: VecDeque::new(),
            entries: [None; FLOWS],
            shadow: [None; FLOWS],
            cut_until: 0,
            counted: 0,
            fault: None,
        };
        let mut world = Self {
            now: 0,
            seed,
            loss: loss.into(),
            delay: 60,
            skew: if seed.is_multiple_of(2) { 2000 } else { 9000 },
            nodes: (0..nodes).map(node).collect(),
            flows: [Flow::None; FLOWS],
            at: [0; FLOWS],
            wire: Vec::new(),
            starts: 0,
            isn: 0,
            told: Vec::new(),
        };
        (0..nodes).for_each(|n| world.start(n));
        world
    }

    /// The same without this rule.
    pub fn without(mut self, fault: Option<Fault>) -> Self {
        self.nodes.iter_mut().for_each(|node| node.fault = fault);
        self
    }

    /// One node wants this in so many milliseconds.
    pub fn wish_at(&mut self, n: usize, after: u64, wish: (u16, u16)) {
        self.nodes[n].wished.push_back((self.now + after, wish));
    }

    /// A node dies for good.
    pub fn kill(&mut self, n: usize) {
        (self.nodes[n].machine, self.nodes[n].serves, self.nodes[n].back_at) = (None, false, u64::MAX);
    }

    /// Where a node leads new flows.
    pub fn target(&self, n: usize) -> u16 {
        global(n, self.nodes[n].word.target())
    }

    fn random(&mut self, n: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % n
    }

    fn tick(&self) -> u32 {
        START + (self.now / TICK) as u32
    }

    fn start(&mut self, n: usize) {
        self.starts += 1;
        let options = Options { start: self.starts, tag: 1, lost: LOST, interval: 100 };
        let peers = (0..self.nodes.len()).filter(|peer| *peer != n).map(address);
        self.nodes[n].machine = Some(Machine::new(options, peers, self.now));
    }

    pub fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        self.tell(format!("{act:?}"));
        let nodes = self.nodes.len();
        match act {
            Act::Syn(flow) if self.flows[flow] == Flow::None => {
                self.isn = self.isn.wrapping_add(1 << 24);
                let isn = self.isn;
                self.syn(flow, isn, self.now);
            }
            Act::Syn(flow) => {
                if let Flow::Opening { isn, began, .. } = self.flows[flow] {
                    self.syn(flow, isn, began);
                }
            }
            Act::Packet(flow) => self.packet(flow)?,
            Act::Close(flow) => self.flows[flow] = Flow::None,
            Act::Reroute(flow, node) => {
                let node = node % nodes;
                if self.nodes[node].serves && self.settled(flow) {
                    self.at[flow] = node;
                }
            }
            Act::Wish(target, secondary) => {
                for n in 0..nodes {
                    let at = self.now + self.random(self.skew);
                    self.nodes[n].wished.push_back((at, (target, secondary)));
                }
            }
            Act::Crash(node, forgets) => self.crash(node % nodes, forgets),
            Act::Cut(node, time) => self.nodes[node % nodes].cut_until = self.now + time.min(LOST / 3),
        }
        Ok(())
    }

    fn tell(&mut self, what: String) {
        self.told.push(format!("{:>6} {what}", self.now));
    }

    /// Others know of the flow.
    fn settled(&self, flow: usize) -> bool {
        match self.flows[flow] {
            Flow::None => true,
            Flow::Opening { at, .. } => self.now > at + TOLD,
            Flow::Open { began, .. } => self.now > began + TOLD,
        }
    }

    fn crash(&mut self, n: usize, forgets: bool) {
        // One at a time, and only who is in the picture.
        if self.nodes.iter().any(|node| !node.serves || node.machine.as_ref().is_none_or(Machine::is_joining)) {
            return;
        }
        let (now, tick, away) = (self.now, self.tick(), 200 + self.random(6000));
        for flow in 0..FLOWS {
            if self.at[flow] == n {
                // What nobody was told of is lost with it.
                if !self.settled(flow) {
                    self.flows[flow] = Flow::None;
                }
                self.at[flow] = (n + 1) % self.nodes.len();
            }
        }
        let node = &mut self.nodes[n];
        (node.machine, node.back_at, node.serves) = (None, now + away, false);
        if forgets {
            let (target, secondary) = node.wish;
            node.word = SlotWord::steady(local(n, target), local(n, secondary));
            (node.entries, node.memo) = ([None; FLOWS], SlotMemo::default());
            // It is back after nobody counts on it any more: else there would have to be something that it has kept.
            node.back_at = now + LOST + 300 + away;
        }
        (node.shadow, node.recording, node.since, node.told) = ([None; FLOWS], None, tick, None);
    }

    pub fn run(&mut self, time: u64) -> Result<(), TestCaseError> {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.deliver();
            for n in 0..self.nodes.len() {
                self.node(n);
            }
            for (flow, silence) in SILENCE.into_iter().enumerate() {
                // The last one talks for a while, and then hardly.
                let silence = if flow == FLOWS - 1 && self.now % 12_000 < 4000 { SILENCE[0] } else { silence };
                if matches!(self.flows[flow], Flow::Open { at, .. } if self.now > at + silence) {
                    self.packet(flow)?;
                }
                let over = match self.flows[flow] {
                    Flow::Open { at, .. } => self.now > at + u64::from(TIMES.idle) * TICK,
                    Flow::Opening { at, .. } => self.now > at + u64::from(TIMES.handshake) * TICK,
                    Flow::None => false,
                };
                if over {
                    self.flows[flow] = Flow::None;
                }
            }
        }
        Ok(())
    }

    /// Without flows, and with one wish, all come to rest with the same owner.
    pub fn quiet(&mut self) -> Result<(), TestCaseError> {
        self.flows = [Flow::None; FLOWS];
        self.act(Act::Wish(1, 2))?;
        self.run(90_000)?;
        for (n, node) in self.nodes.iter().enumerate() {
            if node.word != SlotWord::steady(local(n, 1), local(n, 2)) {
                return Err(TestCaseError::fail(format!("node {n} is not at rest: {node:?}")));
            }
        }
        Ok(())
    }

    fn node(&mut self, n: usize) {
        if self.nodes[n].machine.is_none() {
            if self.now < self.nodes[n].back_at {
                return;
            }
            self.start(n);
        }
        let (now, tick, moment) = (self.now, self.tick(), self.now.is_multiple_of(TICK));
        let node = &mut self.nodes[n];
        while let Some((_, wish)) = node.wished.pop_front_if(|(at, _)| *at <= now) {
            node.wish = wish;
        }
        node.age(tick);
        let Some(machine) = &mut node.machine else { return };
        let told = node.shadow;
        let changed = |(flow, entry): &(usize, Option<(u16, Kind, u32)>)| match (entry, told[*flow]) {
            (Some(new), Some(old)) if (new.0, new.1) == (old.0, old.1) => {
                let (behind, often) = (new.2.wrapping_sub(old.2), TIMES.idle / 3);
                behind > often || behind > 0 && tick.wrapping_sub(new.2) > often
            }
            (new, _) => new.is_some(),
        };
        let entry = |(flow, entry): (usize, Option<(u16, Kind, u32)>)| {
            let (backend, kind, used) = entry?;
            Some(Entry { vip: vip(), hash: flow as u64, backend: id(global(n, backend)), kind, age: (tick - used) as u16 })
        };
        let news: Vec<_> = node.entries.into_iter().enumerate().filter(changed).collect();
        for (flow, now) in node.entries.into_iter().enumerate() {
            if now.is_none() || news.iter().any(|(new, _)| *new == flow) {
                node.shadow[flow] = now;
            }
        }
        let news: Vec<Entry> = news.into_iter().filter_map(entry).collect();
        let mute = node.fault == Some(Fault::Mute);
        machine.offer(if mute { &[] } else { &news });
        if machine.wants_all() {
            let all: Vec<Entry> = node.entries.into_iter().enumerate().filter_map(entry).collect();
            machine.offer_all(if mute { &[] } else { &all });
        }
        let before = node.word;
        if moment {
            node.step(n, now, tick);
        }
        if node.word != before {
            let (target, default) = (global(n, node.word.target()), global(n, node.word.default()));
            self.told.push(format!("{now:>6} node {n}: target {target}, default {default}, flags {:#x}", node.word.flags().0));
        }
        let said = node.said(n, tick);
        let Some(machine) = &mut node.machine else { return };
        if machine.wants_full() {
            machine.say_full(&Report::from([(vip(), Words { log2_slots: 0, foreign: false, slots: [(0, said)].into() })]));
        }
        let messages = machine.due(now);
        if machine.is_joining() && machine.may_join(now) {
            node.join(n, now, tick);
            node.serves = true;
            let (target, default) = (global(n, node.word.target()), global(n, node.word.default()));
            self.told.push(format!("{now:>6} node {n} joins: target {target}, default {default}, flags {:#x}", node.word.flags().0));
        }
        let silent = now < self.nodes[n].cut_until;
        for (to, message) in messages {
            let to = (0..self.nodes.len()).find(|peer| address(*peer) == to).unwrap_or_default();
            for _ in 0..1 + u64::from(self.random(10) == 0) {
                if self.random(100) >= self.loss && !silent {
                    let at = now + STEP + self.random(self.delay);
                    self.wire.push((at, n, to, message.clone()));
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let due: Vec<_> = self.wire.extract_if(.., |(at, ..)| *at <= now).collect();
        let tick = self.tick();
        for (_, from, to, message) in due {
            let node = &mut self.nodes[to];
            let Some(machine) = &mut node.machine else { continue };
            let (entries, shadow, fault) = (&mut node.entries, &mut node.shadow, node.fault);
            machine.hear(address(from), &message, now, |entry| {
                if fault == Some(Fault::Forgetful) {
                    return true;
                }
                let flow = entry.hash as usize;
                let new = (local_of(to, Some(entry.backend)), entry.kind, tick - u32::from(entry.age));
                if entries[flow].is_none_or(|old| wins(new, old)) {
                    (entries[flow], shadow[flow]) = (Some(new), Some(new));
                    self.told.push(format!("{now:>6} node {to} takes {entry:?}"));
                }
                true
            });
        }
    }

    fn syn(&mut self, flow: usize, isn: u32, began: u64) {
        let (n, tick) = (self.at[flow], self.tick());
        if let Some(owner) = self.nodes[n].packet(flow, Sent::Syn { isn }, tick) {
            self.tell(format!("SYN {flow} by {n} to {}", global(n, owner)));
            self.flows[flow] = Flow::Opening { isn, owner: global(n, owner), at: self.now, began };
        }
    }

    fn packet(&mut self, flow: usize) -> Result<(), TestCaseError> {
        let (n, tick) = (self.at[flow], self.tick());
        let (isn, owner, began, sequence) = match self.flows[flow] {
            Flow::None => return Ok(()),
            Flow::Opening { isn, owner, began, .. } => (isn, owner, began, isn.wrapping_add(1)),
            Flow::Open { isn, owner, began, .. } => (isn, owner, began, isn.wrapping_add(100_000)),
        };
        let strict = self.nodes[n].word.flags().has(SlotFlags::STRICT);
        let went = self.nodes[n].packet(flow, Sent::Segment { seq: sequence }, tick).map(|l| global(n, l));
        if went.is_none() && strict {
            return Ok(());
        }
        self.tell(format!("flow {flow} by {n} to {went:?}"));
        if went != Some(owner) {
            let before: Vec<_> = self.told.iter().rev().take(60).rev().map(String::as_str).collect();
            let entries: Vec<_> = self.nodes.iter().map(|node| node.entries[flow]).collect();
            let before = before.join("\n");
            return Err(TestCaseError::fail(format!(
                "flow {flow} of {owner} went to {went:?} at node {n}, with {entries:?}, after\n{before}"
            )));
        }
        let began = if matches!(self.flows[flow], Flow::Opening { .. }) { self.now } else { began };
        self.flows[flow] = Flow::Open { isn, owner, at: self.now, began };
        Ok(())
    }
}
