//! Heartbeats that backends send themselves: who has one, until when it holds, and what follows from its absence.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    core::Core,
    daemon::Daemon,
    error::ControlError,
    handle::BackendSpec,
    merge::Merged,
    orders,
    view::{Beat, BeatView},
};
use crate::{
    config::{Heartbeat, words::Span},
    discovery::{SourceKey, Update},
    events::{Grounds, millis},
    health::{Health, TargetKey},
    model::{BackendId, ServiceName},
    plan::Seen,
    state::Presence,
};

/// Name of what registers itself, among the sources of a service.
const SOURCE: &str = "heartbeat";
/// A backend may ask for a time to live of its own within these.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_hours(24);

/// The heartbeat of one backend.
#[derive(Clone, PartialEq, Debug)]
pub struct Lease {
    /// It holds until then.
    until: Instant,
    ttl: Duration,
    /// When the last beat came; `None` = it holds for a while after a start, until the first one comes.
    last: Option<Instant>,
    /// How loaded the backend says it is: 1 = it has as much to do as it can.
    load: Option<f64>,
    health: Health,
    back_since: Option<Instant>,
}

/// What a heartbeat has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Beaten {
    /// A backend has come or gone by it.
    pub registered: bool,
    /// Something has to be published.
    pub changed: bool,
}

/// Where backends of a service are kept that registered themselves.
pub fn source_key(service: &ServiceName) -> SourceKey {
    SourceKey { service: service.clone(), source: SOURCE.to_owned() }
}

/// Whether this is such a place, and the service allows it.
pub fn is_place(key: &SourceKey, merged: &Merged) -> bool {
    key.source == SOURCE && merged.service.heartbeat.is_some_and(|h| h.register)
}

impl Core {
    /// Takes in a heartbeat.
    pub fn beat(&mut self, service: &ServiceName, id: BackendId, beat: &Beat, now: Instant) -> Result<Beaten, ControlError> {
        let rules = self.heartbeat_of(service)?;
        let ttl = beat.ttl.map_or(rules.ttl, |Span(ttl)| ttl);
        if !TTL.contains(&ttl) {
            return Err(ControlError::Invalid(format!("a time to live of {} is out of range: write 50ms to 1d", Span(ttl))));
        }
        if beat.load.is_some_and(|load| !load.is_finite() || load < 0.0) {
            return Err(ControlError::Invalid("`load` is a number from 0 on; 1 = as much to do as it can".to_owned()));
        }
        let registered = !self.find(service)?.has(&id);
        if registered {
            self.register(service, id, beat, rules)?;
        }
        let health = if beat.failing { Health::Down } else { Health::Up };
        let key = TargetKey { service: service.clone(), backend: id };
        let before = self.leases.get(&key);
        let back_since = match before.map(|l| (l.health, l.back_since)) {
            Some((Health::Down, _)) if health == Health::Up => Some(now),
            Some((_, since)) if health == Health::Up => since,
            _ => None,
        };
        let changed = before.is_none_or(|l| l.health != health);
        self.leases.insert(key.clone(), Lease { until: now + ttl, ttl, last: Some(now), load: beat.load, health, back_since });
        if changed {
            let why = if beat.failing { "it says itself that it fails" } else { "it says itself that it lives" };
            self.told_by_itself(key, why.to_owned());
        }
        Ok(Beaten { registered, changed: changed || registered })
    }

    /// Ends a heartbeat; who registered itself is gone with it, and who did not is down.
    pub fn leave(&mut self, service: &ServiceName, id: BackendId) -> Result<Beaten, ControlError> {
        self.heartbeat_of(service)?;
        self.find_backend(service, id)?;
        let key = TargetKey { service: service.clone(), backend: id };
        if let Some(lease) = self.leases.get_mut(&key) {
            (lease.health, lease.back_since) = (Health::Down, None);
        }
        self.told_by_itself(key.clone(), "it has taken its leave".to_owned());
        let registered = self.unregister(&key);
        Ok(Beaten { registered, changed: true })
    }

    /// When the next heartbeat runs out.
    pub fn next_expiry(&self) -> Option<Instant> {
        let rows = self.leases.iter();
        rows.filter_map(|(key, l)| if l.health == Health::Up { Some(l.until) } else { self.forgotten_at(key, l) }).min()
    }

    /// Fails who has missed its beat, and forgets who has registered itself and been silent for long.
    pub fn expire(&mut self, now: Instant) -> Beaten {
        let mut missed = Vec::new();
        for (key, lease) in self.leases.iter_mut().filter(|(_, l)| l.health == Health::Up && l.until <= now) {
            (lease.health, lease.back_since) = (Health::Down, None);
            missed.push((key.clone(), format!("no heartbeat for {}", Span(lease.ttl))));
        }
        let forgotten: Vec<_> = self.leases.iter().filter(|(k, l)| self.forgotten_at(k, l).is_some_and(|at| at <= now)).collect();
        let forgotten: Vec<_> = forgotten.into_iter().map(|(key, _)| key.clone()).collect();
        let changed = !missed.is_empty() || !forgotten.is_empty();
        missed.into_iter().for_each(|(key, why)| self.told_by_itself(key, why));
        let mut registered = false;
        for key in &forgotten {
            registered |= self.unregister(key);
            self.leases.remove(key);
        }
        Beaten { registered, changed }
    }

