//! Worlds that differ by names alone are one: the two nodes, backends, and flows.

use mesh_common::{abi::SlotFlags, ledger::change::LOOK};

use crate::{
    node::Node,
    setup::{OLD, Setup},
    world::{BACKENDS, Flow, World},
};

type Names = [u8; BACKENDS];

impl<const FLOWS: usize> World<FLOWS> {
    /// The one world of all that differ from this one by names alone, or by ages that nothing asks for any more.
    pub fn canonical(mut self) -> Self {
        let setup = self.setup;
        self.nodes.iter_mut().for_each(|node| node.forget_what_is_over(&setup));
        for flow in &mut self.flows {
            if let Flow::Opening { reached, .. } = flow {
                reached.iter_mut().filter(|age| u32::from(**age) > setup.times().handshake).for_each(|age| *age = OLD);
            }
        }
        let mut other = self;
        other.nodes.swap(0, 1);
        for flow in &mut other.flows {
            if let Flow::Opening { by: Some(by), .. } = flow {
                *by = 1 - *by;
            }
        }
        for by in other.bound.iter_mut().flatten() {
            *by = 1 - *by;
        }
        self.named().min(other.named())
    }

    fn named(mut self) -> Self {
        let names = self.names();
        let name = |old: &mut u8| *old = names.get(usize::from(*old)).copied().unwrap_or(*old);
        for node in &mut self.nodes {
            node.word[..3].iter_mut().for_each(name);
            name(&mut node.wish);
            node.asks.iter_mut().for_each(name);
            for told in [&mut node.said, &mut node.view].into_iter().flatten() {
                name(&mut told.target);
                name(&mut told.default);
            }
            node.entries.iter_mut().flatten().for_each(|entry| name(&mut entry.backend));
            node.knows_dead = moved(node.knows_dead, &names);
        }
        self.dead = moved(self.dead, &names);
        name(&mut self.wanted);
        for flow in &mut self.flows {
            match flow {
                Flow::None => {}
                Flow::Opening { reached, .. } => *reached = moved(*reached, &names),
                Flow::Open { owner, .. } => name(owner),
            }
        }
        self.sort_flows();
        self
    }

    /// In the order in which the world speaks of them. Where secondaries count, which follow from names, all keep theirs.
    fn names(&self) -> Names {
        if self.setup.deaths > 0 || self.dead != [false; BACKENDS] {
            return std::array::from_fn(|backend| backend as u8);
        }
        let mut names = [u8::MAX; BACKENDS];
        let mut next = 0;
        let spoken = self.nodes.iter().flat_map(|node| [node.word[0], node.word[1], node.wish]).chain([self.wanted]);
        for backend in spoken.chain(0..BACKENDS as u8) {
            if let Some(name @ &mut u8::MAX) = names.get_mut(usize::from(backend)) {
                *name = next;
                next += 1;
            }
        }
        names
    }

    fn sort_flows(&mut self) {
        let mut order: [usize; FLOWS] = std::array::from_fn(|flow| flow);
        order.sort_by_key(|flow| (self.flows[*flow], self.bound[*flow], self.nodes.map(|node| node.entries[*flow])));
        let flows = self.flows;
        self.flows = order.map(|flow| flows[flow]);
        let bound = self.bound;
        self.bound = order.map(|flow| bound[flow]);
        for node in &mut self.nodes {
            let entries = node.entries;
            node.entries = order.map(|flow| entries[flow]);
        }
    }
}

impl<const FLOWS: usize> Node<FLOWS> {
    fn forget_what_is_over(&mut self, setup: &Setup) {
        let (old, times) = (setup.old(), setup.times());
        let flags = self.flags();
        // Of a word that is at rest, or prepares and has for long enough, nobody asks for how long.
        if flags == SlotFlags::STEADY || flags.has(SlotFlags::PREPARE) && u32::from(self.since) > times.handshake {
            self.since = old;
        }
        let before = |age: u8, since: u8| u32::from(age) > u32::from(since) + LOOK;
        let written = if flags == SlotFlags::STEADY || flags.has(SlotFlags::PREPARE) { 0 } else { self.since };
        if before(self.seen, written) {
            self.seen = old;
        }
        if before(self.refused, written) && u32::from(self.refused) > times.handshake + LOOK {
            self.refused = old;
        }
        if self.recording != u8::MAX && u32::from(self.recording) > times.handshake + LOOK {
            self.recording = old;
        }
    }
}

/// What is kept for each backend, by its new name.
fn moved<T: Copy>(values: [T; BACKENDS], names: &Names) -> [T; BACKENDS] {
    let mut out = values;
    for (value, name) in values.into_iter().zip(names) {
        out[usize::from(*name)] = value;
    }
    out
}
