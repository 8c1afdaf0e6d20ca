use std::sync::OnceLock;

use super::{MAX_LOG2_SLOTS, MAX_MEMBERS, Member, NONE, Permutation, TableError, matching, quotas, secondary};

/// The table of a set of members at their configured weights, everyone in health: each member owns exactly its quota of slots, and which ones is
/// a stable matching. A pure function of (set of members, size, seed).
#[derive(Debug)]
pub struct BaseTable {
    members: Box<[Member]>,
    log2_slots: u8,
    seed: u64,
    owner: Box<[u16]>,
    orders: Box<[Permutation]>,
    secondary: OnceLock<Box<[u16]>>,
}

impl BaseTable {
    /// Members may come in any order. Of several with the same id the one of the largest weight counts. `log2_slots`: see
    /// [`super::log2_slots`]. `seed`: secret, and the same on every node that serves the table.
    ///
    /// Takes about 3 ms for 65,536 slots and 1000 members.
    pub fn build(members: &[Member], log2_slots: u8, seed: u64) -> Result<Self, TableError> {
        let members = sorted(members);
        if members.len() > MAX_MEMBERS {
            return Err(TableError::TooManyMembers(members.len()));
        }
        if log2_slots > MAX_LOG2_SLOTS {
            return Err(TableError::TooManySlots(log2_slots));
        }
        let orders: Box<[_]> = members.iter().map(|m| Permutation::new(&m.id, seed, log2_slots)).collect();
        let owner = matched(&members, &orders, log2_slots);
        Ok(Self { members, log2_slots, seed, owner, orders, secondary: OnceLock::new() })
    }

    /// Sorted by id; a slot's owner is an index into them.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn log2_slots(&self) -> u8 {
        self.log2_slots
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Owner of each slot; [`NONE`] only if all weights are 0.
    pub fn owner(&self) -> &[u16] {
        &self.owner
    }

    /// Configured weights, in the order of the members.
    pub fn weights(&self) -> Vec<u32> {
        self.members.iter().map(|m| m.weight.0.into()).collect()
    }

    /// The order in which member `index` prefers slots.
    pub(super) fn order(&self, index: usize) -> Permutation {
        self.orders[index]
    }

    /// Secondaries for everyone in health; looked for when first asked for.
    pub(super) fn secondary(&self) -> &[u16] {
        self.secondary.get_or_init(|| secondary::race(self, &self.owner, &self.weights()).into())
    }
}

fn sorted(members: &[Member]) -> Box<[Member]> {
    let mut members = members.to_vec();
    members.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| b.weight.cmp(&a.weight)));
    members.dedup_by_key(|m| m.id);
    members.into()
}

fn matched(members: &[Member], orders: &[Permutation], log2_slots: u8) -> Box<[u16]> {
    let weights: Vec<u32> = members.iter().map(|m| m.weight.0.into()).collect();
    let quotas = quotas(&weights, 1 << log2_slots);
    let seekers = (0..NONE).zip(quotas).zip(orders.iter().zip(&weights)).filter(|((_, quota), _)| *quota > 0);
    let seekers: Vec<_> = seekers.map(|((i, quota), (order, weight))| matching::Seeker::new(i, quota, *order, *weight)).collect();
    let mut owner = vec![NONE; 1 << log2_slots];
    matching::settle(&mut owner, log2_slots, seekers);
    owner.into()
}