    /// Who was there before the start has one time to live to be heard of.
    pub(super) fn grant_leases(&mut self, now: Instant) {
        if std::mem::replace(&mut self.leases_granted, true) {
            return;
        }
        for (name, merged) in &self.merged {
            let Some(rules) = merged.service.heartbeat else { continue };
            let registered = self.found.get(&source_key(name));
            for id in merged.origins.keys() {
                let key = TargetKey { service: name.clone(), backend: *id };
                let was_up = self.seen.get(name).and_then(|seen| seen.get(id)).is_some_and(|s| s.health == Health::Up);
                let registered = registered.is_some_and(|set| set.iter().any(|e| e.id == *id));
                if (was_up || registered) && !self.leases.contains_key(&key) {
                    let lease =
                        Lease { until: now + rules.ttl, ttl: rules.ttl, last: None, load: None, health: Health::Up, back_since: None };
                    self.leases.insert(key, lease);
                    self.stale.service(name);
                }
            }
        }
    }

    /// What checks and heartbeats say together, of a service that has heartbeats.
    pub(super) fn with_heartbeats(&self, merged: &Merged) -> Option<BTreeMap<BackendId, Seen>> {
        merged.service.heartbeat?;
        let name = &merged.spec.name;
        let one = |id: &BackendId| {
            let lease = self.leases.get(&TargetKey { service: name.clone(), backend: *id });
            let own = lease.map_or_else(Seen::default, |l| Seen { health: l.health, back_since: l.back_since });
            let checked = self.seen.get(name).and_then(|seen| seen.get(id)).copied().unwrap_or_default();
            (*id, if merged.service.check.is_some() { both(own, checked) } else { own })
        };
        Some(merged.origins.keys().map(one).collect())
    }

    /// Remembers what a backend says of itself.
    fn told_by_itself(&mut self, key: TargetKey, why: String) {
        self.told(key, Grounds::words(why));
    }

    /// Remembers why a backend's health is what it is now.
    pub(super) fn told(&mut self, key: TargetKey, why: Grounds) {
        self.stale.service(&key.service);
        self.evidence.insert(key, why);
    }

    /// What is known of a backend's own heartbeat.
    pub fn beat_of(&self, key: &TargetKey) -> Option<&Lease> {
        self.leases.get(key)
    }

    fn register(&mut self, service: &ServiceName, id: BackendId, beat: &Beat, rules: Heartbeat) -> Result<(), ControlError> {
        if !rules.register {
            return Err(ControlError::NotFound(format!(
                "service `{service}` has no backend {id}: add it, or allow that backends register themselves (`heartbeat: {{register: true}}`)"
            )));
        }
        let presence = self.state.backends.get(service).and_then(|b| b.get(&id)).map(|c| c.presence);
        if presence == Some(Presence::Removed) {
            return Err(ControlError::Conflict(format!("backend {id} was removed by the operator: add it again to let it come back")));
        }
        let Beat { name, zone, .. } = beat.clone();
        let weight = beat.weight.map(|w| i64::from(w).into());
        let spec = BackendSpec { address: id.to_string().into(), weight, name, zone, ..BackendSpec::default() };
        let endpoint = orders::endpoint(self.find(service)?, &spec)?;
        self.room_for_backends(1)?;
        self.found.entry(source_key(service)).or_default().apply(Update::Add(vec![endpoint]));
        self.merge_service(service);
        Ok(())
    }

    fn unregister(&mut self, key: &TargetKey) -> bool {
        let there = self.found.get_mut(&source_key(&key.service));
        let removed = there.is_some_and(|set| set.apply(Update::Remove(vec![key.backend])));
        if removed {
            self.merge_service(&key.service);
        }
        removed
    }

    fn forgotten_at(&self, key: &TargetKey, lease: &Lease) -> Option<Instant> {
        let rules = self.merged.get(&key.service)?.service.heartbeat?;
        let there = self.found.get(&source_key(&key.service))?;
        let registered = lease.health != Health::Up && there.iter().any(|e| e.id == key.backend);
        if registered { lease.until.checked_add(rules.forget) } else { None }
    }

    fn heartbeat_of(&self, service: &ServiceName) -> Result<Heartbeat, ControlError> {
        let none = || ControlError::Conflict(format!("service `{service}` expects no heartbeats: add `heartbeat: {{ttl: 10s}}` to it"));
        self.find(service)?.service.heartbeat.ok_or_else(none)
    }
}

impl Lease {
    /// How loaded the backend has said to be, while its heartbeat holds.
    pub fn load(&self) -> Option<f64> {
        self.load.filter(|_| self.health == Health::Up)
    }

    pub fn view(&self, now: Instant) -> BeatView {
        BeatView {
            ttl_ms: millis(self.ttl),
            age_ms: self.last.map(|last| millis(now.saturating_duration_since(last))),
            alive: self.health == Health::Up,
            load: self.load,
        }
    }
}

impl Daemon {
    pub(super) fn expire(&mut self, now: Instant) {
        let beaten = self.core.expire(now);
        if beaten.changed {
            self.beaten(beaten, now);
        }
    }

    /// Publishes what a heartbeat has changed; who registered itself is remembered over a restart.
    pub(super) fn beaten(&mut self, beaten: Beaten, now: Instant) {
        if beaten.registered {
            self.unremembered = true;
            self.act();
        }
        self.dirty(now);
    }
}

/// A backend has to be well by both.
fn both(own: Seen, checked: Seen) -> Seen {
    let health = match (own.health, checked.health) {
        (Health::Down, _) | (_, Health::Down) => Health::Down,
        (Health::Unknown, _) | (_, Health::Unknown) => Health::Unknown,
        (_, other) => other,
    };
    Seen { health, back_since: own.back_since.max(checked.back_since) }
}
