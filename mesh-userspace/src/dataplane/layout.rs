//! Who has which place in the maps: service ids, backend indices, extents, counters, source addresses.
//!
//! Only bookkeeping: what stands at the places is in the [`super::image::Image`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use mesh_common::{
    abi::{Addr, Family, Mode, NAT_SOURCES, NatSource, ServiceFlags, SlotWord, TableRef, Vip, VipKey},
    hash,
};

use super::{
    extents::Extents,
    lists::Lists,
    options::Limits,
    reconcile::{moves::Moves, nodes::Nodes},
    sources::Sources,
    vip_index::half_size,
};
use crate::{
    model::{Answers, BackendId, ServiceName, VipAddr},
    table::Table,
};

/// Slots that an extent has at least: one cache line.
const MIN_SLOTS: u32 = 8;
/// Entries of the backend map that a service has at least.
const MIN_BACKENDS: u32 = 4;
/// Seed by which a VIP's own seed is made from its key; the same on every node, so that nodes agree on every flow.
const SEED_SEED: u64 = 0x6d65_7368_2076_6970;

/// Why a service can't be published; what was published before stays.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("there is no room for one more service: raise limits.services ({limit}), then run `mesh detach` and start again")]
    Services { limit: u32 },
    #[error("there is no room for a table of {wanted} slots: raise limits.slots ({limit}), then run `mesh detach` and start again")]
    Slots { wanted: u32, limit: u32 },
    #[error("there is no room for {wanted} backends: raise limits.backends ({limit}), then run `mesh detach` and start again")]
    Backends { wanted: u32, limit: u32 },
    #[error("{wanted} backends are more than one service can have ({max}): split the service", max = SlotWord::NONE)]
    TooManyBackends { wanted: usize },
    #[error("backend {backend} and VIP {vip} are of different address families: give both IPv4 or both IPv6 addresses")]
    Family { vip: VipAddr, backend: BackendId },
    #[error(
        "backend {backend} stands behind {vip} as well, and both are `dnat`: an answer could be of either; give each ports of its own, or use `nat`"
    )]
    Ambiguous { backend: BackendId, vip: VipAddr },
    #[error("backend {backend} is behind more than {} `dnat` services of several ports: join ranges, or use `nat`", Answers::RANGES)]
    Ranges { backend: BackendId },
    #[error("a `dnat` service of several ports can't have id {id}, beyond {}: use `nat`", u16::MAX)]
    RangeId { id: u32 },
    #[error("backends are reached from more than {NAT_SOURCES} source addresses: list the ones to use in nat.sources")]
    Sources,
    #[error(
        "no source ports are left for translation: narrow net.ipv4.ip_local_port_range so that 1024 ports in a row are not in it, or give nat.ports"
    )]
    Ports,
    #[error(
        "there is no room for {wanted} prefixes of sources more than there are: all services together have {limit}; list shorter prefixes"
    )]
    Prefixes { wanted: usize, limit: u32 },
    #[error("no search table for that many VIPs was found: raise limits.services, then run `mesh detach` and start again")]
    Index,
}

/// All places.
#[derive(Clone, Debug)]
pub struct Layout {
    /// By service id, from 1.
    pub services: BTreeMap<u32, Service>,
    /// Services that ask for more than to be published: see [`Service::is_astir`]. The others are not looked at all the time.
    pub astir: BTreeSet<u32>,
    by_key: HashMap<VipKey, u32>,
    ids: Extents,
    pub slots: Extents,
    pub backends: Extents,
    pub stats: Extents,
    pub sources: Sources,
    /// [`mesh_common::abi::Config::shares`].
    pub shares: [[u8; NAT_SOURCES]; 2],
    pub lists: Lists,
    /// Positions of each half of the VIP map.
    pub half_size: u32,
    /// Half of the VIP map that is searched.
    pub active: u32,
    /// When it was switched to.
    pub flipped: Option<Instant>,
    /// Addresses of the node that `dnat` backends may talk to.
    pub own: BTreeSet<IpAddr>,
    /// Entries of the VIP map in use that are no VIP's: `dnat` backends, and addresses of the node.
    pub reversed: Vec<Vip>,
    /// Other balancers; `None`: there are none.
    pub nodes: Option<Arc<Nodes>>,
}

