//! From what the maps say to what the plan says: the ordered steps in between.
//!
//! *After every prefix of the steps no slot points at an absent backend, and a slot that did not change is never written.* So backends go
//! first, then slots, then the VIPs that lead to them; and in reverse for what goes.

pub mod moves;
pub mod nodes;
mod places;
pub mod standings;
mod step;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use mesh_common::abi::{Backend, BackendState, Config, Mode, Vip, VipKey};

use super::{
    entry::{self, Hop},
    extents::GRACE,
    image::{Image, words_of},
    layout::{Layout, LayoutError, address_key, vip_key},
    op::{Op, backend_word},
    vip_index::{self, VipTable},
};
use crate::{
    model::{BackendId, ServiceName},
    plan::ServicePlan,
};
use moves::Moves;
use standings::Clock;
use step::Step;

/// Steps in their order, and the services that are left as they were.
#[derive(Debug, Default)]
pub struct Batch {
    pub ops: Vec<Op>,
    pub refused: Vec<(ServiceName, LayoutError)>,
}

/// Next hops by a backend's address.
pub trait Hops {
    fn hop(&self, addr: IpAddr) -> Option<Hop>;
}

/// What there is for `nat` to translate to.
#[derive(Clone, Copy, Debug)]
pub struct Translation<'a> {
    /// Source addresses; empty = the node's own towards each backend.
    pub sources: &'a [IpAddr],
    /// There are source ports.
    pub ports: bool,
}

/// Steps of all services, by phase.
#[derive(Default)]
struct Phases {
    sources: Vec<Op>,
    /// States and next hops of backends that are there: the urgent ones.
    states: Vec<Op>,
    /// What no packet is led to yet.
    prepare: Vec<Op>,
    /// Packets may still know an extent that a service has outgrown.
    outgrown: bool,
    /// Slots, and flips of tables.
    switch: Vec<Op>,
    /// What no packet is led to any more.
    retire: Vec<Op>,
}

/// The steps that make `image` say what `plan` says. `layout` is as if they were done. Services of `plan` that don't fit are refused one by
/// one: those that were there stay as they were.
pub fn reconcile(
    image: &Image,
    layout: &mut Layout,
    plan: &[Arc<ServicePlan>],
    hops: &impl Hops,
    translation: &Translation<'_>,
    clock: Clock,
) -> Batch {
    let mut phases = Phases::default();
    let mut batch = Batch::default();
    let mut reachable = BTreeSet::new();
    for wanted in plan {
        let mut step = Step { image, hops, translation, clock, phases: &mut phases };
        match step.service(layout, wanted) {
            Ok(id) => {
                reachable.insert(id);
            }
            Err(why) => {
                reachable.extend(layout.find(&vip_key(&wanted.vip)).filter(|id| layout.services[id].position.is_some()));
                batch.refused.push((wanted.name.clone(), why));
            }
        }
    }
    phases.until_switched(&mut batch);
    switch_vips(layout, &mut reachable, plan, &mut batch, clock.instant);
    retire_services(image, layout, &reachable, &mut phases, clock.instant);
    batch.ops.append(&mut phases.retire);
    batch
}

