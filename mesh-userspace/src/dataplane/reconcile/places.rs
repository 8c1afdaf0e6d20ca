//! Where a service's backends and its table are to stand.

use std::{collections::BTreeSet, time::Instant};

use mesh_common::abi::{SlotWord, TableRef};

use super::{
    Hops,
    step::{Step, by_ledger},
};
use crate::{
    dataplane::layout::{self, Entry, Layout, LayoutError, Service, capacity_for},
    plan::ServicePlan,
};

/// Where a service's members are to stand.
pub(super) struct Places {
    /// Local index of each member.
    pub locals: Vec<u16>,
    /// Those that nothing stood at.
    pub new: BTreeSet<u16>,
    /// First entry of the extent that the service has outgrown.
    pub grown: Option<u32>,
    /// Extent of a table that is not the one in use.
    pub new_table: Option<TableRef>,
}

impl<H: Hops> Step<'_, H> {
    /// Makes room for the members, and tells each one's local index. Takes nothing if it fails.
    pub fn places(&mut self, layout: &mut Layout, service: &mut Service, wanted: &ServicePlan) -> Result<Places, LayoutError> {
        let new: Vec<usize> = (0..wanted.members.len()).filter(|i| service.local(&wanted.members[*i].id).is_none()).collect();
        let log2_slots = wanted.table.log2_slots;
        let new_table = match service.table {
            Some(table) if service.retired.is_none() && fits(table, service, wanted) => None,
            _ => Some(layout.take_table(log2_slots, self.clock.instant)?),
        };
        let undo_table = |layout: &mut Layout| {
            if let Some(table) = new_table {
                layout.slots.give_back_unused(table.base(), layout::table_len(log2_slots));
            }
        };
        let grown = match grow(layout, service, new.len(), self.clock.instant) {
            Ok(grown) => grown,
            Err(why) => {
                undo_table(layout);
                return Err(why);
            }
        };
        for &i in &new {
            // Both are as large as the limit of backends, so there is an index wherever there is a place.
            let place = service.vacant().and_then(|local| Some((layout.stats.take(1, self.clock.instant)?, local)));
            let Some((stats, local)) = place else {
                for &i in &new {
                    let entry = service.local(&wanted.members[i].id).and_then(|l| service.drop_entry(l));
                    entry.into_iter().for_each(|e| layout.stats.give_back_unused(e.stats, 1));
                }
                if let Some(old) = grown {
                    layout.backends.give_back_unused(service.base, service.capacity);
                    (service.base, service.capacity) = old;
                    service.entries.truncate(service.capacity as usize);
                }
                undo_table(layout);
                return Err(LayoutError::Backends { wanted: new.len() as u32, limit: layout.stats.size() });
            };
            service.put(local, Entry { id: wanted.members[i].id, stats, retired: None });
        }
        if let Some((base, capacity)) = grown {
            layout.backends.give_back(base, capacity, self.clock.instant);
        }
        let locals = wanted.members.iter().map(|m| service.local(&m.id).unwrap_or(SlotWord::NONE)).collect();
        let new = new.into_iter().filter_map(|i| service.local(&wanted.members[i].id)).collect();
        Ok(Places { locals, new, grown: grown.map(|(base, _)| base), new_table })
    }
}

/// Moves a service to a larger extent if `new` backends more don't fit. Tells the old extent.
fn grow(layout: &mut Layout, service: &mut Service, new: usize, now: Instant) -> Result<Option<(u32, u32)>, LayoutError> {
    if new <= service.room() {
        return Ok(None);
    }
    let capacity = capacity_for(service.entries.len() - service.room() + new)?;
    let base = layout.backends.take(capacity, now).ok_or(LayoutError::Backends { wanted: capacity, limit: layout.backends.size() })?;
    let old = (service.base, service.capacity);
    (service.base, service.capacity) = (base, capacity);
    service.entries.resize(capacity as usize, None);
    Ok(Some(old))
}

/// The plan's table can be written where the service's table is. One whose slots hold flows may be larger than it has to be.
fn fits(table: TableRef, service: &Service, wanted: &ServicePlan) -> bool {
    let log2_slots = u32::from(wanted.table.log2_slots);
    table.log2_slots() == log2_slots || by_ledger(service, wanted) && table.log2_slots() > log2_slots
}
