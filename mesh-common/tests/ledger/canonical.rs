//! Worlds that differ by names alone are one: backends, flows and attempts are named anew, in the order in which the world speaks of them.

use mesh_common::{
    abi::{SlotFlags, SlotWord},
    ledger::change::LOOK,
};

use crate::{
    setup::Left,
    world::{BACKENDS, Flow, Health, Remembered, World},
};

/// New names of backends, by their old ones.
type Names = [u8; BACKENDS];

impl<const FLOWS: usize> World<FLOWS> {
    /// The one world of all that differ from this one by names alone. The rules and the daemon compare names for equality only, and events are the same
    /// for every name.
    pub fn canonical(mut self) -> Self {
        for flow in 0..FLOWS {
            if self.setup.ends { self.rank(flow) } else { self.name_attempts(flow) }
        }
        self.forget_what_is_over();
        let names = self.names();
        self.rename(&names);
        self.sort_flows();
        self
    }

    /// Ages that nothing asks for any more are as good as the oldest. (What is asked of them: `ledger::change`, and of the memo `ledger::rules`.)
    fn forget_what_is_over(&mut self) {
        let (old, times) = (self.setup.old(), self.setup.times());
        if self.setup.changes == Left::Many {
            // Whatever is wished may be wished at each look.
            self.wish = [self.word.target() as u8, self.word.secondary() as u8];
        }
        let flags = self.word.flags();
        if flags == SlotFlags::STEADY || flags.has(SlotFlags::PREPARE) && u32::from(self.since) > times.handshake {
            self.since = old;
        }
        let before = |age: u8, since: u8| u32::from(age) > u32::from(since) + LOOK;
        let suspected = self.health.iter().any(|health| matches!(health, Health::Keeps | Health::Settling));
        let written = if flags == SlotFlags::STEADY || flags.has(SlotFlags::PREPARE) { 0 } else { self.since };
        if before(self.seen, written) && !suspected {
            self.seen = old;
        }
        if before(self.refused, written) && u32::from(self.refused) > times.handshake + LOOK {
            self.refused = old;
        }
        for (cleared, health) in self.cleared.iter_mut().zip(self.health) {
            if health != Health::Settling || u32::from(*cleared) > times.idle {
                *cleared = old;
            }
        }
        for flow in &mut self.flows {
            if let Flow::Opening { reached, .. } = flow {
                reached.iter_mut().filter(|age| u32::from(**age) > times.handshake).for_each(|age| *age = old);
            }
        }
    }

    /// Of an attempt all that counts is whether it is the flow's present one.
    fn name_attempts(&mut self, flow: usize) {
        let present = std::mem::replace(&mut self.attempts[flow], 0);
        if let Some(Remembered { pending: Some(attempt), .. }) = &mut self.entries[flow] {
            let same = *attempt == present && self.flows[flow] != Flow::None;
            *attempt = u8::from(!same);
        }
        // Nothing ends here.
        self.entries[flow].iter_mut().for_each(|entry| (entry.number, entry.ended) = (0, false));
    }

    fn names(&self) -> Names {
        let spoken = [self.word.target(), self.word.default(), self.word.secondary()].map(|owner| owner as u8);
        let mut names = [u8::MAX; BACKENDS];
        let mut next = 0;
        for backend in spoken.into_iter().chain(self.wish).chain(0..BACKENDS as u8) {
            if let Some(name @ &mut u8::MAX) = names.get_mut(usize::from(backend)) {
                *name = next;
                next += 1;
            }
        }
        names
    }

    fn rename(&mut self, names: &Names) {
        let name = |old: u8| names.get(usize::from(old)).copied().unwrap_or(old);
        self.word = renamed(self.word, names);
        if let Some(intent) = &mut self.intent {
            intent.word = renamed(intent.word, names);
        }
        self.wish = self.wish.map(name);
        self.health = moved(self.health, names);
        self.cleared = moved(self.cleared, names);
        for flow in &mut self.flows {
            match flow {
                Flow::None => {}
                Flow::Opening { reached, .. } => *reached = moved(*reached, names),
                Flow::Open { owner, .. } => *owner = name(*owner),
            }
        }
        for entry in self.entries.iter_mut().flatten() {
            entry.backend = name(entry.backend);
        }
    }

    fn sort_flows(&mut self) {
        let mut order: [usize; FLOWS] = std::array::from_fn(|flow| flow);
        order.sort_by_key(|flow| (self.flows[*flow], self.entries[*flow], self.attempts[*flow], self.courses[*flow]));
        let (flows, entries, attempts, courses) = (self.flows, self.entries, self.attempts, self.courses);
        self.attempts = order.map(|flow| attempts[flow]);
        self.courses = order.map(|flow| courses[flow]);
        self.flows = order.map(|flow| flows[flow]);
        self.entries = order.map(|flow| entries[flow]);
    }
}

fn renamed(word: SlotWord, names: &Names) -> SlotWord {
    let name = |old: u16| names.get(usize::from(old)).map_or(old, |new| u16::from(*new));
    SlotWord::new(name(word.target()), name(word.default()), name(word.secondary()), word.flags())
}

/// What is kept for each backend, by its new name.
fn moved<T: Copy>(values: [T; BACKENDS], names: &Names) -> [T; BACKENDS] {
    let mut out = values;
    for (value, name) in values.into_iter().zip(names) {
        out[usize::from(*name)] = value;
    }
    out
}
