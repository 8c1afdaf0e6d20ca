//! Breakers and limits as the daemon carries them out: what was counted of each backend to the wards, and what they let through to the plan.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use mesh_common::abi::{BackendSignals, BackendStats, Mode};

use super::{
    core::Core,
    daemon::Daemon,
    health_view::{BreakerView, LimitView},
    merge::Merged,
    observing::counted,
};
use crate::{
    dataplane::BackendRows,
    events::{Grounds, millis},
    health::{
        Health, TargetKey,
        breaker::{Case, Full, Gate, Row, Ward},
    },
    model::{BackendId, ConnectionLimits, ServiceName, VipAddr},
    plan::ServicePlan,
};

/// What the daemon knows for the sake of breakers and limits.
#[derive(Debug, Default)]
pub struct Breaking {
    wards: BTreeMap<ServiceName, Ward>,
    /// Checks that were taken in, by target.
    heard: BTreeMap<TargetKey, u64>,
    /// Flows begun when the flows that are open were counted last, and those.
    counted: HashMap<(VipAddr, BackendId), (u64, u64)>,
}

/// Something depends on what its backends' flows do.
pub(super) fn guarded(merged: &Merged) -> bool {
    let limited = || merged.endpoints.iter().any(|e| !merged.limits(e).is_none());
    merged.service.breaker.is_some() || limited()
}

impl Core {
    /// Takes in what breakers and limits let through; `grounds`: of those that have just changed. True if something has.
    pub fn set_gates(&mut self, gates: BTreeMap<ServiceName, BTreeMap<BackendId, Gate>>, grounds: Vec<(TargetKey, Grounds)>) -> bool {
        grounds.iter().for_each(|(key, _)| self.stale.service(&key.service));
        // Also those that have no breaker any more.
        self.gates.keys().filter(|name| !gates.contains_key(*name)).for_each(|name| self.stale.service(name));
        self.gate_grounds.extend(grounds);
        let changed = self.gates != gates;
        self.gates = gates;
        changed
    }
}

impl Daemon {
    /// Takes in what the kernel half has counted. To be called every few milliseconds.
    pub(super) fn guard(&mut self, services: &BackendRows, now: Instant) {
        let mut breaking = std::mem::take(&mut self.breaking);
        let wanted = &self.core.roll().guarded;
        let gone = breaking.wards.len();
        breaking.wards.retain(|name, _| wanted.contains(name));
        breaking.heard.retain(|key, _| wanted.contains(&key.service));
        let mut changed = breaking.wards.len() != gone;
        let mut grounds = Vec::new();
        for (name, rows) in services.iter().filter(|(name, _)| wanted.contains(name)) {
            let Some(merged) = self.core.services().get(name) else { continue };
            let Some(plan) = self.core.plan().service(name) else { continue };
            let rows: Vec<_> = rows.iter().filter_map(|row| self.row(&mut breaking, merged, plan, row)).collect();
            let ward = breaking.wards.entry(name.clone()).or_default();
            ward.rule(merged.service.breaker, merged.spec.mode == Mode::Nat);
            for (backend, news) in ward.step(now, &rows) {
                changed = true;
                grounds.push((TargetKey { service: name.clone(), backend }, Grounds::of_gate(&news)));
            }
        }
        if changed {
            let gates: BTreeMap<ServiceName, BTreeMap<BackendId, Gate>> =
                breaking.wards.iter().map(|(name, ward)| (name.clone(), ward.gates())).filter(|(_, gates)| !gates.is_empty()).collect();
            if self.core.set_gates(gates, grounds) {
                self.dirty(now);
            }
        }
        self.breaking = breaking;
    }

    /// Flows were counted; between one count and the next, those that begin are added.
    pub(super) fn flows_counted(&mut self) {
        self.breaking.counted.clear();
    }

    /// How a backend's breaker stands; `None` where there is none.
    pub(super) fn breaker_view(&self, service: &ServiceName, id: &BackendId, now: Instant) -> Option<BreakerView> {
        let ward = self.breaking.wards.get(service)?;
        let (rules, case) = (ward.rules()?, ward.case(id)?);
        let breaker = case.breaker();
        let millis = |at: Instant| millis(at.saturating_duration_since(now));
        Some(BreakerView { state: breaker.circuit(), next_ms: breaker.until(rules).map(millis), reading: *case.reading() })
    }

    /// What limits a backend has, and how it stands with them.
    pub(super) fn limit_view(&self, service: &ServiceName, id: &BackendId) -> Option<LimitView> {
        let merged = self.core.services().get(service)?;
        let endpoint = merged.endpoints.get(merged.endpoints.binary_search_by_key(id, |e| e.id).ok()?)?;
        let ConnectionLimits { connections, rate } = merged.limits(endpoint);
        if connections.is_none() && rate.is_none() {
            return None;
        }
        let case = self.breaking.wards.get(service).and_then(|w| w.case(id));
        Some(LimitView {
            max_connections: connections,
            max_connection_rate: rate,
            connections: case.and_then(Case::open),
            reached: case.and_then(Case::full).as_ref().map(Full::to_string),
        })
    }

    fn row(
        &self,
        breaking: &mut Breaking,
        merged: &Merged,
        plan: &ServicePlan,
        (id, stats, signals): &(BackendId, BackendStats, BackendSignals),
    ) -> Option<Row> {
        let member = plan.members.get(plan.members.binary_search_by_key(id, |m| m.id).ok()?)?;
        let endpoint = merged.endpoints.get(merged.endpoints.binary_search_by_key(id, |e| e.id).ok()?)?;
        let nat = merged.spec.mode == Mode::Nat;
        let counted = counted(stats, signals, nat);
        let place = (merged.spec.vip, *id);
        let open = nat.then(|| {
            let at_sweep = self.nat.open.get(&place).map_or(0, |o| o.flows);
            let (begun, open) = *breaking.counted.entry(place).or_insert((stats.flows, at_sweep));
            // Those that have ended since then are counted with the next sweep.
            open + stats.flows.saturating_sub(begun)
        });
        let key = TargetKey { service: merged.spec.name.clone(), backend: *id };
        let latency = merged.service.breaker.and_then(|rules| rules.latency).and_then(|_| {
            let status = self.monitor.status(&key)?;
            let news = breaking.heard.insert(key.clone(), status.checks_done) != Some(status.checks_done);
            status.last_rtt.filter(|_| news && status.last_error.is_none() && status.health != Health::Unknown)
        });
        Some(Row {
            id: *id,
            counted,
            open,
            limits: merged.limits(endpoint),
            latency: latency.map(|rtt| rtt.as_secs_f64()),
            weight: member.configured.0.into(),
            serves: member.takes_new() || member.standing == crate::plan::Standing::Full,
        })
    }
}
