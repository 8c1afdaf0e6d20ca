use std::{cmp::Ordering, fmt, sync::Arc};

use serde::Serialize;

use super::{Plan, PlannedBackend, ServicePlan, Standing};
use crate::{
    model::{BackendId, ServiceName, Weight},
    table::NONE,
};

/// What becomes of a service from one plan to the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Added { service: ServiceName },
    Removed { service: ServiceName },
    Changed(ServiceChange),
}

/// What changes in a service that stays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceChange {
    pub service: ServiceName,
    /// VIP, mode or announcement are others.
    pub reconfigured: bool,
    /// Slots whose owner is another backend than before, ...
    pub moved: u32,
    /// ... out of so many: the size of the larger table, if it was resized.
    pub slots: u32,
    /// Slots before and after.
    pub resized: Option<(u32, u32)>,
    /// By id.
    pub backends: Vec<BackendChange>,
    /// Whether nobody takes new flows any more (or somebody again).
    pub no_backends: Option<bool>,
}

/// A backend that is new, gone, or stands differently.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackendChange {
    pub id: BackendId,
    /// Standing and configured weight; `None` = not there.
    pub before: Option<(Standing, Weight)>,
    pub after: Option<(Standing, Weight)>,
}

/// What publishing `after` in place of `before` changes, by service. Equal plans have none.
pub fn diff(before: &Plan, after: &Plan) -> Vec<Change> {
    let change = |pair: Pair<'_>| match pair {
        (None, Some(new)) => Some(Change::Added { service: name(new) }),
        (Some(old), None) => Some(Change::Removed { service: name(old) }),
        (Some(old), Some(new)) => service_change(old, new).map(Change::Changed),
        (None, None) => None,
    };
    changed(before, after).into_iter().filter_map(change).collect()
}

/// A service before and after.
pub(super) type Pair<'a> = (Option<&'a ServicePlan>, Option<&'a ServicePlan>);

/// Services side by side, without those that are the very same in both.
pub(super) fn changed<'a>(before: &'a Plan, after: &'a Plan) -> Vec<Pair<'a>> {
    let (old, new) = (&before.services, &after.services);
    let differ = |(old, new): &(&'a Arc<ServicePlan>, &'a Arc<ServicePlan>)| !Arc::ptr_eq(old, new);
    let same_names = old.len() == new.len() && old.iter().zip(new).filter(differ).all(|(old, new)| old.name == new.name);
    if same_names {
        return old.iter().zip(new).filter(differ).map(|(old, new)| (Some(&**old), Some(&**new))).collect();
    }
    let pairs = merged(old, new, |a, b| a.name.cmp(&b.name)).into_iter();
    pairs.map(|(old, new)| (old.map(|s| &**s), new.map(|s| &**s))).collect()
}

impl ServiceChange {
    /// Share of the hash space whose owner changes, 0 to 1.
    pub fn moved_share(&self) -> f64 {
        f64::from(self.moved) / f64::from(self.slots.max(1))
    }
}

impl fmt::Display for ServiceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} slots move ({:.2} %)", self.service, self.moved, self.slots, 100.0 * self.moved_share())?;
        let word = |there: Option<(Standing, Weight)>| there.map_or("absent".to_owned(), |(s, w)| format!("{s}, weight {}", w.0));
        self.backends.iter().try_for_each(|b| write!(f, "; {}: {} -> {}", b.id, word(b.before), word(b.after)))
    }
}

fn name(service: &ServicePlan) -> ServiceName {
    service.name.clone()
}

fn service_change(old: &ServicePlan, new: &ServicePlan) -> Option<ServiceChange> {
    if old == new {
        return None;
    }
    let sizes = (old.table.owner.len() as u32, new.table.owner.len() as u32);
    Some(ServiceChange {
        service: name(new),
        reconfigured: (old.vip, old.mode, &old.announce) != (new.vip, new.mode, &new.announce),
        moved: moved_slots(old, new),
        slots: sizes.0.max(sizes.1),
        resized: (sizes.0 != sizes.1).then_some(sizes),
        backends: backend_changes(&old.members, &new.members),
        no_backends: (old.no_backends != new.no_backends).then_some(new.no_backends),
    })
}

/// A slot of the smaller table stands for several of the larger one: the upper bits of the hash choose in both.
fn moved_slots(old: &ServicePlan, new: &ServicePlan) -> u32 {
    let log2 = old.table.log2_slots.max(new.table.log2_slots);
    let owner = |service: &ServicePlan, slot: usize| {
        let index = service.table.owner.get(slot >> (log2 - service.table.log2_slots)).copied().unwrap_or(NONE);
        service.members.get(usize::from(index)).map(|m| m.id)
    };
    let same_members = old.members.len() == new.members.len() && old.members.iter().zip(&new.members).all(|(a, b)| a.id == b.id);
    if same_members && old.table.log2_slots == new.table.log2_slots {
        return old.table.owner.iter().zip(&new.table.owner).filter(|(a, b)| a != b).count() as u32;
    }
    (0..1 << log2).filter(|&slot| owner(old, slot) != owner(new, slot)).count() as u32
}

fn backend_changes(old: &[PlannedBackend], new: &[PlannedBackend]) -> Vec<BackendChange> {
    let stands = |b: Option<&PlannedBackend>| b.map(|b| (b.standing, b.configured));
    let pairs = merged(old, new, |a, b| a.id.cmp(&b.id)).into_iter();
    let changes = pairs.filter_map(|(old, new)| {
        let change = BackendChange { id: old.or(new)?.id, before: stands(old), after: stands(new) };
        (change.before != change.after).then_some(change)
    });
    changes.collect()
}

/// Two sorted lists side by side.
pub(super) fn merged<'a, T>(a: &'a [T], b: &'a [T], order: impl Fn(&T, &T) -> Ordering) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let which = match (a.peek(), b.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => order(x, y),
        };
        pairs.push(match which {
            Ordering::Less => (a.next(), None),
            Ordering::Greater => (None, b.next()),
            Ordering::Equal => (a.next(), b.next()),
        });
    }
}
