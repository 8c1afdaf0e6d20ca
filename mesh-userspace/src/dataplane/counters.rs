//! Per-CPU counters, summed: a batch of elements by one system call.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::maps::{IterableMap, MapData, PerCpuArray, PerCpuValues};
use bytemuck::{Pod, Zeroable};
use mesh_common::abi::{BackendSignals, BackendStats, FlowLogStats, LedgerStats, REASONS, Reason, ReasonStats, ScheduleStats, map};

use super::{
    error::DataplaneError,
    image::Row,
    layout::{Layout, Service},
    report::{Counters, ServiceCounters},
};
use crate::model::{BackendId, ServiceName};

/// Counters of backends and how handshakes with them went, by service.
pub type BackendRows = Vec<(ServiceName, Vec<(BackendId, BackendStats, BackendSignals)>)>;

/// Elements that are asked for at once.
const CHUNK: u32 = 256;

/// The maps of counters.
pub struct Stats {
    pub reasons: PerCpuArray<MapData, ReasonStats>,
    pub backends: PerCpuArray<MapData, BackendStats>,
    pub ledger: PerCpuArray<MapData, LedgerStats>,
    pub choices: PerCpuArray<MapData, ScheduleStats>,
    pub flows: PerCpuArray<MapData, FlowLogStats>,
}

/// What was counted, since the daemon started, by those that are no more.
#[derive(Debug, Default)]
pub struct Gone {
    /// By the id of a service that still is.
    backends: HashMap<u32, BackendStats>,
    /// Packets of services.
    services: ReasonStats,
}

/// Counters that can be summed.
pub trait Sum: Pod + aya::Pod {
    fn add(&mut self, more: &Self);
}

impl Stats {
    /// All counters.
    pub fn read(&self, layout: &Layout, signals: &Row<BackendSignals>, gone: &Gone) -> Result<Counters, DataplaneError> {
        let last = layout.services.values().flat_map(Service::present).map(|(_, e)| e.stats + 1).max().unwrap_or(0);
        let backends = totals(&self.backends, map::BACKEND_STATS, 0, last)?;
        let of = |stats: u32| backends.get(stats as usize).copied().unwrap_or_default();
        let services: Vec<_> =
            layout.services.values().map(|s| self.service(s, of, signals, gone.backends(s.id))).collect::<Result<_, _>>()?;
        let no_service = self.reasons(0)?;
        let mut rx = gone.services;
        services.iter().flat_map(|s: &ServiceCounters| &s.reasons).chain(&no_service).for_each(|ended| rx.add(ended));
        let ledger = totals(&self.ledger, map::LEDGER_STATS, 0, 1)?.first().copied().unwrap_or_default();
        let choices = totals(&self.choices, map::SCHEDULE_STATS, 0, 1)?.first().copied().unwrap_or_default();
        Ok(Counters { rx, no_service, services, ledger, choices })
    }

    /// Counters of one service.
    pub fn of_service(&self, service: &Service, signals: &Row<BackendSignals>, gone: &Gone) -> Result<ServiceCounters, DataplaneError> {
        let read = |(_, e): (u16, &super::layout::Entry)| Ok((e.stats, totals(&self.backends, map::BACKEND_STATS, e.stats, 1)?));
        let read: HashMap<u32, Vec<BackendStats>> = service.present().map(read).collect::<Result<_, DataplaneError>>()?;
        let of = |stats: u32| read.get(&stats).and_then(|s| s.first()).copied().unwrap_or_default();
        self.service(service, of, signals, gone.backends(service.id))
    }

    /// Records of the flow log.
    pub fn flow_log(&self) -> Result<FlowLogStats, DataplaneError> {
        Ok(totals(&self.flows, map::FLOW_LOG_STATS, 0, 1)?.first().copied().unwrap_or_default())
    }

    /// Counters of backends, by service.
    pub fn backends(&self, layout: &Layout, signals: &Row<BackendSignals>) -> Result<BackendRows, DataplaneError> {
        let last = layout.services.values().flat_map(Service::present).map(|(_, e)| e.stats + 1).max().unwrap_or(0);
        let all = totals(&self.backends, map::BACKEND_STATS, 0, last)?;
        let of = |stats: u32| all.get(stats as usize).copied().unwrap_or_default();
        let rows = |s: &Service| s.present().map(|(_, e)| (e.id, of(e.stats), signals.get(e.stats as usize))).collect();
        Ok(layout.services.values().filter_map(|s| Some((s.name.clone()?, rows(s)))).collect())
    }

