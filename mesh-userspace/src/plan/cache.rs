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

/// Bases of up to so many slots (as a power of two) are not kept: ten thousand services would keep a hundred MiB of them for nothing.
const SMALL: u8 = 12;

#[derive(PartialEq, Eq, Hash, Debug)]
struct Key {
    /// Sorted by id.
    members: Vec<Member>,
    log2_slots: u8,
    seed: u64,
}

#[derive(Debug, Default)]
struct Base {
    /// Only of large tables: a small one is made anew in less time than a packet takes from host to host.
    table: Option<BaseTable>,
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
        let (key, which) = (Key { members, log2_slots, seed }, (scheduler, effective));
        let known = self.bases.get_mut(&key);
        if let Some(made) = known.as_ref().and_then(|base| base.overlays.get(&which)) {
            return Ok(made.clone());
        }
        let table = match known.and_then(|base| base.table.take()) {
            Some(table) => table,
            None => BaseTable::build(&key.members, log2_slots, seed)?,
        };
        let made = Arc::new(scheduled(&table, which.0, &which.1));
        self.made += 1;
        let base = self.bases.entry(key).or_default();
        base.table = (log2_slots > SMALL).then_some(table);
        base.overlays.insert(which, made.clone());
        Ok(made)
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
