//! The layout as the maps tell it: what an earlier life of the daemon has published, even if it was cut off in the middle.

use std::{collections::HashMap, time::Instant};

use mesh_common::abi::{Backend, BackendState, Config, Family, NAT_SOURCES, NatSource, ServiceInfo, Vip, VipKey, VipKind};

use super::{
    image::{Image, words_of},
    layout::{Entry, Layout, Service, ip_of, socket_of, table_len, vip_key},
    nat,
    op::{Op, vip_word},
    options::Limits,
    quic,
    reconcile::{moves::Moves, standings::Standings},
    report::AdoptedService,
    vip_index,
};
use crate::model::{BackendId, Mode, Proto, VipAddr};

/// The maps say what no life of the daemon writes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the pinned maps contradict themselves ({what}): run `mesh detach` and start again")]
pub struct Contradiction {
    what: String,
}

/// Reads the layout back. The steps complete what was cut off, and have to be done before anything else.
pub fn adopt(image: &Image, limits: &Limits, now: Instant) -> Result<(Layout, Vec<Op>), Contradiction> {
    let mut layout = Layout::new(limits);
    layout.active = Config::half_number(image.config.word(0, 0) as u32);
    layout.flipped = Some(now);
    layout.lists.adopt(&image.lists.all().map_err(|e| contradiction(format!("lists of sources can't be read: {e}")))?);
    let found = find_vips(image, &layout)?;
    let mut repairs = Vec::new();
    for id in 1..image.services.len() as u32 {
        let info = image.services.get(id as usize);
        let vip = found.get(&id);
        if let Some(service) = adopt_service(image, &mut layout, id, &info, vip, now)? {
            repairs.extend(repair(image, &service));
            if !layout.adopt(service) {
                return Err(contradiction(format!("service {id} shares its place with another")));
            }
        }
    }
    if let Some(id) = found.keys().find(|id| !layout.services.contains_key(id)) {
        return Err(contradiction(format!("a VIP leads to service {id}, which is not there")));
    }
    repairs.extend(quic::adopt(image, &mut layout).map_err(|e| contradiction(format!("server ids can't be read: {e}")))?);
    adopt_sources(image, &mut layout);
    Ok((layout, repairs))
}

/// What a layout that was just adopted forwards.
pub fn describe(image: &Image, layout: &Layout) -> Vec<AdoptedService> {
    let reachable = layout.services.values().filter(|s| s.position.is_some());
    reachable
        .map(|service| AdoptedService {
            vip: service.vip,
            mode: service.mode,
            backends: backends_of(image, service),
            slots: service.table.map(|t| image.slots.table(t.base(), 1 << t.log2_slots()).collect()).unwrap_or_default(),
        })
        .collect()
}

fn backends_of(image: &Image, service: &Service) -> Vec<Option<(BackendId, BackendState)>> {
    let state = |local: usize| BackendState::from_u8(image.backends.get(service.base as usize + local).state);
    service.entries.iter().enumerate().map(|(local, e)| e.as_ref().map(|e| (e.id, state(local)))).collect()
}

/// Entries of services in the half of the VIP map that is searched, with their place, by service id.
fn find_vips(image: &Image, layout: &Layout) -> Result<HashMap<u32, (u32, Vip)>, Contradiction> {
    let half = vip_index::half_of(image, layout.active);
    let end = u64::from(half.base) + u64::from(half.mask) + 1;
    if end > image.vips.len() as u64 {
        return Err(contradiction(format!("half {} of the VIP table ends at {end}, beyond the map", layout.active)));
    }
    let entries = (half.base..=half.base + half.mask).map(|at| (at, image.vips.get(at as usize)));
    Ok(entries.filter(|(_, vip)| vip.kind == VipKind::Service as u8).map(|(at, vip)| (vip.service, (at, vip))).collect())
}

