//! Slot tables: which backend owns each slice of a service's hash space.
//!
//! A table is made in two steps. The *base* is a function of who is configured with which weight: a stable matching of slots and backends under
//! exact quotas. The *overlay* is a function of that base and of what each backend can take right now; it moves what a failure, a drain or a
//! dynamic weight makes necessary, and nothing else. Neither depends on history or on the order in which members are named, so two balancers
//! that see the same members agree on every slot.

mod base;
mod kind;
mod matching;
mod overlay;
mod permutation;
mod quota;
mod rank_time;
mod secondary;
mod size;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::{BackendId, Weight};

pub use base::BaseTable;
pub use kind::{Scheduler, scheduled};
pub use overlay::{SLACK_PERMILLE, caps, overlay, owners};
pub use permutation::Permutation;
pub use quota::quotas;
pub use secondary::secondaries;
pub use size::{MAX_LOG2_SLOTS, MIN_LOG2_SLOTS, log2_slots};

/// The owner that is no member; the same value as in a published slot.
pub const NONE: u16 = mesh_common::abi::SlotWord::NONE;

/// Members that one table can have: indices are 16 bits, one of which means nobody.
pub const MAX_MEMBERS: usize = NONE as usize;

/// A backend that a table is made for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Member {
    pub id: BackendId,
    /// Configured weight; 0 takes part without owning a slot.
    pub weight: Weight,
}

/// Who gets which slot. Indices point into [`BaseTable::members`], which is sorted by id; [`NONE`] is nobody.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// The table has `1 << log2_slots` slots: slot = hash >> (64 - log2_slots).
    pub log2_slots: u8,
    /// Owner of each slot.
    pub owner: Vec<u16>,
    /// Where a slot goes while its owner is out and no new table has been made yet; never its owner.
    pub secondary: Vec<u16>,
}

impl Table {
    /// A table that nobody owns a slot of.
    pub fn vacant(log2_slots: u8) -> Self {
        let vacant = vec![NONE; 1 << log2_slots];
        Self { log2_slots, owner: vacant.clone(), secondary: vacant }
    }

    /// Nobody owns a slot.
    pub fn is_vacant(&self) -> bool {
        self.owner.iter().all(|&o| o == NONE)
    }

    /// Slots owned by each of `members` members.
    pub fn counts(&self, members: usize) -> Vec<u32> {
        let mut counts = vec![0; members];
        for &o in &self.owner {
            if let Some(c) = counts.get_mut(usize::from(o)) {
                *c += 1;
            }
        }
        counts
    }

    /// Short name of the content (64-bit FNV-1a of owners, then secondaries), the same on every node.
    pub fn fingerprint(&self) -> u64 {
        let bytes = self.owner.iter().chain(&self.secondary).flat_map(|w| w.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table(2^{} slots, {:016x})", self.log2_slots, self.fingerprint())
    }
}

/// Size and fingerprint stand for the slots.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Summary {
            slots: usize,
            fingerprint: String,
        }
        Summary { slots: self.owner.len(), fingerprint: format!("{:016x}", self.fingerprint()) }.serialize(s)
    }
}

/// Why no table can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    #[error("{0} backends are more than a table can name: split the service, {MAX_MEMBERS} is the most")]
    TooManyMembers(usize),
    #[error("a table of 2^{0} slots is too large: 2^{MAX_LOG2_SLOTS} is the most")]
    TooManySlots(u8),
}
