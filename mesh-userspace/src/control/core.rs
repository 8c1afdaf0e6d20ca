//! The pure core of the daemon: inputs and `now` -> what is wanted of the rest of the system. No IO and no clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    asking,
    beating::{Lease, is_place},
    merge::{Merged, merge},
    roll::Roll,
    stale::Stale,
};
use crate::{
    config::{self, Config, Findings, Service},
    discovery::{ClusterSpec, EndpointSet, SourceKey, SourceSpec, Update},
    events::{Grounds, What},
    health::{Check, Health, HealthEvent, TargetKey, breaker::Gate},
    model::{BackendId, BackendState, ServiceName, VipAddr},
    plan::{Cache, Plan, Seen},
    state::State,
    weights::Factor,
};

/// Everything that decides what is published.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) state: State,
    /// Services that a cluster asks for.
    pub(super) derived: BTreeMap<ServiceName, Service>,
    /// The same as they were told.
    pub(super) told: Vec<config::written::Service>,
    /// Services of the state, resolved.
    pub(super) added: BTreeMap<ServiceName, Service>,
    pub(super) files: BTreeMap<ServiceName, EndpointSet>,
    pub(super) found: BTreeMap<SourceKey, EndpointSet>,
    pub(super) merged: BTreeMap<ServiceName, Merged>,
    pub(super) roll: Roll,
    pub(super) seen: BTreeMap<ServiceName, BTreeMap<BackendId, Seen>>,
    /// Why a backend's health is what it is.
    pub(super) evidence: BTreeMap<TargetKey, Grounds>,
    /// Heartbeats that backends send themselves.
    pub(super) leases: BTreeMap<TargetKey, Lease>,
    /// Those who were there before have been given one.
    pub(super) leases_granted: bool,
    /// Health that targets begin with.
    pub(super) seeds: BTreeMap<TargetKey, Health>,
    /// Factors on weights by latency or agent, and whether they alone have changed since the last plan.
    pub(super) dynamic: BTreeMap<ServiceName, BTreeMap<BackendId, Factor>>,
    /// What breakers and limits let through, and why.
    pub(super) gates: BTreeMap<ServiceName, BTreeMap<BackendId, Gate>>,
    pub(super) gate_grounds: BTreeMap<TargetKey, Grounds>,
    pub(super) reweighed: BTreeSet<ServiceName>,
    /// What was taken in since the last plan.
    pub(super) stale: Stale,
    /// When a service has to be planned anew by itself.
    pub(super) steps: BTreeMap<ServiceName, Instant>,
    /// Something else may be wanted of the rest of the system than was told last.
    pub(super) wants_anew: bool,
    /// What was published before the start, until the first plan.
    pub(super) adopted: Vec<Adopted>,
    pub(super) cache: Cache,
    pub(super) plan: Plan,
    /// Open flows of backends, as counted last.
    pub(super) live: HashMap<(VipAddr, BackendId), u64>,
}

/// What the rest of the system is to do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Wanted {
    pub checks: BTreeMap<TargetKey, Check>,
    /// Health to begin with, for targets that are new.
    pub seeds: BTreeMap<TargetKey, Health>,
    /// Addresses whose next hop is to be known.
    pub next_hops: BTreeSet<IpAddr>,
    /// VIPs to put on interfaces.
    pub announce: BTreeSet<(IpAddr, String)>,
    /// Files with backends.
    pub files: BTreeMap<ServiceName, PathBuf>,
    /// Where else backends are found.
    pub sources: BTreeMap<SourceKey, SourceSpec>,
    /// Where else services are found.
    pub cluster: Option<Arc<ClusterSpec>>,
}

/// What was published before the daemon started: a VIP, its backends and their states.
pub type Adopted = (VipAddr, Vec<(BackendId, BackendState)>);

