//! What the kernel half remembers, in a world of one bucket.

use mesh_common::{
    abi::SlotWord,
    ledger::rules::{Entry, Kind, Memory},
};

use crate::{
    ends::attempt,
    setup::Fault,
    world::{NOBODY, Remembered, World, isn},
};

pub struct Recall<'a, const FLOWS: usize> {
    pub world: &'a mut World<FLOWS>,
    pub flow: usize,
}

impl<const FLOWS: usize> Memory for Recall<'_, FLOWS> {
    fn entry(&self) -> Option<Entry> {
        self.world.entries[self.flow].map(|found| Entry {
            backend: if found.backend == NOBODY { SlotWord::NONE } else { found.backend.into() },
            kind: found.pending.map_or_else(|| self.flow(found), |attempt| Kind::Pending { isn: isn(attempt) }),
        })
    }

    fn touch(&mut self) {
        if self.has(Fault::Untouched) {
            return;
        }
        if let Some(entry) = &mut self.world.entries[self.flow] {
            entry.age = 0;
        }
    }

    fn promote(&mut self) {
        if self.has(Fault::Unpromoted) {
            return;
        }
        if let Some(entry) = &mut self.world.entries[self.flow] {
            entry.number = entry.pending.take().unwrap_or_default();
            entry.age = 0;
        }
    }

    fn note(&mut self, number: u32, ended: bool) {
        if let Some(entry) = &mut self.world.entries[self.flow] {
            (entry.number, entry.ended, entry.age) = (attempt(number), ended, 0);
        }
    }

    fn notes_ends(&self) -> bool {
        true
    }

    fn forget(&mut self) {
        self.world.entries[self.flow] = None;
    }

    fn remember(&mut self, entry: Entry) -> bool {
        if self.world.full || self.world.entries[self.flow].is_some() {
            return false;
        }
        let (pending, number, ended) = match entry.kind {
            Kind::Pending { isn } => (Some(attempt(isn)), 0, false),
            Kind::Flow { number, ended } => (None, attempt(number), ended),
        };
        self.world.entries[self.flow] = Some(Remembered { backend: entry.backend as u8, pending, age: 0, number, ended });
        true
    }

    fn refused_lately(&self) -> bool {
        u32::from(self.world.refused) <= self.world.setup.times().handshake
    }

    fn note_refusal(&mut self) {
        if !self.has(Fault::RefusalsForgotten) {
            self.world.refused = 0;
        }
    }

    fn note_elsewhere(&mut self) {
        if !self.has(Fault::ElsewhereForgotten) {
            self.world.seen = 0;
        }
    }
}

impl<const FLOWS: usize> Recall<'_, FLOWS> {
    fn flow(&self, found: Remembered) -> Kind {
        match self.world.setup.fault {
            Some(Fault::Unnumbered) if !found.ended => Kind::Flow { number: 0, ended: false },
            Some(Fault::Unordered) if found.ended => Kind::Flow { number: 0, ended: true },
            _ => Kind::Flow { number: isn(found.number), ended: found.ended },
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.world.setup.fault == Some(fault)
    }
}
