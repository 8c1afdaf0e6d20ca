//! Beginnings of flows that nobody translates, as the kernel half tells them through a ring.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    io,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use mesh_common::abi::FlowRecord;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    flow_watch::{FlowChange, FlowNote},
    layout::{Layout, socket_of},
};

/// Records that are taken at once: a millisecond's work, for which what is more urgent can wait.
const AT_ONCE: usize = 512;

/// The far end of the ring.
#[derive(Debug)]
pub struct FlowRecords(AsyncFd<Ring>);

struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl FlowRecords {
    /// Needs a tokio runtime with IO.
    pub(super) fn watch(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its map's descriptor, and gives out that one for as long as it lives; here it lives until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) };
        ring.map(Self).map_err(|e| e.into_parts().1)
    }

    /// Waits for records. Cancel safe: they stay in the ring until they are taken, which waits for nothing.
    pub async fn next(&mut self) -> Vec<FlowRecord> {
        loop {
            // An error means that the runtime ends.
            let Ok(mut ready) = self.0.readable_mut().await else { return pending().await };
            let records = ready.get_inner_mut().take();
            if records.len() < AT_ONCE {
                ready.clear_ready();
            }
            if !records.is_empty() {
                return records;
            }
        }
    }
}

impl Ring {
    fn take(&mut self) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        while records.len() < AT_ONCE
            && let Some(item) = self.0.next()
        {
            records.extend(bytemuck::try_pod_read_unaligned::<FlowRecord>(&item).ok());
        }
        records
    }
}

impl std::os::fd::AsRawFd for Ring {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// What records say, by who has which place. `now`: nanoseconds of the clock that they are stamped by. What names a place that nobody has any more is left out.
pub fn notes(records: &[FlowRecord], layout: &Layout, now: u64) -> Vec<FlowNote> {
    let concerned: HashSet<u32> = records.iter().map(|r| r.service).collect();
    let services = concerned.iter().filter_map(|id| layout.services.get(id));
    let backends: HashMap<(u32, u32), _> =
        services.flat_map(|s| s.present().map(move |(_, entry)| ((s.id, entry.stats), (s, entry.id)))).collect();
    let note = |record: &FlowRecord| {
        let (service, backend) = *backends.get(&(record.service, record.stats))?;
        Some(FlowNote {
            change: FlowChange::Opened,
            vip: service.vip,
            mode: service.mode,
            backend,
            client: socket_of(record.client, record.family, record.client_port)?,
            port: u16::from_be_bytes(record.port),
            source_port: None,
            ago: Duration::from_nanos(now.saturating_sub(record.time)),
            lasted: None,
        })
    };
    records.iter().filter_map(note).collect()
}

/// Now, by the clock of the records.
pub fn nanoseconds() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