    /// Counts a backend from zero on; what it has counted is kept as that of one that is gone.
    pub fn clear_backend(&mut self, service: u32, index: u32, gone: &mut Gone) -> Result<(), DataplaneError> {
        let last = totals(&self.backends, map::BACKEND_STATS, index, 1)?;
        last.iter().for_each(|last| gone.backends.entry(service).or_default().add(last));
        clear(&mut self.backends, map::BACKEND_STATS, [index])
    }

    /// Packets that a backend was sent so far, by the index of its counters.
    pub fn sent_to(&self, index: u32) -> Result<u64, DataplaneError> {
        let all = totals(&self.backends, map::BACKEND_STATS, index, 1)?;
        Ok(all.iter().map(|stats: &BackendStats| stats.tx + stats.redirect).sum())
    }

    /// Counts a service from zero on, whose backends are gone.
    pub fn clear_service(&mut self, id: u32, gone: &mut Gone) -> Result<(), DataplaneError> {
        let [forwarded, replied] = sent(&gone.backends.remove(&id).unwrap_or_default());
        self.reasons(id)?.iter().chain([&forwarded, &replied]).for_each(|ended| gone.services.add(ended));
        clear(&mut self.reasons, map::REASON_STATS, id * REASONS..(id + 1) * REASONS)
    }

    fn service(
        &self,
        service: &Service,
        of: impl Fn(u32) -> BackendStats,
        signals: &Row<BackendSignals>,
        gone: BackendStats,
    ) -> Result<ServiceCounters, DataplaneError> {
        let backends: Vec<_> = service.present().map(|(_, e)| (e.id, of(e.stats))).collect();
        let signals = service.present().map(|(_, e)| signals.get(e.stats as usize)).collect();
        let mut total = gone;
        backends.iter().for_each(|(_, b)| total.add(b));
        let mut reasons = self.reasons(service.id)?;
        let [forwarded, replied] = sent(&total);
        reasons[Reason::Forwarded as usize].add(&forwarded);
        reasons[Reason::Replied as usize].add(&replied);
        Ok(ServiceCounters { name: service.name.clone(), vip: service.vip, reasons, backends, signals, gone })
    }

    fn reasons(&self, id: u32) -> Result<[ReasonStats; Reason::ALL.len()], DataplaneError> {
        let read = totals(&self.reasons, map::REASON_STATS, id * REASONS, Reason::ALL.len() as u32)?;
        let mut reasons = [ReasonStats::default(); Reason::ALL.len()];
        reasons.iter_mut().zip(read).for_each(|(r, read)| *r = read);
        Ok(reasons)
    }
}

impl Gone {
    fn backends(&self, service: u32) -> BackendStats {
        self.backends.get(&service).copied().unwrap_or_default()
    }
}

/// What backends have counted, as reasons: sent to them, and answered by them.
fn sent(stats: &BackendStats) -> [ReasonStats; 2] {
    [
        ReasonStats { packets: stats.tx + stats.redirect, bytes: stats.bytes },
        ReasonStats { packets: stats.reply_tx + stats.reply_redirect, bytes: stats.reply_bytes },
    ]
}

/// Sums over the CPUs of `count` elements from `first` on; fewer at the end of the map.
pub fn totals<T: Sum>(map: &PerCpuArray<MapData, T>, name: &'static str, first: u32, count: u32) -> Result<Vec<T>, DataplaneError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| DataplaneError::System { what: "count the CPUs", source })?;
    let mut totals = Vec::with_capacity(count as usize);
    while (totals.len() as u32) < count {
        let at = first + totals.len() as u32;
        let wanted = (count - totals.len() as u32).min(CHUNK);
        let values = batch::<T>(map.map().fd().as_fd(), at, wanted, cpus)
            .map_err(|source| DataplaneError::System { what: reading(name), source })?;
        if values.is_empty() {
            break;
        }
        totals.extend(values.chunks_exact(cpus).map(|per_cpu| {
            let mut total = T::zeroed();
            per_cpu.iter().for_each(|v| total.add(v));
            total
        }));
    }
    Ok(totals)
}

