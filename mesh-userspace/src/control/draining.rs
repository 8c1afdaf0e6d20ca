//! Drains as the daemon carries them out: counts to each, and what is due to the data plane.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use mesh_common::abi::{BackendStats, Mode};

use super::{
    daemon::Daemon,
    drains::{Count, Drain, DrainEnd, DrainOrder, DrainView, Due},
    merge::Merged,
    view::Admin,
};
use crate::{
    events::{What, millis, unix_ms},
    model::{BackendId, Scheduler, ServiceName, VipAddr},
};

impl Daemon {
    /// Looks how each drain goes, and does what is due. To be called after each sweep.
    pub(super) fn watch_drains(&mut self, now: Instant) {
        self.find_drains(now);
        if self.drains.values().all(|d| d.ended.is_some()) {
            return;
        }
        // Services without a drain are not read: there may be thousands.
        let drained = self.drains.iter().filter(|(_, drain)| drain.ended.is_none());
        let vips: HashSet<VipAddr> = drained.filter_map(|((service, _), _)| Some(self.core.services().get(service)?.spec.vip)).collect();
        let counted = vips.into_iter().filter_map(|vip| self.plane.service_counters(vip).ok()?);
        let stats: HashMap<(VipAddr, BackendId), BackendStats> =
            counted.flat_map(|s| s.backends.into_iter().map(move |(id, stats)| ((s.vip, id), stats))).collect();
        let journeys = self.plane.journeys();
        // From a slot that is led to one backend alone all others' flows are remembered one by one: they may be anybody's.
        let waits = |vip: VipAddr, id: BackendId| -> u32 {
            let of = journeys.iter().filter(|j| j.vip == vip && (j.from == Some(id) || j.from == j.to));
            of.map(|j| j.slots).sum()
        };
        let idle = self.core.config().ledger.idle;
        let clock = SystemTime::now();
        let mut due = Vec::new();
        for (key, drain) in &mut self.drains {
            let Some(merged) = self.core.services().get(&key.0) else { continue };
            let (vip, id) = (merged.spec.vip, key.1);
            let open = self.nat.open.get(&(vip, id)).copied().unwrap_or_default();
            let stats = stats.get(&(vip, id)).copied().unwrap_or_default();
            let count = Count {
                open: (merged.spec.mode == Mode::Nat || chooses(merged)).then_some(open.flows),
                quiet: open.quiet,
                oldest: open.oldest,
                slots: waits(vip, id),
                // Connections that are found by their ids have no slots.
                silence: merged.spec.ways.quic.map_or(Duration::ZERO, |_| idle),
                packets: stats.tx + stats.redirect,
                begun: stats.flows,
            };
            let what = drain.step(count, now, unix_ms(clock));
            let took_ms = millis(drain.took(now, clock));
            due.push((key.clone(), what, count.open, took_ms));
        }
        for (key, what, left, took_ms) in due {
            self.carry_out(key, what, (left, took_ms), now);
        }
    }

    pub(super) fn drain_views(&self, now: Instant) -> Vec<DrainView> {
        let clock = SystemTime::now();
        self.drains.iter().map(|(key, drain)| drain.view(key, now, clock)).collect()
    }

    /// Begins to watch what the operator drains, and ends what is not drained any more.
    fn find_drains(&mut self, now: Instant) {
        let mut wanted: HashMap<(ServiceName, BackendId), (Option<String>, DrainOrder)> = HashMap::new();
        for (service, changes) in &self.core.state().backends {
            let Some(merged) = self.core.services().get(service) else { continue };
            for (id, change) in changes.iter().filter(|(id, c)| c.admin == Admin::Drain && merged.has(id)) {
                let Some(order) = change.drain else { continue };
                let name = merged.endpoints.iter().find(|e| e.id == *id).and_then(|e| e.name.clone());
                wanted.insert((service.clone(), *id), (name, order));
            }
        }
        for (key, drain) in self.drains.iter_mut().filter(|(key, _)| !wanted.contains_key(*key)) {
            let there = self.core.services().get(&key.0).is_some_and(|m| m.has(&key.1));
            drain.end(if there { DrainEnd::Undrained } else { DrainEnd::Removed }, now);
        }
        self.drains.retain(|_, drain| !drain.is_forgotten(now));
        for (key, (name, order)) in wanted {
            // A new order begins anew.
            if self.drains.get(&key).is_none_or(|d| d.order != order) {
                self.drains.insert(key, Drain::new(name, order, now));
            }
        }
    }

    fn carry_out(&mut self, key: (ServiceName, BackendId), due: Due, told: (Option<u64>, u64), now: Instant) {
        let (service, backend) = key;
        let (flows_left, took_ms) = told;
        let how = match due {
            Due::Nothing => return,
            Due::Overdue => return self.tell(What::DrainOverdue { service, backend, flows_left }),
            Due::Empty => DrainEnd::Empty,
            Due::Cut => {
                // Entries stay: by them the kernel half answers who goes on.
                if let Some(order) = self.core.cut_off(&service, backend)
                    && let Some(drain) = self.drains.get_mut(&(service.clone(), backend))
                {
                    drain.order = order;
                }
                self.publish_and_save(now);
                DrainEnd::Cut
            }
            Due::Remove => {
                if let Err(error) = self.core.remove_backend(&service, backend) {
                    return log::error!("{service}: the drained backend {backend} can't be removed: {error}");
                }
                self.publish_and_save(now);
                DrainEnd::Removed
            }
        };
        self.tell(What::DrainEnded { service, backend, how, flows_left, took_ms });
    }

    fn publish_and_save(&mut self, now: Instant) {
        self.act();
        self.dirty(now);
        self.save(Box::new(|result| {
            if let Err(error) = result {
                log::error!("{error}");
            }
        }));
    }
}

/// Each flow has an entry because its backend was chosen as it began.
fn chooses(merged: &Merged) -> bool {
    merged.spec.ways.choosing.scheduler != Scheduler::default()
}