/// Places of one service.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: u32,
    pub key: VipKey,
    pub vip: VipAddr,
    /// `None` = adopted, and not published since.
    pub name: Option<ServiceName>,
    pub mode: Mode,
    /// [`mesh_common::abi::ServiceFlags`].
    pub flags: u16,
    /// It has a scheduler. One that had one may have flows still that it has chosen for.
    pub chooses: bool,
    /// First and last of several ports; zeros where there is one.
    pub ports: (u16, u16),
    /// [`mesh_common::abi::Vip::source_limit`] and [`mesh_common::abi::Vip::service_limit`].
    pub limits: (u32, u32),
    /// [`mesh_common::abi::Vip::list`].
    pub list: u32,
    /// First of its entries in the backend map, and how many there are.
    pub base: u32,
    pub capacity: u32,
    pub table: Option<TableRef>,
    /// Where in the VIP map it stands; `None` = no packet finds it.
    pub position: Option<u32>,
    /// By service-local index.
    pub entries: Vec<Option<Entry>>,
    by_id: HashMap<BackendId, u16>,
    /// Local indices by [`mesh_common::abi::quic_key`].
    pub ids: BTreeMap<u64, u16>,
    /// Since when no packet finds it any more.
    pub retired: Option<Instant>,
    /// The table that the slots say, and the local index of each of its members.
    pub applied: Option<(Arc<Table>, Vec<u16>)>,
    /// Slots and backends on their way, where nobody translates.
    pub moves: Moves,
    /// Since when it is there, while it has just come: nothing is promised to flows yet, and slots are written at once.
    pub coming: Option<Instant>,
    /// When this daemon has written one of its slots last: packets under way may have read it before.
    pub written: Option<Instant>,
}

/// One place for a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: BackendId,
    /// Index of its counters.
    pub stats: u32,
    /// Since when no slot names it any more.
    pub retired: Option<Instant>,
}

impl Layout {
    pub fn new(limits: &Limits) -> Self {
        let mut ids = Extents::new(limits.services.saturating_add(1));
        ids.claim(0, 1);
        Self {
            services: BTreeMap::new(),
            astir: BTreeSet::new(),
            by_key: HashMap::new(),
            ids,
            slots: Extents::new(limits.slots),
            backends: Extents::new(limits.backends),
            stats: Extents::new(limits.backends),
            sources: Sources::default(),
            shares: [[0; NAT_SOURCES]; 2],
            lists: Lists::default(),
            half_size: half_size(limits.services),
            active: 0,
            flipped: None,
            own: BTreeSet::new(),
            reversed: Vec::new(),
            nodes: None,
        }
    }

    pub fn find(&self, key: &VipKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Makes places for a new service with `backends` backends; it has no table yet.
    pub fn add(&mut self, vip: VipAddr, mode: Mode, backends: usize, now: Instant) -> Result<u32, LayoutError> {
        let capacity = capacity_for(backends)?;
        let id = self.ids.take(1, now).ok_or(LayoutError::Services { limit: self.ids.size().saturating_sub(1) })?;
        let Some(base) = self.backends.take(capacity, now) else {
            self.ids.give_back_unused(id, 1);
            return Err(LayoutError::Backends { wanted: capacity, limit: self.backends.size() });
        };
        self.insert(Service { coming: Some(now), ..Service::new(id, vip, mode, base, capacity) });
        Ok(id)
    }

    /// Takes a service in that stands in the maps already. Tells whether its id and its extent of backends were free.
    pub fn adopt(&mut self, service: Service) -> bool {
        let fits = self.ids.claim(service.id, 1) && self.backends.claim(service.base, service.capacity);
        fits && !self.by_key.contains_key(&service.key) && {
            self.insert(service);
            true
        }
    }

    fn insert(&mut self, service: Service) {
        self.by_key.insert(service.key, service.id);
        self.put(service);
    }

    /// Puts a service in its place, as it is now.
    pub fn put(&mut self, service: Service) {
        let id = service.id;
        self.services.insert(id, service);
        self.note(id);
    }

    /// A service was changed in its place.
    pub fn note(&mut self, id: u32) {
        if self.services.get(&id).is_some_and(Service::is_astir) {
            self.astir.insert(id);
        } else {
            self.astir.remove(&id);
        }
    }

    /// Services that ask for more than to be published.
    pub fn stirring(&self) -> impl Iterator<Item = &Service> {
        self.astir.iter().filter_map(|id| self.services.get(id))
    }

    /// Takes back all places of a service that no packet has been led to.
    pub fn undo(&mut self, id: u32) {
        let Some(service) = self.services.remove(&id) else { return };
        self.astir.remove(&id);
        self.by_key.remove(&service.key);
        self.ids.give_back_unused(id, 1);
        self.backends.give_back_unused(service.base, service.capacity);
        for entry in service.entries.into_iter().flatten() {
            self.stats.give_back_unused(entry.stats, 1);
        }
    }

    /// Takes back the places of a service that is gone; its table has been given back before.
    pub fn remove(&mut self, id: u32, now: Instant) {
        let Some(service) = self.services.remove(&id) else { return };
        self.astir.remove(&id);
        self.by_key.remove(&service.key);
        self.ids.give_back(id, 1, now);
        self.backends.give_back(service.base, service.capacity, now);
    }

    /// Takes an extent of slots for a table.
    pub fn take_table(&mut self, log2_slots: u8, now: Instant) -> Result<TableRef, LayoutError> {
        let len = table_len(log2_slots);
        let base = self.slots.take(len, now).ok_or(LayoutError::Slots { wanted: len, limit: self.slots.size() })?;
        Ok(TableRef::new(base, u32::from(log2_slots)))
    }

    pub fn give_back_table(&mut self, table: TableRef, now: Instant) {
        self.slots.give_back(table.base(), table_len(table.log2_slots() as u8), now);
    }
}

impl Service {
    pub fn new(id: u32, vip: VipAddr, mode: Mode, base: u32, capacity: u32) -> Self {
        Self {
            id,
            key: vip_key(&vip),
            vip,
            name: None,
            mode,
            flags: 0,
            chooses: false,
            ports: (0, 0),
            limits: (0, 0),
            list: 0,
            base,
            capacity,
            table: None,
            position: None,
            entries: vec![None; capacity as usize],
            by_id: HashMap::new(),
            ids: BTreeMap::new(),
            retired: None,
            applied: None,
            moves: Moves::default(),
            coming: None,
            written: None,
        }
    }

