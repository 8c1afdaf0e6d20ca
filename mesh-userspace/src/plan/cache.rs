use std::{collections::HashMap, sync::Arc};

use crate::table::{BaseTable, Member, Scheduler, Table, TableError, scheduled};

/// Tables by what they are made from. Identical ones are made once and shared; only speed and memory depend on it, never the result.
#[derive(Debug, Default)]
pub struct Cache {
    bases: HashMap<Key, Base>,
    /// Tables made since the last sweep.
    made: usize,
}

/// So many tables more than there are bases are made before it is looked which of them are still in use.
const UNSWEPT: usize = 64;

#[derive(PartialEq, Eq, Hash, Debug)]
struct Key {
    /// Sorted by id.
    members: Vec<Member>,
    log2_slots: u8,
    seed: u64,
}

#[derive(Debug)]
struct Base {
    table: BaseTable,
    overlays: HashMap<(Scheduler, Vec<u32>), Arc<Table>>,
}

impl Cache {
    /// The table of `members`, sorted by id, at their `effective` weights.
    pub(super) fn table(
        &mut self,
        (members, log2_slots, seed): (Vec<Member>, u8, u64),
        scheduler: Scheduler,
        effective: Vec<u32>,
    ) -> Result<Arc<Table>, TableError> {
        let key = Key { members, log2_slots, seed };
        let base = match self.bases.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let table = BaseTable::build(&new.key().members, log2_slots, seed)?;
                new.insert(Base { table, overlays: HashMap::new() })
            }
        };
        let Base { table, overlays } = base;
        let made = &mut self.made;
        let overlaid = overlays.entry((scheduler, effective)).or_insert_with_key(|(scheduler, effective)| {
            *made += 1;
            Arc::new(scheduled(table, *scheduler, effective))
        });
        Ok(overlaid.clone())
    }

    /// Forgets tables that nobody has any more.
    pub(super) fn sweep(&mut self) {
        self.made = 0;
        self.bases.retain(|_, base| {
            base.overlays.retain(|_, table| Arc::strong_count(table) > 1);
            !base.overlays.is_empty()
        });
    }

    /// The same, once it is worth the look at all of them.
    pub fn sweep_seldom(&mut self) {
        if self.made > UNSWEPT + self.bases.len() / 16 {
            self.sweep();
        }
    }

    /// Base tables and tables that are kept.
    pub fn len(&self) -> (usize, usize) {
        (self.bases.len(), self.bases.values().map(|b| b.overlays.len()).sum())
    }
}