/// The same where `before` was published whole, and of its services only some are to be others: those, and the ones that `look_at` picks by their place
/// and plan, are all that is looked at. `None` = VIPs come or go, or might: then everything has to be.
pub fn reconcile_some(
    image: &Image,
    layout: &mut Layout,
    (before, plan): (&[Arc<ServicePlan>], &[Arc<ServicePlan>]),
    look_at: impl Fn(usize, &ServicePlan) -> bool,
    (hops, translation): (&impl Hops, &Translation<'_>),
    clock: Clock,
) -> Option<Batch> {
    let differs = |(i, (old, new)): &(usize, (&Arc<ServicePlan>, &Arc<ServicePlan>))| !Arc::ptr_eq(old, new) || look_at(*i, new);
    let pairs: Vec<_> = before.iter().zip(plan).enumerate().filter(differs).map(|(_, pair)| pair).collect();
    // What answers of `dnat` backends are known by stands in the table of VIPs.
    let stays = |(old, new): &(&Arc<ServicePlan>, &Arc<ServicePlan>)| {
        Arc::ptr_eq(old, new) || old.vip == new.vip && old.mode == new.mode && new.mode != Mode::Dnat
    };
    if before.len() != plan.len() || !pairs.iter().all(stays) {
        return None;
    }
    let (mut phases, mut batch) = (Phases::default(), Batch::default());
    for (_, wanted) in pairs {
        let mut step = Step { image, hops, translation, clock, phases: &mut phases };
        if let Err(why) = step.service(layout, wanted) {
            batch.refused.push((wanted.name.clone(), why));
        }
    }
    phases.until_switched(&mut batch);
    batch.ops.append(&mut phases.retire);
    Some(batch)
}

impl Phases {
    /// The steps of all that comes before VIPs are switched.
    fn until_switched(&mut self, batch: &mut Batch) {
        batch.ops.append(&mut self.sources);
        batch.ops.append(&mut self.states);
        batch.ops.append(&mut self.prepare);
        if self.outgrown {
            batch.ops.push(Op::Grace);
        }
        batch.ops.append(&mut self.switch);
    }
}

/// Rebuilds the search table if other VIPs are to be found than now.
fn switch_vips(layout: &mut Layout, reachable: &mut BTreeSet<u32>, plan: &[Arc<ServicePlan>], batch: &mut Batch, now: Instant) {
    let found: BTreeSet<u32> = layout.services.values().filter(|s| s.position.is_some()).map(|s| s.id).collect();
    let reversed = reversed(layout, reachable);
    if found == *reachable && reversed == layout.reversed {
        return;
    }
    let ids: Vec<u32> = reachable.iter().copied().collect();
    let mut keys: Vec<_> = ids.iter().map(|id| layout.services[id].key).collect();
    let addresses: BTreeMap<IpAddr, VipKey> =
        ids.iter().map(|id| (layout.services[id].vip.addr, address_key(&layout.services[id].key))).collect();
    keys.extend(addresses.values());
    keys.extend(reversed.iter().map(key_of));
    let number = 1 - layout.active.min(1);
    let size = layout.half_size;
    let Some(index) = vip_index::build(&keys, number * size, size) else {
        let new: Vec<u32> = reachable.difference(&found).copied().collect();
        for id in new {
            reachable.remove(&id);
            let name = plan.iter().find(|w| layout.find(&vip_key(&w.vip)) == Some(id)).map(|w| w.name.clone());
            batch.refused.extend(name.map(|n| (n, LayoutError::Index)));
        }
        if found == *reachable {
            let names = plan.iter().filter(|w| w.mode == Mode::Dnat).map(|w| w.name.clone());
            batch.refused.extend(names.map(|name| (name, LayoutError::Index)));
        }
        reachable.extend(found);
        return;
    };
    let mut entries = vec![Vip::default(); index.half.mask as usize + 1];
    for service in layout.services.values_mut() {
        service.position = None;
    }
    let others = ids.len() + addresses.len();
    for (entry, at) in reversed.iter().zip(&index.positions[others..]) {
        if let Some(place) = entries.get_mut((*at - index.half.base) as usize) {
            *place = *entry;
        }
    }
    for (key, at) in keys.iter().zip(&index.positions).take(others).skip(ids.len()) {
        if let Some(place) = entries.get_mut((*at - index.half.base) as usize) {
            *place = entry::vip_address(key);
        }
    }
    for (id, at) in ids.iter().zip(&index.positions) {
        let Some(service) = layout.services.get_mut(id) else { continue };
        service.position = Some(*at);
        if let Some(place) = entries.get_mut((*at - index.half.base) as usize) {
            *place = entry::vip(service);
        }
    }
    if layout.flipped.is_some_and(|since| now.saturating_duration_since(since) < GRACE) {
        batch.ops.push(Op::Grace);
    }
    batch.ops.push(Op::Index(Box::new(VipTable { number, half: index.half, displacements: index.displacements, entries })));
    let ranges = ids.iter().any(|id| layout.services[id].vip.port == 0);
    let has = |mode| ids.iter().any(|id| layout.services[id].mode == mode);
    let flags = [
        (has(Mode::Nat), Config::NAT),
        (!reversed.is_empty(), Config::DNAT),
        (ranges, Config::RANGES),
        (has(Mode::Tunnel), Config::TUNNEL),
    ];
    let flags = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum();
    batch.ops.push(Op::Active { half: number, flags });
    layout.reversed = reversed;
    layout.active = number;
    layout.flipped = Some(now);
}

/// Entries by which answers of `dnat` backends are known, and what is none.
fn reversed(layout: &Layout, reachable: &BTreeSet<u32>) -> Vec<Vip> {
    let (mut backends, mut ranges) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    for service in reachable.iter().filter_map(|id| layout.services.get(id)).filter(|s| s.mode == Mode::Dnat) {
        for (local, entry) in service.present() {
            let key = (entry.id, service.key.proto);
            if service.vip.port == 0 {
                ranges.entry(key).or_default().push((entry.retired.is_some(), service, local));
                continue;
            }
            // A backend that has moved to another service answers for that one.
            if entry.retired.is_none() || !backends.contains_key(&key) {
                backends.insert(key, (entry.retired.is_some(), entry::reverse(service, entry.id, local)));
            }
        }
    }
    // Of who has moved likewise: ports that somebody has now are his.
    ranges.values_mut().for_each(|all| all.sort_by_key(|(retired, ..)| *retired));
    let taken = |id: BackendId, proto| {
        let there = ranges.get(&(BackendId(SocketAddr::new(id.0.ip(), 0)), proto)).into_iter().flatten();
        there.filter(|(retired, ..)| !retired).any(|(_, s, _)| (s.ports.0..=s.ports.1).contains(&id.0.port()))
    };
    backends.retain(|(id, proto), (retired, _)| !(*retired && taken(*id, *proto)));
    let mut all: Vec<Vip> = backends.into_values().map(|(_, entry)| entry).collect();
    all.extend(ranges.into_iter().filter_map(|((id, _), all)| {
        let services: Vec<_> = all.into_iter().map(|(_, service, local)| (service, local)).collect();
        entry::reverse_ranges(id, &services)
    }));
    let own = layout.own.iter().filter(|_| !all.is_empty()).map(|addr| entry::own(*addr)).collect::<Vec<_>>();
    all.into_iter().chain(own).collect()
}

fn key_of(vip: &Vip) -> VipKey {
    VipKey { addr: vip.addr, port: vip.port, proto: vip.proto, family: vip.family }
}

/// Services that no packet finds any more give their tables back; the rest goes when no flow needs it.
fn retire_services(image: &Image, layout: &mut Layout, reachable: &BTreeSet<u32>, phases: &mut Phases, now: Instant) {
    let gone: Vec<u32> = layout.services.values().filter(|s| !reachable.contains(&s.id)).map(|s| s.id).collect();
    for id in gone {
        let Some(service) = layout.services.get_mut(&id) else { continue };
        service.retired.get_or_insert(now);
        (service.applied, service.moves) = (None, Moves::default());
        for (local, entry) in service.entries.iter_mut().enumerate() {
            if let Some(entry) = entry.as_mut().filter(|e| e.retired.is_none()) {
                entry.retired = Some(now);
                let at = service.base + local as u32;
                phases.retire.extend(drain(image.backends.get(at as usize), at));
            }
        }
        if let Some(table) = service.table.take() {
            layout.give_back_table(table, now);
        }
        layout.note(id);
    }
}

/// A backend takes no new flows any more. One that is dead stays dead.
fn drain(mut entry: Backend, at: u32) -> Option<Op> {
    if !BackendState::from_u8(entry.state).keeps_old() || entry.state == BackendState::Draining as u8 {
        return None;
    }
    entry.state = BackendState::Draining as u8;
    let value = words_of(&entry).nth(usize::from(backend_word::STATE))?;
    Some(Op::BackendWord { at, word: backend_word::STATE, value })
}
