//! When and how the tables are published, compared and called ready.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use mesh_common::abi::FlowRecord;

use super::{
    daemon::Daemon,
    view::{Publications, Readiness},
};
use crate::{
    dataplane::{
        Dataplane, FlowNote, LayoutError,
        net::{Reason, Resolution},
    },
    events::What,
    flow_log::FlowLog,
    health::{Check, Health},
    model::{ServiceName, VipAddr},
};

/// Inputs that come in a burst are published together; far below what anyone notices of a failover.
const BURST: Duration = Duration::from_millis(2);
/// Translated flows are swept, and ...
pub(super) const SWEEP: Duration = Duration::from_secs(1);
/// ... the maps are compared with the plan this often, ...
pub(super) const REPAIR: Duration = Duration::from_secs(30);
/// ... so many services at a time: what is urgent must not wait for it.
const REPAIRED_AT_ONCE: usize = 25;

impl Daemon {
    /// When to publish. The first time waits for sources and next hops, because a table without them forwards nothing.
    pub(super) fn publish_due(&self) -> Option<Instant> {
        let at = self.publish_at?;
        match self.first_lookup {
            Some(limit) if self.unheard_sources() > 0 || !self.all_looked_up() => Some(limit.max(at)),
            _ => Some(at),
        }
    }

    fn all_looked_up(&self) -> bool {
        let mut addrs = self.core.services().values().flat_map(|m| m.endpoints.iter().map(|e| e.id.0.ip()));
        addrs.all(|addr| {
            !matches!(self.resolutions.get(&addr), None | Some(Resolution::NotReady(Reason::Pending | Reason::NeighbourIncomplete { .. })))
        })
    }

    /// Has the tables published a moment later.
    pub(super) fn dirty(&mut self, now: Instant) {
        self.publish_at = Some(self.publish_at.map_or(now + BURST, |at| at.min(now + BURST)));
    }

