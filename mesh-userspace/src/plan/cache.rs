use std::{collections::HashMap, sync::Arc};

use crate::table::{BaseTable, Member, Scheduler, Table, TableError, scheduled};

/// Tables by what they are made from. Identical ones are made once and shared; only speed and memory depend on it, never the result.
#[derive(Debug, Default)]
pub struct Cache {
    bases: HashMap<Key, Base>,
    round: u64,
}

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
    overlays: HashMap<(Scheduler, Vec<u32>), Overlaid>,
}

#[derive(Debug)]
struct Overlaid {
    table: Arc<Table>,
    /// Round in which it was last asked for.
    round: u64,
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
        let made = |(scheduler, effective): &(_, Vec<u32>)| Overlaid { table: Arc::new(scheduled(table, *scheduler, effective)), round: 0 };
        let overlaid = overlays.entry((scheduler, effective)).or_insert_with_key(made);
        overlaid.round = self.round;
        Ok(overlaid.table.clone())
    }

    /// Begins a round.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// Forgets what this round had no use for.
    pub(super) fn sweep(&mut self) {
        let round = self.round;
        self.bases.retain(|_, base| {
            base.overlays.retain(|_, overlaid| overlaid.round == round);
            !base.overlays.is_empty()
        });
    }

    /// Base tables and tables that are kept.
    pub fn len(&self) -> (usize, usize) {
        (self.bases.len(), self.bases.values().map(|b| b.overlays.len()).sum())
    }
}