    /// Slots are on their way or have just come to rest, flows are remembered for it, or a place is to be given back.
    pub fn is_astir(&self) -> bool {
        let goes = || self.entries.iter().flatten().any(|entry| entry.retired.is_some());
        !self.moves.is_still() || self.flags & ServiceFlags::CHOOSES != 0 || self.retired.is_some() || goes()
    }

    /// Local index of a backend.
    pub fn local(&self, id: &BackendId) -> Option<u16> {
        self.by_id.get(id).copied()
    }

    /// The first local index that is free. `None` = the extent is full.
    pub fn vacant(&self) -> Option<u16> {
        self.entries.iter().position(Option::is_none).and_then(|i| u16::try_from(i).ok())
    }

    /// Puts a backend at a local index.
    pub fn put(&mut self, local: u16, entry: Entry) {
        self.by_id.insert(entry.id, local);
        if let Some(place) = self.entries.get_mut(usize::from(local)) {
            *place = Some(entry);
        }
    }

    /// Takes the backend at a local index away.
    pub fn drop_entry(&mut self, local: u16) -> Option<Entry> {
        let entry = self.entries.get_mut(usize::from(local))?.take()?;
        self.by_id.remove(&entry.id);
        Some(entry)
    }

    /// Places that are free.
    pub fn room(&self) -> usize {
        self.entries.len() - self.by_id.len()
    }

    /// Backends that stand here, with their local index.
    pub fn present(&self) -> impl Iterator<Item = (u16, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(i, e)| Some((u16::try_from(i).ok()?, e.as_ref()?)))
    }
}

/// The capacity of an extent for `backends` backends: a power of two with some room to grow.
pub fn capacity_for(backends: usize) -> Result<u32, LayoutError> {
    let too_many = LayoutError::TooManyBackends { wanted: backends };
    if backends > usize::from(SlotWord::NONE) {
        return Err(too_many);
    }
    let backends = u32::try_from(backends).map_err(|_| too_many)?;
    Ok((backends + backends / 8).next_power_of_two().clamp(MIN_BACKENDS, 1 << 16))
}

/// Slots of an extent for a table.
pub fn table_len(log2_slots: u8) -> u32 {
    1u32.checked_shl(u32::from(log2_slots)).unwrap_or(u32::MAX).max(MIN_SLOTS)
}

/// What a VIP is searched by.
pub fn vip_key(vip: &VipAddr) -> VipKey {
    let (addr, family) = addr_of(vip.addr);
    VipKey { addr, port: vip.port.to_be_bytes(), proto: vip.proto as u8, family: family as u8 }
}

/// What the address of a VIP is searched by where there is no port.
pub fn address_key(key: &VipKey) -> VipKey {
    VipKey { port: [0; 2], proto: 0, ..*key }
}

/// Mixed into the flow hash of a VIP.
pub fn vip_seed(key: &VipKey) -> u64 {
    hash::vip_hash(key, SEED_SEED)
}

/// An address as the maps hold it.
pub fn addr_of(addr: IpAddr) -> (Addr, Family) {
    match addr {
        IpAddr::V4(a) => (Addr::v4(a.octets()), Family::V4),
        IpAddr::V6(a) => (Addr::v6(a.octets()), Family::V6),
    }
}

/// An address from the maps; `None` = `family` is none.
pub fn ip_of(addr: Addr, family: u32) -> Option<IpAddr> {
    match family {
        f if f == Family::V4 as u32 => Some(IpAddr::from(addr.v4_octets())),
        f if f == Family::V6 as u32 => Some(IpAddr::from(addr.0)),
        _ => None,
    }
}

/// Address and port from the maps.
pub fn socket_of(addr: Addr, family: u8, port: [u8; 2]) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip_of(addr, u32::from(family))?, u16::from_be_bytes(port)))
}

/// A source address as the maps hold it.
pub fn source_of(addr: IpAddr) -> NatSource {
    let (addr, family) = addr_of(addr);
    NatSource { addr, family: family as u32, reserved: 0 }
}
