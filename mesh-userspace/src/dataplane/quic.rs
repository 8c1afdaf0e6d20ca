//! Which backend a server id in QUIC connection ids names: what is to be written, what is found, and who is still named by packets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aya::maps::{HashMap as BpfMap, MapData, MapError};
use mesh_common::abi::{quic_key, quic_length, quic_service};

use super::{
    image::Image,
    layout::{Layout, Service},
    op::Op,
    retire::Live,
};
use crate::plan::ServicePlan;

/// The map, or what stands for it where the pure parts are tested.
#[derive(Debug)]
pub struct Ids(Mutex<Kept>);

#[derive(Debug)]
enum Kept {
    Map(BpfMap<MapData, u64, u32>),
    Heap(BTreeMap<u64, u32>),
}

impl Ids {
    pub fn map(map: BpfMap<MapData, u64, u32>) -> Self {
        Self(Mutex::new(Kept::Map(map)))
    }

    /// The same on the heap, empty.
    pub fn heap() -> Self {
        Self(Mutex::new(Kept::Heap(BTreeMap::new())))
    }

    /// Has `key` name this backend, or nobody.
    pub fn put(&self, key: u64, local: Option<u16>) {
        match (&mut *self.kept(), local) {
            (Kept::Map(map), Some(local)) => {
                if let Err(error) = map.insert(key, u32::from(local), 0) {
                    log::error!(
                        "failed to write a server id: {error}; its connections go by their hash until mesh is restarted with more memory"
                    );
                }
            }
            (Kept::Map(map), None) => match map.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => log::error!("failed to remove a server id: {error}"),
            },
            (Kept::Heap(rows), Some(local)) => {
                rows.insert(key, u32::from(local));
            }
            (Kept::Heap(rows), None) => {
                rows.remove(&key);
            }
        }
    }

    /// All that stands there.
    pub fn all(&self) -> Result<Vec<(u64, u32)>, MapError> {
        match &*self.kept() {
            Kept::Map(map) => map.iter().collect(),
            Kept::Heap(rows) => Ok(rows.iter().map(|(key, local)| (*key, *local)).collect()),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps of a service's ids: `new` come when the backends' entries stand where packets look for them (an extent may have been outgrown), `gone` when nobody asks
/// for them any more.
#[derive(Debug, Default)]
pub struct Steps {
    pub new: Vec<Op>,
    pub gone: Vec<Op>,
}

/// Has ids name the members as the plan says, whose local indices are `locals`. A backend that was removed keeps its id for the connections that it has, unless
/// another one was given it.
pub fn step(service: &mut Service, wanted: &ServicePlan, locals: &[u16]) -> Steps {
    let Some(length) = wanted.ways.quic else {
        let gone = std::mem::take(&mut service.ids);
        return Steps { new: Vec::new(), gone: gone.into_keys().map(|key| Op::QuicId { key, local: None }).collect() };
    };
    let named = wanted.members.iter().zip(locals);
    let mut ids: BTreeMap<u64, u16> = named.filter_map(|(m, local)| Some((quic_key(service.id, length, m.quic?), *local))).collect();
    for (key, local) in service.ids.iter().filter(|(key, local)| quic_length(**key) == length && !locals.contains(local)) {
        ids.entry(*key).or_insert(*local);
    }
    let new = ids.iter().filter(|(key, local)| service.ids.get(key) != Some(local));
    let new = new.map(|(key, local)| Op::QuicId { key: *key, local: Some(*local) }).collect();
    let gone = service.ids.keys().filter(|key| !ids.contains_key(key)).map(|key| Op::QuicId { key: *key, local: None }).collect();
    service.ids = ids;
    Steps { new, gone }
}

/// Takes away the ids of a backend whose place is given back.
pub fn forget(service: &mut Service, local: u16) -> Vec<Op> {
    let gone: Vec<u64> = service.ids.iter().filter(|(_, at)| **at == local).map(|(key, _)| *key).collect();
    service.ids.retain(|_, at| *at != local);
    gone.into_iter().map(|key| Op::QuicId { key, local: None }).collect()
}

/// Takes in what stands in the map; what names nobody is to be taken out.
pub fn adopt(image: &Image, layout: &mut Layout) -> Result<Vec<Op>, MapError> {
    let mut strays = Vec::new();
    for (key, local) in image.ids.all()? {
        let service = layout.services.get_mut(&quic_service(key));
        let there = service.and_then(|s| Some((u16::try_from(local).ok().filter(|at| s.present().any(|(there, _)| there == *at))?, s)));
        match there {
            Some((local, service)) => {
                service.ids.insert(key, local);
            }
            None => strays.push(Op::QuicId { key, local: None }),
        }
    }
    Ok(strays)
}

/// Backends that were removed and that packets still name: since when each has had no more packets than so many, by service id and local index.
#[derive(Debug, Default)]
pub struct Leaving(HashMap<(u32, u16), (u64, Instant)>);

impl Leaving {
    /// Counts who had a packet within `idle` among those that live. `packets`: how many a backend was sent so far, by the index of its counters.
    pub fn count<E>(
        &mut self,
        layout: &Layout,
        live: &mut Live,
        idle: Duration,
        mut packets: impl FnMut(u32) -> Result<u64, E>,
    ) -> Result<(), E> {
        let mut seen = HashMap::new();
        for service in layout.services.values().filter(|s| !s.ids.is_empty()) {
            for (local, entry) in service.present().filter(|(local, e)| e.retired.is_some() && service.ids.values().any(|at| at == local)) {
                let (key, now) = ((service.id, local), packets(entry.stats)?);
                let known = self.0.get(&key).copied().filter(|(before, _)| *before == now);
                let (_, since) = *seen.entry(key).or_insert(known.unwrap_or((now, live.since)));
                if live.since.saturating_duration_since(since) < idle {
                    *live.flows.entry(key).or_default() += 1;
                }
            }
        }
        self.0 = seen;
        Ok(())
    }
}
