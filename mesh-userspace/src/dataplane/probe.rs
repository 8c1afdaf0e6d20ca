//! The programs that lead probes the way of their service, and their maps. Nothing is pinned: they go with the process.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError},
    programs::{LinkOrder, TcAttachType},
};
use mesh_common::abi::probe::{self, Ends, MAX_ID, ProbeWay};

use super::{
    error::DataplaneError,
    filter::{self, classifier},
    load::take,
};
use crate::model::{Head, Passage};

/// The probes' half in the kernel, built from source by the build.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-probe"));

const PROGRAMS: [(&str, TcAttachType); 2] = [(probe::EGRESS, TcAttachType::Egress), (probe::INGRESS, TcAttachType::Ingress)];

/// The loaded programs. Dropping it takes them off their interfaces.
pub struct ProbePlane {
    ways: HashMap<MapData, u32, ProbeWay>,
    vips: HashMap<MapData, Ends, u32>,
    ids: BTreeMap<Passage, u32>,
    taken: BTreeSet<u32>,
    /// The last id that was given.
    last: u32,
    /// Interfaces that the programs are attached to, with their numbers.
    attached: BTreeMap<String, u32>,
    /// Its programs hold the links.
    ebpf: Ebpf,
}

impl ProbePlane {
    /// Loads the programs; needs CAP_BPF and CAP_NET_ADMIN, what follows only the latter.
    pub fn load() -> Result<Self, DataplaneError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(DataplaneError::Load)?;
        for (name, _) in PROGRAMS {
            classifier(&mut ebpf, name)?.load().map_err(DataplaneError::program(name))?;
        }
        Ok(Self {
            ways: take(&mut ebpf, probe::WAYS)?,
            vips: take(&mut ebpf, probe::VIPS)?,
            ids: BTreeMap::new(),
            taken: BTreeSet::new(),
            // Somewhere, so that another instance on the same interface has other ids.
            last: (RandomState::new().hash_one(0) as u32) % MAX_ID,
            attached: BTreeMap::new(),
            ebpf,
        })
    }

    /// Makes these the ways. What stays keeps its id.
    pub fn set(&mut self, wanted: &BTreeSet<Passage>) -> Result<(), DataplaneError> {
        for passage in wanted {
            if !self.ids.contains_key(passage) {
                self.add(*passage)?;
            }
        }
        let gone: Vec<_> = self.ids.keys().filter(|p| !wanted.contains(p)).copied().collect();
        let vips: BTreeSet<IpAddr> = wanted.iter().map(|p| p.vip).collect();
        for passage in gone {
            if let Some(id) = self.ids.remove(&passage) {
                self.taken.remove(&id);
                absent_is_well(self.ways.remove(&id)).map_err(failed(probe::WAYS))?;
            }
            if !vips.contains(&passage.vip) {
                absent_is_well(self.vips.remove(&key_of(passage.vip))).map_err(failed(probe::VIPS))?;
            }
        }
        Ok(())
    }

    /// What sockets that take this way have for their priority: one of a single question, and one that asks many; `None` if it is no way.
    pub fn tags(&self, passage: &Passage) -> Option<(u32, u32)> {
        self.ids.get(passage).map(|id| (probe::TAG | id, probe::TAG | probe::PULSE | id))
    }

    /// Has packets of these interfaces looked at; those that are looked at already stay so. Returns what went wrong.
    pub fn attach<'a>(&mut self, interfaces: impl IntoIterator<Item = &'a str>) -> Vec<DataplaneError> {
        let mut errors = Vec::new();
        for name in interfaces {
            let Ok(ifindex) = nix::net::if_::if_nametoindex(name) else { continue };
            if self.attached.get(name) == Some(&ifindex) {
                continue;
            }
            let attached = PROGRAMS.iter().try_for_each(|(program, way)| {
                // Before the balancer's.
                filter::attach(classifier(&mut self.ebpf, program)?, name, *way, LinkOrder::first(), filter::PROBE)
            });
            match attached {
                Ok(()) => drop(self.attached.insert(name.to_owned(), ifindex)),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    fn add(&mut self, passage: Passage) -> Result<(), DataplaneError> {
        let Some(id) = self.free_id() else { return Ok(()) };
        let (flags, source) = match passage.head {
            Head::Mac => (0, None),
            Head::Outer { gue: false, source } => (ProbeWay::ENCAP, source),
            Head::Outer { gue: true, source } => (ProbeWay::ENCAP | ProbeWay::GUE, source),
        };
        let (vip, backend) = (key_of(passage.vip), key_of(passage.backend));
        let way = ProbeWay { vip, backend, source: source.map_or([0; 2], key_of), flags, reserved: 0 };
        self.vips.insert(vip, 1, 0).map_err(failed(probe::VIPS))?;
        self.ways.insert(id, way, 0).map_err(failed(probe::WAYS))?;
        self.ids.insert(passage, id);
        self.taken.insert(id);
        Ok(())
    }

    /// `None`: all are given.
    fn free_id(&mut self) -> Option<u32> {
        let behind = (self.last + 1..=MAX_ID).chain(1..=self.last);
        self.last = behind.into_iter().find(|id| !self.taken.contains(id))?;
        Some(self.last)
    }
}

/// Takes away the filters of a daemon that was killed; those that are gone count as taken away.
pub fn remove_filters(interface: &str) {
    for (_, way) in PROGRAMS {
        drop(filter::at(interface, way, filter::PROBE));
    }
}

fn failed(name: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { name, source }
}

fn absent_is_well(done: Result<(), MapError>) -> Result<(), MapError> {
    match done {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn key_of(addr: IpAddr) -> Ends {
    let v6 = match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    };
    bytemuck::cast(v6.octets())
}
