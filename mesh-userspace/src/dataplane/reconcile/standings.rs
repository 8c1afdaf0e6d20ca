//! A service as it stands in the maps, and the time.

use std::time::{Duration, Instant};

use mesh_common::{
    abi::{BackendState, SlotWord, SlotsRefused, SlotsSeen, TableRef},
    ledger::change::{SlotMemo, Times},
};

use crate::dataplane::{image::Image, nat};

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
    /// All its slots.
    pub fn words(&self) -> impl Iterator<Item = SlotWord> + '_ {
        self.table.into_iter().flat_map(|table| self.image.slots.table(table.base(), 1 << table.log2_slots()))
    }

    /// What is published of a backend, by local index.
    pub fn state(&self, local: u16) -> BackendState {
        if local == SlotWord::NONE {
            BackendState::Absent
        } else {
            BackendState::from_u8(self.image.backends.get(self.base as usize + usize::from(local)).state)
        }
    }

    /// Notes of a slot that a flow could not be remembered. The packet path notes something else of it now and then: who loses against it comes again.
    pub fn refuse(&self, slot: u32, now: u32) {
        let Some(table) = self.table else { return };
        let at = table.base() + slot;
        let word = (at / SlotsRefused::SLOTS) as usize;
        for _ in 0..4 {
            let old = self.image.slots_refused.word(word, 0);
            let mut refused: SlotsRefused = bytemuck::cast(old);
            refused.at[(at % SlotsRefused::SLOTS) as usize] = SlotsRefused::moment(now);
            if self.image.slots_refused.exchange_word(word, 0, old, bytemuck::cast(refused)) {
                return;
            }
        }
    }

    /// What packets have told of a slot.
    pub fn memo(&self, slot: u32, now: u32) -> SlotMemo {
        let Some(table) = self.table else { return SlotMemo::default() };
        let at = table.base() + slot;
        let seen = self.image.slots_seen.get((at / SlotsSeen::SLOTS) as usize).at[(at % SlotsSeen::SLOTS) as usize];
        let refused = self.image.slots_refused.get((at / SlotsRefused::SLOTS) as usize).at[(at % SlotsRefused::SLOTS) as usize];
        let refused = SlotsRefused::tick(refused, now);
        // Who is refused goes elsewhere, and notes the one only.
        let later = refused != 0 && (seen == 0 || refused.wrapping_sub(seen) as i32 > 0);
        SlotMemo { seen: if later { refused } else { seen }, refused }
    }
}

/// Who is named by the slots of a service.
#[derive(Default)]
pub struct Owners {
    pub targets: Locals,
    /// As target or default.
    pub named: Locals,
}

impl Owners {
    /// Reads all slots.
    pub fn of(standings: &Standings<'_>) -> Self {
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
pub struct Locals(Vec<bool>);

impl Locals {
    fn insert(&mut self, local: u16) {
        let at = usize::from(local);
        if self.0.len() <= at {
            self.0.resize(at + 1, false);
        }
        self.0[at] = true;
    }

    /// It is one of them.
    pub fn contains(&self, local: u16) -> bool {
        self.0.get(usize::from(local)).copied().unwrap_or(false)
    }
}