fn reading(name: &'static str) -> &'static str {
    match name {
        map::REASON_STATS => "read map REASON_STATS",
        map::LEDGER_STATS => "read map LEDGER_STATS",
        map::FLOW_LOG_STATS => "read map FLOW_LOG_STATS",
        _ => "read map BACKEND_STATS",
    }
}

/// `union bpf_attr` of the batch commands (linux/bpf.h).
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The values of `count` elements from `first` on, those of all CPUs one after the other.
fn batch<T: Pod>(fd: BorrowedFd<'_>, first: u32, count: u32, cpus: usize) -> io::Result<Vec<T>> {
    const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    // A batch begins behind the key that it is given.
    let before = first.wrapping_sub(1);
    let mut last = 0u32;
    let mut keys = vec![0u32; count as usize];
    let mut values = vec![T::zeroed(); count as usize * cpus];
    let mut attr = BatchAttr {
        in_batch: if first == 0 { 0 } else { &raw const before as u64 },
        out_batch: &raw mut last as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: fd.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `attr` is the batch form of bpf_attr and as large as it says. The kernel reads 4 bytes at `in_batch`, and writes 4 at
    // `out_batch`, up to `count` keys of 4 bytes, and up to `count` values of `cpus` times the value's size rounded up to 8, which is
    // `size_of::<T>()`: what the three buffers hold. They outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if done < 0 {
        let e = io::Error::last_os_error();
        // The end of the map; `count` says how many there were.
        if e.raw_os_error() != Some(libc::ENOENT) {
            return Err(e);
        }
    }
    values.truncate(attr.count.min(count) as usize * cpus);
    Ok(values)
}

fn clear<T: Sum>(
    map: &mut PerCpuArray<MapData, T>,
    name: &'static str,
    indices: impl IntoIterator<Item = u32>,
) -> Result<(), DataplaneError> {
    let failed = |source| DataplaneError::Map { name, source };
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| DataplaneError::System { what: "count the CPUs", source })?;
    indices.into_iter().try_for_each(|index| {
        let zero =
            PerCpuValues::try_from(vec![T::zeroed(); cpus]).map_err(|source| DataplaneError::System { what: "clear counters", source })?;
        map.set(index, zero, 0).map_err(failed)
    })
}

impl Sum for ReasonStats {
    fn add(&mut self, more: &Self) {
        self.packets = self.packets.wrapping_add(more.packets);
        self.bytes = self.bytes.wrapping_add(more.bytes);
    }
}

impl Sum for FlowLogStats {
    fn add(&mut self, more: &Self) {
        self.told = self.told.wrapping_add(more.told);
        self.lost = self.lost.wrapping_add(more.lost);
    }
}

impl Sum for ScheduleStats {
    fn add(&mut self, more: &Self) {
        self.chosen = self.chosen.wrapping_add(more.chosen);
        self.affine = self.affine.wrapping_add(more.affine);
        self.full = self.full.wrapping_add(more.full);
        self.lost = self.lost.wrapping_add(more.lost);
    }
}

impl Sum for LedgerStats {
    fn add(&mut self, more: &Self) {
        self.remembered = self.remembered.wrapping_add(more.remembered);
        self.refused = self.refused.wrapping_add(more.refused);
        self.elsewhere = self.elsewhere.wrapping_add(more.elsewhere);
    }
}

impl Sum for BackendStats {
    fn add(&mut self, more: &Self) {
        let Self { tx, redirect, bytes, reply_tx, reply_redirect, reply_bytes, flows, client_resets, backend_resets } = more;
        let pairs = [
            (&mut self.tx, tx),
            (&mut self.redirect, redirect),
            (&mut self.bytes, bytes),
            (&mut self.reply_tx, reply_tx),
            (&mut self.reply_redirect, reply_redirect),
            (&mut self.reply_bytes, reply_bytes),
            (&mut self.flows, flows),
        ];
        self.client_resets = self.client_resets.wrapping_add(*client_resets);
        self.backend_resets = self.backend_resets.wrapping_add(*backend_resets);
        pairs.into_iter().for_each(|(total, more)| *total = total.wrapping_add(*more));
    }
}
