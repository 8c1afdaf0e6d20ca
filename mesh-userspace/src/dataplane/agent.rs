//! The programs of `mesh agent` and their maps. Nothing is pinned: they go with the process.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        HashMap, MapData, MapError, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{LinkOrder, TcAttachType},
};
use mesh_common::abi::{Addr, AgentLink, AgentStats, AgentVip, agent, agent_v4};

use super::{
    error::DataplaneError,
    filter::{self, classifier},
    load::take,
};

/// The agent's half in the kernel, built from source by the build.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-agent"));

/// The loaded programs. Dropping it takes them off their interfaces.
pub struct AgentPlane {
    vips: HashMap<MapData, Addr, AgentVip>,
    own: HashMap<MapData, Addr, u32>,
    links: HashMap<MapData, u32, AgentLink>,
    peers: LpmTrie<MapData, [u8; 16], u32>,
    known_peers: BTreeSet<(IpAddr, u8)>,
    stats: PerCpuArray<MapData, AgentStats>,
    /// Its programs hold the links.
    _ebpf: Ebpf,
}

impl AgentPlane {
    /// Loads the programs and attaches them to TC, both ways, of each interface.
    pub fn open(interfaces: &[String]) -> Result<Self, DataplaneError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(DataplaneError::Load)?;
        let plane = Self {
            vips: take(&mut ebpf, agent::VIPS)?,
            own: take(&mut ebpf, agent::OWN)?,
            links: take(&mut ebpf, agent::LINKS)?,
            peers: take(&mut ebpf, agent::PEERS)?,
            known_peers: BTreeSet::new(),
            stats: take(&mut ebpf, agent::STATS)?,
            _ebpf: ebpf,
        };
        plane.attached(interfaces)
    }

    fn attached(mut self, interfaces: &[String]) -> Result<Self, DataplaneError> {
        for (name, way) in [(agent::INGRESS, TcAttachType::Ingress), (agent::EGRESS, TcAttachType::Egress)] {
            let program = classifier(&mut self._ebpf, name)?;
            program.load().map_err(DataplaneError::program(name))?;
            for interface in interfaces {
                filter::attach(program, interface, way, LinkOrder::default(), filter::AGENT)?;
            }
        }
        Ok(self)
    }

    /// Has packets for this VIP decapsulated. `guard`: nobody on the link is to hear of it.
    pub fn set_vip(&mut self, vip: IpAddr, guard: bool) -> Result<(), DataplaneError> {
        let key = key_of(vip);
        let guard = u32::from(guard);
        match self.vips.get(&key, 0) {
            Ok(known) if known.guard == guard => Ok(()),
            // What it has learned is kept.
            known => {
                let overhead = known.map_or(0, |known| known.overhead);
                self.vips.insert(key, AgentVip { overhead, guard }, 0).map_err(failed(agent::VIPS))
            }
        }
    }

    pub fn forget_vip(&mut self, vip: IpAddr) -> Result<(), DataplaneError> {
        match self.vips.remove(&key_of(vip)) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(other) => Err(failed(agent::VIPS)(other)),
        }
    }

    /// Replaces the addresses that outer headers may be for.
    pub fn set_own(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        let wanted: BTreeSet<[u8; 16]> = addresses.iter().map(|a| key_of(*a).0).collect();
        let known: BTreeSet<[u8; 16]> =
            self.own.keys().collect::<Result<Vec<_>, _>>().map_err(failed(agent::OWN))?.iter().map(|a| a.0).collect();
        for gone in known.difference(&wanted) {
            self.own.remove(&Addr(*gone)).map_err(failed(agent::OWN))?;
        }
        for new in wanted.difference(&known) {
            self.own.insert(Addr(*new), 1, 0).map_err(failed(agent::OWN))?;
        }
        Ok(())
    }

    /// Replaces the prefixes, each with its bits, of those that packets of unknown connections may be passed on to.
    pub fn set_peers(&mut self, wanted: BTreeSet<(IpAddr, u8)>) -> Result<(), DataplaneError> {
        for gone in self.known_peers.difference(&wanted) {
            self.peers.remove(&prefix_of(*gone)).map_err(failed(agent::PEERS))?;
        }
        for new in wanted.difference(&self.known_peers) {
            self.peers.insert(&prefix_of(*new), 1, 0).map_err(failed(agent::PEERS))?;
        }
        self.known_peers = wanted;
        Ok(())
    }

    /// What an interface takes, and its own IPv4 address.
    pub fn set_link(&mut self, ifindex: u32, mtu: u32, v4: Option<Ipv4Addr>) -> Result<(), DataplaneError> {
        let link = AgentLink { mtu, v4: v4.map_or([0; 4], |a| a.octets()) };
        self.links.insert(ifindex, link, 0).map_err(failed(agent::LINKS))
    }

    /// What it has done so far.
    pub fn stats(&self) -> Result<AgentStats, DataplaneError> {
        let all = self.stats.get(&0, 0).map_err(failed(agent::STATS))?;
        Ok(all.iter().fold(AgentStats::default(), |sum, one| AgentStats {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
            foreign: sum.foreign + one.foreign,
            refused: sum.refused + one.refused,
            failed: sum.failed + one.failed,
            clamped: sum.clamped + one.clamped,
            arp: sum.arp + one.arp,
            passed_on: sum.passed_on + one.passed_on,
            local: sum.local + one.local,
            used_up: sum.used_up + one.used_up,
            not_peer: sum.not_peer + one.not_peer,
        }))
    }
}

fn failed(name: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { name, source }
}

fn key_of(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(a) => agent_v4(a.octets()),
        IpAddr::V6(a) => Addr(a.octets()),
    }
}

fn prefix_of((addr, bits): (IpAddr, u8)) -> Key<[u8; 16]> {
    let mapped = if addr.is_ipv4() { agent::PEER_BITS - 32 } else { 0 };
    Key::new(mapped + u32::from(bits), key_of(addr).0)
}
