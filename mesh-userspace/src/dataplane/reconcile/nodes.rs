//! What other balancers say, as it bears upon slots here.

use std::{collections::BTreeSet, net::SocketAddr, ops::RangeInclusive};

use mesh_common::{
    abi::{SlotWord, TableRef},
    ledger::among::{Others, Peer, Said},
};

use crate::{
    model::{BackendId, VipAddr},
    peers::ledger::{self, Standing, View, Words},
};

/// The other nodes that count.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// This node does not know yet what they know.
    pub joining: bool,
    views: Vec<View>,
    /// Who they are.
    counted: BTreeSet<SocketAddr>,
}

/// What they say of one service.
#[derive(Clone, Copy)]
pub struct About<'a> {
    pub nodes: &'a Nodes,
    pub vip: VipAddr,
    pub table: TableRef,
    /// Local index of a backend.
    pub local: &'a dyn Fn(&BackendId) -> Option<u16>,
}

impl Nodes {
    pub fn new(views: impl IntoIterator<Item = (SocketAddr, View)>, joining: bool) -> Self {
        let counts = |view: &View| matches!(view.standing, Standing::Here | Standing::Awaited | Standing::Joining);
        let (counted, views) = views.into_iter().filter(|(_, view)| counts(view)).unzip();
        Self { joining, views, counted }
    }

    /// Some of these do not count any more.
    pub fn have_lost(&self, before: &Self) -> bool {
        !before.counted.is_subset(&self.counted)
    }

    /// Services that somebody tells of.
    pub fn told_of(&self) -> impl Iterator<Item = &VipAddr> {
        self.views.iter().flat_map(|view| view.report.keys())
    }

    /// Services of which somebody has slots on their way.
    pub fn vips(&self) -> BTreeSet<(std::net::IpAddr, u16, u8)> {
        let moving = |words: &Words| words.slots.values().any(|said| !said.rest);
        self.views.iter().flat_map(|v| v.report.iter()).filter(|(_, w)| moving(w)).map(|(vip, _)| key(vip)).collect()
    }
}

/// A VIP, in an order.
pub fn key(vip: &VipAddr) -> (std::net::IpAddr, u16, u8) {
    (vip.addr, vip.port, vip.proto as u8)
}

impl About<'_> {
    /// Slots here that are on their way elsewhere.
    pub fn moving(&self) -> BTreeSet<u32> {
        let mut slots = BTreeSet::new();
        for words in self.words() {
            let moving = words.slots.iter().filter(|(_, said)| !said.rest);
            moving.for_each(|(slot, _)| slots.extend(covering(u32::from(words.log2_slots), self.table.log2_slots(), *slot)));
        }
        slots
    }

    /// What they say of a slot with this word, which our report tells of first that is given.
    pub fn others(&self, slot: u32, word: SlotWord, told: Option<u64>) -> Others {
        if self.nodes.joining {
            return if self.nodes.views.is_empty() { Others::NONE } else { Others::SILENT };
        }
        let foreign = |view: &&View| view.report.get(&self.vip).is_some_and(|words| words.foreign);
        Others::of(word, self.nodes.views.iter().filter(|view| !foreign(view)).flat_map(|view| self.said_by(view, slot, told)))
    }

    /// A slot there may be several here, or the other way round: each counts.
    fn said_by(&self, view: &View, slot: u32, told: Option<u64>) -> Vec<Peer> {
        let heard = !view.unsure && told.is_some_and(|told| view.heard >= told);
        let Some(words) = view.report.get(&self.vip) else { return vec![Peer { heard, said: None }] };
        let slots = covering(self.table.log2_slots(), u32::from(words.log2_slots), slot);
        let said = |slot| words.slots.get(&slot).filter(|said| !said.rest).map(|said| self.here(said));
        slots.map(|slot| Peer { heard, said: said(slot) }).collect()
    }

    /// Somebody names a backend that is not known here: it may not be led there from anywhere.
    pub fn names_unknown(&self, slot: u32) -> bool {
        let known = |id: Option<BackendId>| id.is_none_or(|id| (self.local)(&id).is_some());
        let mut said = self.words().filter_map(|words| {
            let slot = *covering(self.table.log2_slots(), u32::from(words.log2_slots), slot).start();
            words.slots.get(&slot)
        });
        said.any(|said| !known(said.target) || !known(said.asks))
    }

    /// Backends that others have slots of, and that are not known here.
    pub fn unknown(&self) -> BTreeSet<BackendId> {
        let named = self.words().flat_map(|words| words.slots.values()).flat_map(|said| [said.target, said.default, said.asks]);
        named.flatten().filter(|id| (self.local)(id).is_none()).collect()
    }

    /// What a node that joins takes its slot from: those who know what they say, and of these the one whose slot is on its way.
    pub fn to_join(&self, slot: u32) -> Option<(Said, bool)> {
        let views = self.nodes.views.iter().filter(|view| view.version > 0 && !view.unsure);
        let said = views.filter_map(|view| {
            let words = view.report.get(&self.vip).filter(|words| !words.foreign)?;
            words.slots.get(covering(self.table.log2_slots(), u32::from(words.log2_slots), slot).start())
        });
        said.min_by_key(|said| said.rest).map(|said| (self.here(said), said.rest))
    }

    /// Somebody has never stopped counting on this node: its own slots stand.
    pub fn are_held(&self) -> bool {
        self.nodes.views.iter().any(|view| view.version > 0 && view.holds_us)
    }

    fn words(&self) -> impl Iterator<Item = &Words> {
        self.nodes.views.iter().filter_map(|view| view.report.get(&self.vip)).filter(|words| !words.foreign)
    }

    fn here(&self, said: &ledger::Said) -> Said {
        let local = |id: Option<BackendId>| id.and_then(|id| (self.local)(&id)).unwrap_or(SlotWord::NONE);
        Said { target: local(said.target), default: local(said.default), asks: said.asks.is_some(), progress: said.progress }
    }
}

/// Slots of a table of `2^to` that share flows with a slot of one of `2^from`.
fn covering(from: u32, to: u32, slot: u32) -> RangeInclusive<u32> {
    if from >= to {
        let one = slot >> (from - to);
        one..=one
    } else {
        let (first, count) = (slot << (to - from), 1 << (to - from));
        first..=first + (count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_tables_of_other_sizes() {
        assert_eq!(covering(4, 4, 9), 9..=9);
        assert_eq!(covering(4, 2, 9), 2..=2);
        assert_eq!(covering(2, 4, 2), 8..=11);
    }
}
