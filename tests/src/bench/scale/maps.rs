//! The kernel's maps as they are pinned, read by one who is not the daemon.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use mesh::dataplane::image::Row;
use mesh_common::abi::{Addr, Backend, BackendState, SlotWord, Table, Vip, VipKind, map};

use crate::mapped::pinned;

pub struct Maps {
    vips: Row<Vip>,
    slots: Row<SlotWord>,
    backends: Row<Backend>,
    pins: PathBuf,
}

/// One backend of one service.
pub struct Watched {
    /// Its entry in the map of backends, and within its service.
    entry: usize,
    local: u16,
    /// The service's slots.
    base: u32,
    len: usize,
}

impl Maps {
    pub fn open(pins: &Path) -> Result<Self> {
        Ok(Self {
            vips: pinned(pins, Table::Vips)?,
            slots: pinned(pins, Table::Slots)?,
            backends: pinned(pins, Table::Backends)?,
            pins: pins.to_owned(),
        })
    }

    /// So many services are found, and so many backends are known with the way to them.
    pub fn are_complete(&self, services: usize, backends: usize) -> bool {
        let ready = |at: &usize| self.backends.get(*at).flags & Backend::READY != 0;
        let found = |at: &usize| {
            let vip = self.vips.get(*at);
            vip.kind == VipKind::Service as u8 && vip.table.log2_slots() <= 32
        };
        // The later entries are written last.
        (0..self.backends.len()).filter(ready).take(backends).count() == backends
            && (0..self.vips.len()).filter(found).take(services).count() == services
    }

    /// Finds a backend of a service.
    pub fn watch(&self, vip: Ipv4Addr, backend: Ipv4Addr) -> Result<Watched> {
        let key = Addr::v4(vip.octets());
        let service = (0..self.vips.len()).map(|at| self.vips.get(at)).find(|v| v.addr == key && v.kind == VipKind::Service as u8);
        let service = service.with_context(|| format!("no service {vip} is published"))?;
        let key = Addr::v4(backend.octets());
        let base = service.backend_base as usize;
        let entry = (base..base + 64).find(|at| self.backends.get(*at).addr == key);
        let entry = entry.with_context(|| format!("no backend {backend} is published"))?;
        let len = 1 << service.table.log2_slots();
        let watched = Watched { entry, local: (entry - base) as u16, base: service.table.base(), len };
        ensure!(watched.owned(self) > 0, "{backend} has no slots to lose");
        Ok(watched)
    }

    /// Bytes that all maps take in the kernel, as it accounts for them.
    pub fn bytes(&self) -> Result<u64> {
        let names = [
            Table::Config.name(),
            Table::Vips.name(),
            Table::Services.name(),
            Table::Slots.name(),
            Table::Backends.name(),
            Table::NatIndex.name(),
            Table::NatFlows.name(),
            Table::NatGauges.name(),
            Table::BackendSignals.name(),
            map::BACKEND_STATS,
            map::REASON_STATS,
        ];
        names.iter().map(|name| charged(&self.pins.join(name))).sum()
    }
}

impl Watched {
    /// Waits, without rest, until the backend takes no new flows and owns no slot.
    pub fn until_left(&self, maps: &Maps, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let takes_new = || BackendState::from_u8(maps.backends.get(self.entry).state).takes_new();
        while takes_new() || self.owned(maps) > 0 {
            ensure!(begun.elapsed() < limit, "the drain was not published within {limit:?}");
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    fn owned(&self, maps: &Maps) -> usize {
        maps.slots.table(self.base, self.len).filter(|slot| slot.target() == self.local).count()
    }
}

/// Bytes of a pinned map, as the kernel accounts for them.
pub fn charged(pin: &Path) -> Result<u64> {
    let data = MapData::from_pin(pin).with_context(|| format!("failed to open {}", pin.display()))?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd()))?;
    let line = text.lines().find_map(|l| l.strip_prefix("memlock:")).context("the kernel does not say what a map takes")?;
    Ok(line.trim().parse()?)
}