    /// Plans anew, and tells what that changes.
    pub(super) fn replan(&mut self, now: Instant) {
        let events = self.core.replan(table_seed(self.plane.hash_key()), now);
        self.publications.last_plan_us = micros(now.elapsed());
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// Publishes an order at once, so that its answer says what is so; while the first publication is held back, only plans it.
    pub(super) fn publish_order(&mut self, now: Instant) {
        if self.first_lookup.is_some() {
            self.replan(now);
        } else {
            self.publish(now);
        }
    }

    /// Plans and writes the tables.
    pub(super) fn publish(&mut self, now: Instant) {
        (self.publish_at, self.first_lookup) = (None, None);
        self.replan(now);
        let planned = Instant::now();
        let rerouted = std::mem::take(&mut self.rerouted);
        let published = self.plane.apply_changes(self.core.plan(), &self.resolutions, &rerouted);
        self.publications.count += 1;
        self.publications.last_apply_us = micros(planned.elapsed());
        self.publish_at = self.core.plan().replan_at;
        let Publications { last_plan_us: plan_us, last_apply_us: apply_us, .. } = self.publications;
        if published.ops > 0 {
            self.tell(What::Published { epoch: published.epoch, stores: published.ops, slots: published.slots_written, plan_us, apply_us });
        }
        self.refused(published.refused);
        self.step_later(now);
        self.check_ready();
    }

    /// Takes slots on their way one step further.
    pub(super) fn step(&mut self, now: Instant) {
        let stepped = self.plane.step(self.core.plan(), &self.resolutions);
        self.refused(stepped.refused);
        self.step_later(now);
    }

    fn step_later(&mut self, now: Instant) {
        self.step_at = self.plane.moving().1.then_some(now + Dataplane::STEP);
    }

    /// Tells of services that could not be published, once each.
    fn refused(&mut self, refused: Vec<(ServiceName, LayoutError)>) {
        let before = std::mem::replace(&mut self.refused, refused.into_iter().collect());
        let news: Vec<_> = self.refused.iter().filter(|(name, error)| before.get(*name) != Some(error)).collect();
        let news: Vec<_> = news.into_iter().map(|(name, error)| format!("service {name} is left as it was: {error}")).collect();
        for error in news {
            self.publications.failures += 1;
            self.tell(What::PublishFailed { error });
        }
    }

    /// Goes on with a sweep, part by part while nothing more urgent is to do.
    pub(super) fn sweep(&mut self, now: Instant) {
        let Some(swept) = self.plane.sweep_on(now).transpose() else { return };
        self.sweep_at = now.max(self.sweep_at + SWEEP);
        match swept {
            Ok(report) => {
                self.core.set_live(report.backends.iter().map(|(vip, id, flows)| ((*vip, *id), *flows)).collect());
                self.nat = report;
                self.flows_counted();
                let notes = std::mem::take(&mut self.nat.notes);
                self.log_flows(&notes);
            }
            Err(error) => log::error!("{error}"),
        }
        self.watch_vantage();
        self.watch_drains(now);
        self.weigh(now);
        self.write_memory();
        self.check_ready();
    }

    /// With what the flow log counts.
    pub(super) fn publications_now(&self) -> Publications {
        let (flows_logged, flows_dropped) = self.flow_log.as_ref().map_or((0, 0), FlowLog::counts);
        let flows_lost = self.flow_log.as_ref().and_then(|_| self.plane.flow_log_stats().ok()).map_or(0, |stats| stats.lost);
        Publications { flows_logged, flows_dropped, flows_lost, ..self.publications }
    }

    /// Logs flows that the kernel half told of.
    pub(super) fn flows_began(&self, records: &[FlowRecord]) {
        self.log_flows(&self.plane.flow_notes(records));
    }

    fn log_flows(&self, notes: &[FlowNote]) {
        let Some(log) = self.flow_log.as_ref().filter(|_| !notes.is_empty()) else { return };
        let names: HashMap<VipAddr, &ServiceName> = self.core.services().iter().map(|(name, merged)| (merged.service.vip, name)).collect();
        log.write(notes, |note| names.get(&note.vip).copied(), SystemTime::now());
    }

    pub(super) fn repair(&mut self, now: Instant) {
        let services = self.core.plan().services.len();
        let parts = services.div_ceil(REPAIRED_AT_ONCE).max(1);
        self.repair_at = now + REPAIR / u32::try_from(parts).unwrap_or(u32::MAX);
        if self.publications.count == 0 {
            return;
        }
        // Every publication begins with what the maps say, so one more of the same plan is the comparison.
        let first = if self.repaired < services { self.repaired } else { 0 };
        self.repaired = first + REPAIRED_AT_ONCE;
        let published = self.plane.repair(self.core.plan(), &self.resolutions, first..self.repaired);
        if published.ops > 0 {
            self.publications.repairs += published.ops as u64;
            self.tell(What::Repaired { differences: published.ops });
        }
        self.refused(published.refused);
    }

    /// Readiness is a latch: once reached it stays.
    pub(super) fn check_ready(&mut self) {
        // The last thing before packets are to come: what others know of them. It is taken by the backends that the tables know to be well, so all that is
        // decided has to be in them: else flows of one that is not would be led elsewhere.
        let published = self.publications.count > 0 && self.publish_at.is_none_or(|at| at > Instant::now() + BURST);
        if !self.ready && published && self.plane.is_joining() && self.waiting().is_empty() {
            self.plane.join();
        }
        if !self.ready && self.readiness().ready {
            self.ready = true;
            self.tell(What::Ready);
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        if self.ready {
            return Readiness { ready: true, waiting: Vec::new() };
        }
        let mut waiting = self.waiting();
        if self.plane.is_joining() {
            waiting.push("the slots and flows of the other nodes".to_owned());
        }
        Readiness { ready: waiting.is_empty(), waiting }
    }

    /// What is waited for, but for other nodes.
    fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        if self.publications.count == 0 {
            waiting.push("the first publication of the tables".to_owned());
        }
        let checks = self.core.checks();
        let undecided = self.monitor.snapshot().into_iter().filter(|(key, status)| {
            let judged = Judged { checks: status.checks_done, health: status.health, known: self.core.known_health(key) };
            judged.is_waited_for(checks.get(key))
        });
        let undecided = undecided.count();
        if undecided > 0 {
            waiting.push(format!("the first health checks of {undecided} backends"));
        }
        let unheard = self.unheard_sources();
        if unheard > 0 {
            waiting.push(format!("the first word of {unheard} sources"));
        }
        waiting
    }
}

/// How far a backend's first checks have come.
#[derive(Clone, Copy, Debug)]
struct Judged {
    checks: u64,
    /// By the monitor.
    health: Health,
    /// What the tables are made by.
    known: Health,
}

impl Judged {
    /// Whether its health is still to come, or on its way to us. Who has been asked as often as it takes to judge it either way, and still is not judged, is not
    /// waited for. `check`: `None` = it is not to be asked any more.
    fn is_waited_for(self, check: Option<&Check>) -> bool {
        let enough = check.map_or(1, |check| u64::from(check.rise) + u64::from(check.fall));
        let unheard = check.is_some() && self.health != Health::Unknown && self.known == Health::Unknown;
        unheard || self.checks == 0 || self.health == Health::Unknown && self.checks < enough
    }
}

/// Seed of the tables: as secret as the hash key, and the same wherever that is.
pub(super) fn table_seed(key: [u64; 2]) -> u64 {
    key[0] ^ key[1].rotate_left(32)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CheckKind;

    #[test]
    fn health_is_waited_for_until_the_tables_know_it() {
        use Health::{Down, Unknown, Up};
        let check = Check { rise: 2, fall: 3, ..Check::new(CheckKind::Tcp, ([10, 0, 0, 1], 80).into()) };
        let rows = [
            (0, Unknown, Unknown, true),
            (4, Unknown, Unknown, true),
            (5, Unknown, Unknown, false),
            // Judged, and not told yet: whoever joined others now would lead its flows away.
            (2, Up, Unknown, true),
            (3, Down, Unknown, true),
            (2, Up, Up, false),
            (3, Down, Down, false),
            // What comes later does not hold anybody back.
            (9, Down, Up, false),
        ];
        for (checks, health, known, waited) in rows {
            assert_eq!(
                Judged { checks, health, known }.is_waited_for(Some(&check)),
                waited,
                "{checks} checks, {health:?}, known {known:?}"
            );
        }
        assert!(!Judged { checks: 1, health: Up, known: Unknown }.is_waited_for(None), "its word will not come");
    }
}
