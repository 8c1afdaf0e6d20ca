//! What the kernel half has counted of backends, handed on to the health checks: the passive channel.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh_common::abi::{BackendSignals, BackendStats};
use nix::time::{ClockId, clock_gettime};

use super::{daemon::Daemon, merge::Merged};
use crate::{
    dataplane::net::{Reason, Resolution},
    events::What,
    health::{Traffic, breaker::Counted},
    model::{BackendId, Mode, Proto},
};

/// Counters are read this often, ...
const OBSERVE: Duration = Duration::from_millis(10);
/// ... but reading takes no more than this part of a core.
const PART: u32 = 20;

impl Daemon {
    /// When to read counters; `None` while no service wants to know.
    pub(super) fn observe_due(&self) -> Option<Instant> {
        let roll = self.core.roll();
        (!roll.observed.is_empty() || !roll.guarded.is_empty()).then_some(self.observe_at)
    }

    pub(super) fn observe(&mut self, now: Instant) {
        let begun = cpu_time();
        let flows: HashMap<_, u64> = self.nat.backends.iter().map(|(vip, id, flows)| ((*vip, *id), *flows)).collect();
        match self.plane.backend_stats() {
            Ok(services) => {
                self.guard(&services, now);
                for (name, rows) in services {
                    let Some(merged) = self.core.services().get(&name).filter(|m| observed(m)) else { continue };
                    let live = |id: BackendId| flows.get(&(merged.spec.vip, id)).copied().unwrap_or(0);
                    let nat = merged.spec.mode == Mode::Nat;
                    let replies = replies(merged.spec.mode);
                    let traffic = |(id, s, h): (BackendId, BackendStats, BackendSignals)| {
                        let course = counted(&s, &h, nat);
                        if replies {
                            let replied = course.replies;
                            Traffic { backend: id, sent: s.tx.wrapping_add(s.redirect), replied, flows: live(id), course }
                        } else {
                            // The client's ACK of a handshake shows as much; each is of another flow. Of few flows it is drawn whether they are watched, but
                            // each new one asks: else the clock would rest while all that comes to a silent backend is not watched by chance.
                            Traffic { backend: id, sent: course.flows, replied: course.done, flows: u64::MAX, course }
                        }
                    };
                    let rows: Vec<_> = rows.into_iter().map(traffic).collect();
                    self.monitor.traffic(&name, &rows);
                }
            }
            Err(error) => log::debug!("{error}"),
        }
        self.observe_at = Instant::now() + OBSERVE.max(cpu_time().saturating_sub(begun) * PART);
    }

    /// Tells once when nobody answers any more, and once when somebody does again.
    pub(super) fn watch_vantage(&mut self) {
        let blind = self.monitor.is_blind();
        if std::mem::replace(&mut self.blind, blind) != blind {
            self.tell(What::Vantage { blind });
        }
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

/// What this thread has computed so far: who waits for a core has taken nothing.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// What its backends' traffic does counts: where replies don't come by us, that is how handshakes go.
pub(super) fn observed(merged: &Merged) -> bool {
    let told = replies(merged.spec.mode) || merged.spec.vip.proto == Proto::Tcp;
    told && merged.service.check.as_ref().is_some_and(|check| check.counts_traffic())
}

/// Replies of backends come by us.
fn replies(mode: Mode) -> bool {
    match mode {
        Mode::Nat | Mode::Dnat => true,
        Mode::Dsr | Mode::Tunnel => false,
    }
}

/// What is counted of a backend's flows. `nat`: answers come by us with all that is known of their flow.
pub(super) fn counted(stats: &BackendStats, signals: &BackendSignals, nat: bool) -> Counted {
    let (answered, accepted) = signals.handshakes();
    Counted {
        flows: stats.flows,
        replies: stats.reply_tx.wrapping_add(stats.reply_redirect),
        resets: stats.backend_resets,
        drawn: signals.sampled,
        done: if nat { answered } else { accepted },
        retransmits: signals.syn_retransmits,
    }
}
