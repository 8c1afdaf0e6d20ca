//! What may be forgotten: backends that no slot, secondary or flow names any more, and services that no packet finds.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use mesh_common::abi::{Backend, NAT_SOURCES, NatSource, ServiceInfo};

use super::{
    extents::GRACE,
    image::Image,
    layout::{Entry, Layout, Service},
    op::Op,
    quic,
};

/// Flows that live, as one sweep has counted them.
#[derive(Clone, Debug)]
pub struct Live {
    /// By (service id, backend's local index).
    pub flows: HashMap<(u32, u16), u64>,
    /// Of these, the ones that have not ended.
    pub open: HashMap<(u32, u16), Open>,
    /// Flows that nobody has begun to close.
    pub carried: HashMap<(u32, u16), u64>,
    /// Source addresses that a flow names.
    pub sources: [bool; NAT_SOURCES],
    /// When the counting began: what was retired later may have got a flow unseen.
    pub since: Instant,
}

/// Flows of a backend that have not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Open {
    pub flows: u64,
    /// For how many ticks the quietest of them has been quiet.
    pub quiet: u32,
    /// Ticks since the oldest of them began; `None` = their entries don't tell.
    pub oldest: Option<u32>,
}

impl Default for Live {
    fn default() -> Self {
        Self { flows: HashMap::new(), open: HashMap::new(), carried: HashMap::new(), sources: [false; NAT_SOURCES], since: Instant::now() }
    }
}

/// What was given back.
#[derive(Debug, Default)]
pub struct Freed {
    pub ops: Vec<Op>,
    /// Backends, with the id of their service.
    pub backends: Vec<(u32, Entry)>,
    /// Services, by id.
    pub services: Vec<u32>,
}

/// Gives back the places of what nothing names any more.
pub fn collect(image: &Image, layout: &mut Layout, live: &Live) -> Freed {
    let mut freed = Freed::default();
    let mut gone = Vec::new();
    for id in &layout.astir {
        let Some(service) = layout.services.get_mut(id) else { continue };
        for local in forgettable(image, service, live) {
            let ids = quic::forget(service, local);
            if !ids.is_empty() {
                freed.ops.extend(ids);
                // A packet may have read them.
                service.entries.get_mut(usize::from(local)).into_iter().flatten().for_each(|entry| entry.retired = Some(live.since));
                continue;
            }
            let Some(entry) = service.drop_entry(local) else { continue };
            freed.ops.push(Op::Backends { base: service.base + u32::from(local), entries: vec![Backend::default()] });
            layout.stats.give_back(entry.stats, 1, live.since);
            freed.backends.push((service.id, entry));
        }
        if is_over(service.retired, live) && service.present().next().is_none() {
            gone.push(service.id);
        }
    }
    for id in gone {
        freed.ops.push(Op::Service { id, value: ServiceInfo::default() });
        layout.remove(id, live.since);
        freed.services.push(id);
    }
    collect_sources(image, layout, live);
    freed
}

/// Local indices of a service that nothing names.
fn forgettable(image: &Image, service: &Service, live: &Live) -> Vec<u16> {
    // While slots are on their way, an entry of the ledger may name whom no slot does; and where the service has just gone, or a slot has just been
    // written, a packet may still be on its way to whom the slot named before.
    let moving = service.retired.is_none() && !service.moves.at_rest();
    if moving || service.retired.max(service.written).is_some_and(|since| !is_over(Some(since), live)) {
        return Vec::new();
    }
    let idle = |local: &u16| !live.flows.contains_key(&(service.id, *local));
    let mut locals: Vec<u16> = service.present().filter(|(_, e)| is_over(e.retired, live)).map(|(l, _)| l).filter(idle).collect();
    if let Some(table) = service.table.filter(|_| !locals.is_empty()) {
        let slots = image.slots.table(table.base(), 1 << table.log2_slots());
        let named: BTreeSet<u16> = slots.flat_map(|s| [s.target(), s.default(), s.secondary()]).collect();
        locals.retain(|local| !named.contains(local));
    }
    locals
}

/// Retired for so long that no packet under way can have made a flow since that the count has missed.
fn is_over(retired: Option<Instant>, live: &Live) -> bool {
    retired.is_some_and(|since| live.since.saturating_duration_since(since) >= GRACE)
}

fn collect_sources(image: &Image, layout: &mut Layout, live: &Live) {
    // A single one is not given back, and a hundred thousand backends are not asked for it every second.
    if layout.sources.used() <= 1 {
        return;
    }
    let mut used = live.sources;
    for service in layout.services.values() {
        for (local, _) in service.present() {
            let at = image.backends.get((service.base + u32::from(local)) as usize).nat_source;
            let shared = if at == NatSource::ANY { &layout.shares[usize::from(service.vip.addr.is_ipv6())][..] } else { &[] };
            for at in shared.iter().copied().map(u16::from).chain([at]) {
                if let Some(used) = used.get_mut(usize::from(at)) {
                    *used = true;
                }
            }
        }
    }
    layout.sources.retain(&used, live.since, GRACE);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use mesh_common::abi::{BackendState, Mode, Proto};

    use super::*;
    use crate::{
        dataplane::options::Limits,
        model::{BackendId, VipAddr},
    };

    #[test]
    fn addresses_that_backends_share_are_kept_and_others_are_not() {
        let (image, start) = (Image::heap(32, 4, 64, 16, 64), Instant::now());
        let mut layout = Layout::new(&Limits::default());
        let vip = VipAddr { addr: "192.0.2.1".parse().unwrap(), port: 80, proto: Proto::Tcp };
        let id = layout.add(vip, Mode::Nat, 1, start).unwrap();
        let service = layout.services.get_mut(&id).unwrap();
        service.put(0, Entry { id: BackendId("10.0.0.1:80".parse().unwrap()), stats: 0, retired: None });
        let entry = Backend { state: BackendState::Active as u8, nat_source: NatSource::ANY, ..Backend::default() };
        image.backends.set(service.base as usize, &entry);
        let [first, second, other] = ["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(|text| text.parse::<IpAddr>().unwrap());
        let indices = [first, second, other].map(|addr| layout.sources.index(addr).unwrap().0);
        layout.shares[0] = std::array::from_fn(|n| indices[n % 2] as u8);
        for n in 1..4 {
            collect(&image, &mut layout, &Live { since: start + 2 * n * GRACE, ..Live::default() });
        }
        let known = [first, second, other].map(|addr| layout.sources.index(addr).unwrap());
        assert_eq!(known, [(indices[0], false), (indices[1], false), (indices[2], true)]);
    }
}
