//! What the kernel half has counted of backends, handed on to the health checks: the passive channel.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{breaking::guarded, daemon::Daemon, merge::Merged};
use crate::{
    dataplane::net::{Reason, Resolution},
    health::Traffic,
    model::{BackendId, Mode},
};

/// Counters are read this often, ...
const OBSERVE: Duration = Duration::from_millis(10);
/// ... but reading takes no more than this part of the time.
const PART: u32 = 20;

impl Daemon {
    /// When to read counters; `None` while no service wants to know.
    pub(super) fn observe_due(&self) -> Option<Instant> {
        self.core.services().values().any(|m| observed(m) || guarded(m)).then_some(self.observe_at)
    }

    pub(super) fn observe(&mut self, now: Instant) {
        let flows: HashMap<_, u64> = self.nat.backends.iter().map(|(vip, id, flows)| ((*vip, *id), *flows)).collect();
        match self.plane.backend_stats() {
            Ok(services) => {
                self.guard(&services, now);
                for (name, rows) in services {
                    let Some(merged) = self.core.services().get(&name).filter(|m| observed(m)) else { continue };
                    let live = |id: BackendId| flows.get(&(merged.spec.vip, id)).copied().unwrap_or(0);
                    let traffic = |(id, s, _): (BackendId, mesh_common::abi::BackendStats, mesh_common::abi::BackendSignals)| Traffic {
                        backend: id,
                        sent: s.tx.wrapping_add(s.redirect),
                        replied: s.reply_tx.wrapping_add(s.reply_redirect),
                        flows: live(id),
                    };
                    let rows: Vec<_> = rows.into_iter().map(traffic).collect();
                    self.monitor.traffic(&name, &rows);
                }
            }
            Err(error) => log::debug!("{error}"),
        }
        self.observe_at = now + OBSERVE.max(now.elapsed() * PART);
    }

    /// Tells the health checks which neighbours are gone.
    pub(super) fn tell_neighbours(&self) {
        let failed = |(addr, resolution): (&IpAddr, &Resolution)| match resolution {
            Resolution::NotReady(Reason::NeighbourFailed { .. }) => Some(*addr),
            _ => None,
        };
        let failed: BTreeSet<_> = self.resolutions.iter().filter_map(failed).collect();
        self.monitor.failed_neighbours(&failed);
    }
}

/// Replies of its backends come by us, and their absence counts.
fn observed(merged: &Merged) -> bool {
    let replies = match merged.spec.mode {
        Mode::Nat | Mode::Dnat => true,
        Mode::Dsr | Mode::Tunnel => false,
    };
    replies && merged.service.check.as_ref().is_some_and(|check| check.counts_traffic())
}