impl Core {
    /// A core without endpoints of files. Events: what of the state can't be in force.
    pub fn new(config: Config, state: State) -> (Self, Vec<What>) {
        let mut core = Self {
            config,
            state,
            derived: BTreeMap::new(),
            told: Vec::new(),
            added: BTreeMap::new(),
            files: BTreeMap::new(),
            found: BTreeMap::new(),
            merged: BTreeMap::new(),
            roll: Roll::default(),
            seen: BTreeMap::new(),
            evidence: BTreeMap::new(),
            leases: BTreeMap::new(),
            leases_granted: false,
            seeds: BTreeMap::new(),
            dynamic: BTreeMap::new(),
            gates: BTreeMap::new(),
            gate_grounds: BTreeMap::new(),
            reweighed: BTreeSet::new(),
            stale: Stale::default(),
            steps: BTreeMap::new(),
            wants_anew: true,
            adopted: Vec::new(),
            cache: Cache::default(),
            plan: Plan::default(),
            live: HashMap::new(),
        };
        let mut events = Vec::new();
        for (name, spec) in &core.state.services {
            match resolve_spec(spec) {
                Ok(service) => {
                    core.added.insert(name.clone(), service);
                }
                Err(error) => {
                    events.push(What::StateFailed { error: format!("service {name} of the state file is not in force: {error}") })
                }
            }
        }
        let shadowed = core.merge();
        events.extend(shadowed.into_iter().map(|(name, why)| What::StateFailed {
            error: format!("service {name}, added by CLI, is not in force: {why}; remove one of the two"),
        }));
        (core, events)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn services(&self) -> &BTreeMap<ServiceName, Merged> {
        &self.merged
    }

    /// Which of them the daemon's loop has to do with all the time.
    pub fn roll(&self) -> &Roll {
        &self.roll
    }

    /// Takes in factors on the weights of backends; who is not named has 1.
    pub fn set_dynamic(&mut self, factors: &BTreeMap<ServiceName, BTreeMap<BackendId, Factor>>) {
        let nothing = BTreeMap::new();
        let of = |all: &BTreeMap<ServiceName, BTreeMap<BackendId, Factor>>, name: &ServiceName| all.get(name).unwrap_or(&nothing).clone();
        let names: BTreeSet<_> = factors.keys().chain(self.dynamic.keys()).collect();
        let differ: Vec<_> = names.into_iter().filter(|name| of(factors, name) != of(&self.dynamic, name)).cloned().collect();
        for name in &differ {
            self.reweighed.insert(name.clone());
            self.stale.service(name);
        }
        self.dynamic.clone_from(factors);
    }

    /// Remembers how many flows are open on each backend.
    pub fn set_live(&mut self, live: HashMap<(VipAddr, BackendId), u64>) {
        self.live = live;
    }

    /// The plan that was made last.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Remembers which addresses are put on interfaces. True if that is news.
    pub fn set_announced(&mut self, announced: BTreeSet<(IpAddr, String)>) -> bool {
        let changed = self.state.announced != announced;
        self.state.announced = announced;
        changed
    }

    /// What was published holds until the first checks are done; also of backends that are named between this and the first plan.
    pub fn adopt(&mut self, adopted: &[Adopted]) {
        self.adopted = adopted.to_vec();
        self.adopt_known();
    }

    pub(super) fn adopt_known(&mut self) {
        if self.adopted.is_empty() {
            return;
        }
        (self.stale, self.wants_anew) = (Stale::All, true);
        let adopted: HashMap<VipAddr, &Vec<_>> = self.adopted.iter().map(|(vip, backends)| (*vip, backends)).collect();
        for merged in self.merged.values().filter(|m| m.spec.checked) {
            let Some(backends) = adopted.get(&merged.spec.vip) else { continue };
            for (id, state) in backends.iter().filter(|(id, _)| merged.has(id)) {
                let health = match state {
                    BackendState::Absent => continue,
                    BackendState::Down | BackendState::Maintenance => Health::Down,
                    BackendState::Active
                    | BackendState::Settling
                    | BackendState::Draining
                    | BackendState::Soft
                    | BackendState::Recovering => Health::Up,
                };
                let seen = self.seen.entry(merged.spec.name.clone()).or_default();
                if seen.contains_key(id) {
                    continue;
                }
                seen.insert(*id, Seen { health, back_since: None });
                let key = TargetKey { service: merged.spec.name.clone(), backend: *id };
                self.evidence.insert(key.clone(), Grounds::words("as published before the start"));
                self.seeds.insert(key, health);
            }
        }
    }

    /// Takes a new configuration, or says why it can't be.
    pub fn reload(&mut self, config: Config) -> Result<bool, String> {
        for service in self.added.values().filter(|s| !config.services.contains_key(&s.name)) {
            let clash = config.services.values().find(|c| c.vip == service.vip && !self.state.removed.contains(&c.name));
            if let Some(clash) = clash.filter(|_| self.merged.contains_key(&service.name)) {
                return Err(format!(
                    "service `{}` has the VIP {} of service `{}`, which was added by CLI: remove that one first",
                    clash.name, clash.vip, service.name
                ));
            }
        }
        let changed = config != self.config;
        self.config = config;
        self.merge();
        Ok(changed)
    }

    /// Takes in what a service's file says. True if that changes something.
    pub fn discovered(&mut self, service: &ServiceName, update: Update) -> bool {
        let changed = self.files.entry(service.clone()).or_default().apply(update);
        if changed {
            self.merge_service(service);
            self.adopt_known();
        }
        changed
    }

    /// Files of backends that nothing has come from yet.
    pub fn unread_files(&self) -> BTreeSet<PathBuf> {
        let unread = self.merged.iter().filter(|(name, _)| !self.files.contains_key(*name));
        unread.filter_map(|(_, m)| m.service.backends_file.clone()).collect()
    }

    /// Takes in what sources say. True if that changes something.
    pub fn found(&mut self, updates: Vec<(SourceKey, Update)>) -> bool {
        let mut changed = BTreeSet::new();
        for (key, update) in updates {
            if self.found.entry(key.clone()).or_default().apply(update) {
                changed.insert(key.service);
            }
        }
        if changed.is_empty() {
            return false;
        }
        changed.iter().for_each(|service| self.merge_service(service));
        self.adopt_known();
        true
    }

    /// The sources of all services.
    pub fn wanted_sources(&self) -> BTreeMap<SourceKey, SourceSpec> {
        self.merged.values().flat_map(|m| m.sources().map(|(key, spec)| (key, spec.clone()))).collect()
    }

    /// Endpoints by source.
    pub fn endpoints_found(&self) -> &BTreeMap<SourceKey, EndpointSet> {
        &self.found
    }

    /// Takes in a change of health. True if somebody wants to know.
    pub fn health(&mut self, event: HealthEvent, now: Instant) -> bool {
        let HealthEvent { key, health, evidence } = event;
        if !self.merged.get(&key.service).is_some_and(|m| m.has(&key.backend)) {
            return false;
        }
        let seen = self.seen.entry(key.service.clone()).or_default().entry(key.backend).or_default();
        // Who was down comes back slowly; who is new, or was only not yet checked, has never been away.
        let back_since = match (seen.health, health) {
            (Health::Down, Health::Up) => Some(now),
            (_, Health::Up | Health::Soft) => seen.back_since,
            _ => None,
        };
        *seen = Seen { health, back_since };
        self.told(key, Grounds::of(&evidence));
        true
    }

    /// What was told of a backend last.
    pub fn known_health(&self, key: &TargetKey) -> Health {
        self.seen.get(&key.service).and_then(|seen| seen.get(&key.backend)).map_or(Health::Unknown, |seen| seen.health)
    }

    /// The checks of all backends.
    pub fn checks(&self) -> BTreeMap<TargetKey, Check> {
        let checked = self.merged.iter().filter_map(|(name, merged)| Some((name, merged, merged.service.check.as_ref()?)));
        let targets = checked.flat_map(|(name, merged, check)| {
            let key = |id| TargetKey { service: name.clone(), backend: id };
            merged.endpoints.iter().map(move |e| (key(e.id), asking::target(merged, check, e)))
        });
        targets.collect()
    }

    /// What the rest of the system is to do now, if that may be something else than was told last. The seeds are told once.
    pub fn news_wanted(&mut self) -> Option<Wanted> {
        std::mem::take(&mut self.wants_anew).then(|| self.wanted())
    }

    /// What the rest of the system is to do now. The seeds are told once.
    pub fn wanted(&mut self) -> Wanted {
        let mut wanted =
            Wanted { checks: self.checks(), seeds: std::mem::take(&mut self.seeds), sources: self.wanted_sources(), ..Wanted::default() };
        wanted.cluster = self.config.kubernetes.clone();
        for (name, merged) in &self.merged {
            wanted.next_hops.extend(merged.endpoints.iter().map(|e| e.id.0.ip()));
            wanted.next_hops.extend(merged.spec.ways.reply_via);
            wanted.announce.extend(merged.spec.announce.iter().map(|interface| (merged.spec.vip.addr, interface.clone())));
            wanted.files.extend(merged.service.backends_file.iter().map(|file| (name.clone(), file.clone())));
        }
        wanted
    }

    /// Brings [`Core::merged`] up to date; returns added services that have no place.
    pub(super) fn merge(&mut self) -> Vec<(ServiceName, String)> {
        if self.config.kubernetes.is_none() {
            (self.derived, self.told) = (BTreeMap::new(), Vec::new());
        }
        (self.stale, self.wants_anew) = (Stale::All, true);
        let (merged, shadowed) = merge(&self.config, &self.state, &self.derived, &self.added, &self.files, &self.found);
        let before = std::mem::replace(&mut self.merged, merged);
        self.roll = Roll::of(&self.merged);
        self.files.retain(|name, _| self.merged.get(name).is_some_and(|m| m.service.backends_file.is_some()));
        self.found.retain(|key, _| self.merged.get(&key.service).is_some_and(|m| is_place(key, m) || m.sources().any(|(k, _)| k == *key)));
        // Who is gone is forgotten: if it comes again, it has to show anew that it lives.
        let merged = &self.merged;
        let has = |service: &ServiceName, id: &BackendId| merged.get(service).is_some_and(|m| m.has(id));
        self.seen.retain(|service, seen| {
            seen.retain(|id, _| has(service, id));
            !seen.is_empty()
        });
        self.evidence.retain(|key, _| has(&key.service, &key.backend));
        self.leases.retain(|key, _| has(&key.service, &key.backend));
        self.seeds.retain(|key, _| has(&key.service, &key.backend));
        self.gate_grounds.retain(|key, _| has(&key.service, &key.backend));
        self.keep_up_who_was_unchecked(&before);
        shadowed
    }

    /// A service that is given its first heartbeat goes on with the backends that it has, until the checks say otherwise.
    fn keep_up_who_was_unchecked(&mut self, before: &BTreeMap<ServiceName, Merged>) {
        for (name, now) in self.merged.iter().filter(|(_, m)| m.spec.checked) {
            let Some(old) = before.get(name).filter(|old| !old.spec.checked) else { continue };
            self.leases_granted = false;
            for id in old.origins.keys().filter(|id| now.has(id)) {
                let up = Seen { health: Health::Up, back_since: None };
                self.seen.entry(name.clone()).or_default().insert(*id, up);
                self.seeds.insert(TargetKey { service: name.clone(), backend: *id }, Health::Up);
            }
        }
    }
}

/// A service as the API or the state file has it, which no text shows the place of.
pub(super) fn resolve_spec(spec: &config::written::Service) -> Result<Service, String> {
    let mut findings = Findings::new("", None);
    let service = config::resolve_service(spec, Path::new("/"), &mut findings);
    service.ok_or_else(|| listed(&findings))
}

/// All errors, in one line.
pub(super) fn listed(findings: &Findings<'_>) -> String {
    let one = |d: &config::Diagnostic| if d.help.is_empty() { d.message.clone() } else { format!("{}: {}", d.message, d.help) };
    findings.errors.iter().map(one).collect::<Vec<_>>().join("; ")
}