fn adopt_service(
    image: &Image,
    layout: &mut Layout,
    id: u32,
    info: &ServiceInfo,
    found: Option<&(u32, Vip)>,
    now: Instant,
) -> Result<Option<Service>, Contradiction> {
    let vip = if let Some((_, vip)) = found {
        vip_addr(vip.addr, vip.port, vip.proto, vip.family)
    } else {
        vip_addr(info.addr, info.port, info.proto, info.family)
    };
    let Some(vip) = vip else {
        return if found.is_some() { Err(contradiction(format!("the VIP of service {id} is no address"))) } else { Ok(None) };
    };
    let mode = found
        .map_or(Some(Mode::Nat), |(_, v)| Mode::from_u8(v.mode))
        .ok_or_else(|| contradiction(format!("service {id} has an unknown mode")))?;
    if u64::from(info.backend_base) + u64::from(info.backend_capacity) > image.backends.len() as u64 || info.backend_capacity > 1 << 16 {
        return Err(contradiction(format!("the backends of service {id} are beyond the map")));
    }
    let mut service = Service::new(id, vip, mode, info.backend_base, info.backend_capacity);
    match found {
        Some((at, vip)) => {
            if vip_key(&service.vip) != (VipKey { addr: info.addr, port: info.port, proto: info.proto, family: info.family }) {
                return Err(contradiction(format!("service {id} has two VIPs")));
            }
            let log2 = u8::try_from(vip.table.log2_slots()).ok().filter(|l| *l <= 31);
            if !log2.is_some_and(|l| layout.slots.claim(vip.table.base(), table_len(l))) {
                return Err(contradiction(format!("the table of service {id} is beyond the map, or another's")));
            }
            service.position = Some(*at);
            service.ports = vip.ports.into();
            service.limits = (vip.source_limit, vip.service_limit);
            service.list = vip.list;
            service.table = Some(vip.table);
            service.flags = vip.flags;
        }
        None => service.retired = Some(now),
    }
    adopt_backends(image, layout, &mut service, now)?;
    let standings = Standings { image, table: service.table, base: service.base };
    service.moves = Moves::adopted(&standings, service.present().map(|(local, _)| local), nat::tick());
    Ok(Some(service))
}

fn adopt_backends(image: &Image, layout: &mut Layout, service: &mut Service, now: Instant) -> Result<(), Contradiction> {
    for local in 0..service.capacity {
        let entry = image.backends.get((service.base + local) as usize);
        if BackendState::from_u8(entry.state) == BackendState::Absent {
            continue;
        }
        let family = if entry.flags & Backend::V6 == 0 { Family::V4 } else { Family::V6 };
        let id = socket_of(entry.addr, family as u8, entry.port).map(BackendId);
        let (Some(id), Ok(local)) = (id, u16::try_from(local)) else {
            return Err(contradiction(format!("backend {local} of service {} is no address", service.id)));
        };
        if service.local(&id).is_some() || !layout.stats.claim(entry.stats, 1) {
            return Err(contradiction(format!("backend {local} of service {} shares its place or its counters with another", service.id)));
        }
        let retired = service.retired.map(|_| now);
        service.put(local, Entry { id, stats: entry.stats, retired });
    }
    Ok(())
}

/// A move to a larger extent that got as far as the service's own entry: the VIP is led there too.
fn repair(image: &Image, service: &Service) -> Option<Op> {
    let at = service.position?;
    let now = image.vips.get(at as usize);
    if now.backend_base == service.base {
        return None;
    }
    let value = words_of(&Vip { backend_base: service.base, ..now }).nth(usize::from(vip_word::BASE))?;
    Some(Op::VipWord { at, word: vip_word::BASE, value })
}

fn adopt_sources(image: &Image, layout: &mut Layout) {
    let words = size_of::<NatSource>() / 8;
    let first = std::mem::offset_of!(Config, sources) / 8;
    for index in 0..NAT_SOURCES {
        let mut source = NatSource::default();
        for (bytes, word) in bytemuck::bytes_of_mut(&mut source).chunks_exact_mut(8).zip(image.config.run(0, first + index * words, words))
        {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        if let Some(addr) = ip_of(source.addr, source.family) {
            layout.sources.adopt(index, addr);
        }
    }
    let first = std::mem::offset_of!(Config, shares) / 8;
    let words = image.config.run(0, first, size_of_val(&layout.shares) / 8);
    for (bytes, word) in bytemuck::bytes_of_mut(&mut layout.shares).chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}

fn vip_addr(addr: mesh_common::abi::Addr, port: [u8; 2], proto: u8, family: u8) -> Option<VipAddr> {
    let proto = [Proto::Tcp, Proto::Udp].into_iter().find(|p| *p as u8 == proto)?;
    Some(VipAddr { addr: ip_of(addr, u32::from(family))?, port: u16::from_be_bytes(port), proto })
}

fn contradiction(what: String) -> Contradiction {
    Contradiction { what }
}
