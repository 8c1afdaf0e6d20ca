//! What is to be published, as a plain value: `plan` (services, endpoints, the operator's wishes, health, now) -> [`Plan`]. Pure.

mod cache;
mod diff;
mod preview;
mod quic;
mod standby;
mod standing;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};

use crate::{
    health::{Health, breaker::Gate},
    model::{BackendId, BackendState, Endpoint, Mode, ServiceName, VipAddr, Ways, Weight, WhenEmpty},
    table::{self, MAX_LOG2_SLOTS, MAX_MEMBERS, Member, Scheduler, Table, TableError},
    weights::{self, Factor, Locality, Parts, Placed},
};

pub use cache::Cache;
pub use diff::{BackendChange, Change, ServiceChange, diff};
pub use preview::{BackendPreview, BackendShare, FlowsPreview, KeptBy, Preview, of_service as preview_service, preview};
pub use standing::Standing;

/// What the planner has to know of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    pub name: ServiceName,
    pub vip: VipAddr,
    pub mode: Mode,
    pub ways: Ways,
    pub when_empty: WhenEmpty,
    /// Interface that the daemon puts the VIP on.
    pub announce: Option<String>,
    /// The service has a heartbeat. Without one every backend counts as up.
    pub checked: bool,
    /// Size of the table where it is not to follow from the members; taken as [`MAX_LOG2_SLOTS`] if larger.
    pub log2_slots: Option<u8>,
    pub scheduler: Scheduler,
    /// Nearer backends are to weigh more.
    pub locality: Option<Locality>,
    /// Backups stand in while less than this percent of the others' weight can be used; 0 = while none can.
    pub backup_below: u8,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Intent {
    pub admin: Admin,
    /// Goes before the weight that the backend's source gave.
    pub weight: Option<Weight>,
}

/// Whether a backend is to take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Admin {
    #[default]
    In,
    /// New flows elsewhere, old ones stay.
    Drain,
    /// Nothing is sent to it.
    Maintenance,
    /// As if its source had not named it.
    Removed,
}

/// What health checks know of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub health: Health,
    /// When it came back, if it is to be loaded slowly from then on.
    pub back_since: Option<Instant>,
}

/// One service with all that is known about its backends. What a map doesn't name stands at its default: takes part; never checked.
#[derive(Clone, Copy, Debug)]
pub struct ServiceInput<'a> {
    pub spec: &'a ServiceSpec,
    /// In any order. Of several with one id that of the largest weight counts.
    pub endpoints: &'a [Endpoint],
    pub intents: &'a BTreeMap<BackendId, Intent>,
    pub seen: &'a BTreeMap<BackendId, Seen>,
    /// Factors by latency, load or agent.
    pub dynamic: &'a BTreeMap<BackendId, Factor>,
    /// What breakers and limits let through.
    pub gates: &'a BTreeMap<BackendId, Gate>,
    /// Other nodes have flows of the same slots, and know nothing of this node's suspicion.
    pub shared: bool,
}

/// What is to be published.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Plan {
    /// Sorted by name. One that stays as it was is the same in the next plan.
    #[serde(serialize_with = "each")]
    pub services: Vec<Arc<ServicePlan>>,
    /// When a plan of the same inputs will be another one, because a slow start goes a step further.
    #[serde(skip)]
    pub replan_at: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServicePlan {
    pub name: ServiceName,
    #[serde(serialize_with = "as_text")]
    pub vip: VipAddr,
    #[serde(serialize_with = "mode_name")]
    pub mode: Mode,
    #[serde(skip)]
    pub ways: Ways,
    #[serde(skip)]
    pub when_empty: WhenEmpty,
    pub announce: Option<String>,
    /// Sorted by id: what the indices in `table` point into.
    pub members: Vec<PlannedBackend>,
    /// Services of equal members share one.
    #[serde(serialize_with = "shared")]
    pub table: Arc<Table>,
    /// Nobody takes new flows: all slots are vacant.
    pub no_backends: bool,
    /// Why the service is not planned as it was asked for.
    #[serde(serialize_with = "problem_text", skip_serializing_if = "Option::is_none")]
    pub problem: Option<TableError>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PlannedBackend {
    pub id: BackendId,
    pub name: Option<String>,
    #[serde(serialize_with = "state_name")]
    pub state: BackendState,
    /// Why it has this state and share.
    pub standing: Standing,
    /// Weight by source or operator.
    pub configured: Weight,
    /// Dynamic factor on it; 0 where it takes no new flows.
    pub factor: Factor,
    /// Their product, in units of 1/2048.
    pub effective: u32,
    /// What `factor` is made of.
    pub parts: Parts,
    /// Flows at once that it can carry, where somebody said.
    pub capacity: Option<u32>,
    /// As of [`Endpoint::backup`].
    pub backup: u8,
    /// Its server id in QUIC connection ids; `None` = they don't name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<u32>,
    /// How new flows are kept from it while it is spared them.
    #[serde(skip)]
    pub sparing: Sparing,
}

/// How new flows are kept from a backend whose old ones stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sparing {
    /// It has no slots: flows are remembered one by one.
    #[default]
    Slots,
    /// By its state alone, while it is only suspected: its slots lead new flows to their secondaries, and the ledger remembers those.
    State,
    /// Its slots go elsewhere one by one, as in a drain, until which it takes what comes.
    Drain,
}

impl Sparing {
    fn of(input: &ServiceInput<'_>) -> Self {
        match input.spec.mode {
            Mode::Nat => Self::Slots,
            Mode::Dsr | Mode::Dnat | Mode::Tunnel if input.shared => Self::Drain,
            Mode::Dsr | Mode::Dnat | Mode::Tunnel => Self::State,
        }
    }
}

/// Plans all services. `seed`: of the tables; secret, and the same on every node that serves these VIPs.
///
/// The tables that `cache` keeps afterwards are those that some plan still has.
pub fn plan(services: &[ServiceInput<'_>], seed: u64, now: Instant, cache: &mut Cache) -> Plan {
    let mut planned: Vec<_> = services.iter().map(|input| Arc::new(plan_service(input, seed, now, cache))).collect();
    cache.sweep();
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    Plan { services: planned, replan_at: services.iter().filter_map(|s| s.next_step(now)).min() }
}

impl ServiceInput<'_> {
    /// When a plan of the same inputs will be another one.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        self.seen.values().filter_map(|seen| next_step(seen, now)).min()
    }
}

impl Plan {
    /// The service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServicePlan>> {
        let at = self.services.binary_search_by(|s| s.name.cmp(name)).ok()?;
        self.services.get(at)
    }

    /// Puts a service in the place of the one of its name.
    pub fn put(&mut self, service: Arc<ServicePlan>) {
        match self.services.binary_search_by(|s| s.name.cmp(&service.name)) {
            Ok(at) => self.services[at] = service,
            Err(at) => self.services.insert(at, service),
        }
    }
}

/// Plans one service; its table stays in `cache` for as long as somebody has it.
pub fn plan_service(input: &ServiceInput<'_>, seed: u64, now: Instant, cache: &mut Cache) -> ServicePlan {
    let spec = input.spec;
    let mut members = members(input, now);
    if spec.when_empty == WhenEmpty::FailStatic {
        hold(&mut members);
    }
    let mut problem = (members.len() > MAX_MEMBERS).then_some(TableError::TooManyMembers(members.len()));
    members.truncate(MAX_MEMBERS);
    let configured: Vec<_> = members.iter().map(|m| Member { id: m.id, weight: m.configured }).collect();
    if let Some(size) = spec.log2_slots.filter(|&size| size > MAX_LOG2_SLOTS) {
        problem = problem.or(Some(TableError::TooManySlots(size)));
    }
    let log2_slots = spec.log2_slots.unwrap_or_else(|| table::log2_slots(&configured)).min(MAX_LOG2_SLOTS);
    let effective: Vec<_> = members.iter().map(|m| m.effective).collect();
    let table = cache.table((configured, log2_slots, seed), spec.scheduler, effective).unwrap_or_else(|error| {
        problem = Some(error);
        Arc::new(Table::vacant(log2_slots))
    });
    ServicePlan {
        name: spec.name.clone(),
        vip: spec.vip,
        mode: spec.mode,
        ways: spec.ways.clone(),
        when_empty: spec.when_empty,
        announce: spec.announce.clone(),
        no_backends: table.is_vacant(),
        members,
        table,
        problem,
    }
}

/// The backends that stand behind a service, sorted by id.
fn members(input: &ServiceInput<'_>, now: Instant) -> Vec<PlannedBackend> {
    let mut endpoints: Vec<&Endpoint> = input.endpoints.iter().collect();
    endpoints.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| b.weight.cmp(&a.weight)).then_with(|| a.name.cmp(&b.name)));
    endpoints.dedup_by_key(|e| e.id);
    let intent = |id: &BackendId| input.intents.get(id).copied().unwrap_or_default();
    let present = endpoints.into_iter().filter(|e| intent(&e.id).admin != Admin::Removed);
    let planned = present.map(|e| {
        let seen = input.seen.get(&e.id).copied().unwrap_or_default();
        let seen = if input.spec.checked { seen } else { UNCHECKED_IS_UP };
        let dynamic = input.dynamic.get(&e.id).copied().unwrap_or(Factor::ONE);
        let gate = input.gates.get(&e.id).copied().unwrap_or_default();
        (planned_backend(e, intent(&e.id), seen, gate, dynamic, Sparing::of(input), now), e.zone.as_deref())
    });
    let mut planned: Vec<_> = planned.collect();
    standby::stand_by(planned.iter_mut().map(|(member, _)| member), input.spec.backup_below);
    let factors = input.spec.locality.as_ref().map(|locality| locality.factors(&planned.iter().map(placed).collect::<Vec<_>>()));
    let mut members: Vec<_> = planned.into_iter().map(|(member, _)| member).collect();
    if let Some(length) = input.spec.ways.quic {
        quic::give(&mut members, input.endpoints, length);
    }
    for (member, factor) in members.iter_mut().zip(factors.into_iter().flatten()) {
        member.weigh(Parts { locality: Factor::of(factor), ..member.parts });
    }
    members
}

fn placed<'a>((member, zone): &(PlannedBackend, Option<&'a str>)) -> Placed<'a> {
    Placed { zone: *zone, weight: member.configured.0.into(), able: member.factor.as_f64().min(1.0) }
}

const UNCHECKED_IS_UP: Seen = Seen { health: Health::Up, back_since: None };

fn planned_backend(
    endpoint: &Endpoint,
    intent: Intent,
    seen: Seen,
    gate: Gate,
    dynamic: Factor,
    sparing: Sparing,
    now: Instant,
) -> PlannedBackend {
    let configured = intent.weight.unwrap_or(endpoint.weight);
    let ramp = seen.back_since.map_or(Factor::ONE, |since| weights::slow_start(now.saturating_duration_since(since)));
    let standing = Standing::of(intent.admin, seen.health, gate, configured, ramp);
    let trial = if let Gate::Trial(share) = gate { share } else { Factor::ONE };
    let mut planned = PlannedBackend {
        id: endpoint.id,
        name: endpoint.name.clone(),
        state: standing.state(sparing),
        standing,
        configured,
        factor: Factor::ONE,
        effective: 0,
        parts: Parts::ONE,
        capacity: endpoint.capacity,
        backup: endpoint.backup,
        quic: None,
        sparing,
    };
    planned.weigh(Parts { ramp, dynamic, locality: Factor::ONE, trial });
    planned
}

impl PlannedBackend {
    fn weigh(&mut self, parts: Parts) {
        self.parts = parts;
        self.factor = if self.keeps_slots() { parts.product() } else { Factor::ZERO };
        self.effective = weights::effective(self.configured, self.factor);
    }

    fn keeps_slots(&self) -> bool {
        match self.standing {
            Standing::Suspected => self.sparing == Sparing::State,
            Standing::Standby => false,
            standing => standing.state(self.sparing).takes_new(),
        }
    }

    /// It is given new flows.
    pub fn takes_new(&self) -> bool {
        self.effective > 0 && self.state.takes_new()
    }
}

/// Where nobody takes new flows, those do whose breaker is open, and where there are none, those whose heartbeat failed; backups only where there is nobody else.
fn hold(members: &mut [PlannedBackend]) {
    if members.iter().any(|m| m.effective > 0) {
        return;
    }
    for standing in [Standing::Broken, Standing::Unhealthy] {
        let fits = |m: &PlannedBackend| m.standing == standing && m.configured.0 > 0;
        let Some(level) = members.iter().filter(|m| fits(m)).map(|m| m.backup).min() else { continue };
        for member in members.iter_mut().filter(|m| fits(m) && m.backup == level) {
            member.state = BackendState::Active;
            member.factor = Factor::ONE;
            member.effective = weights::effective(member.configured, Factor::ONE);
        }
        return;
    }
}

fn next_step(seen: &Seen, now: Instant) -> Option<Instant> {
    let since = seen.back_since.filter(|_| seen.health == Health::Up)?;
    // A step is a hair after its nominal time, so that a plan made at it sees it.
    let step = weights::next_step(now.saturating_duration_since(since))? + Duration::from_millis(1);
    since.checked_add(step)
}

fn as_text<T: ToString, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&value.to_string())
}

fn each<S: Serializer>(services: &[Arc<ServicePlan>], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(services.iter().map(|service| &**service))
}

fn shared<S: Serializer>(table: &Arc<Table>, s: S) -> Result<S::Ok, S::Error> {
    table.serialize(s)
}

fn problem_text<S: Serializer>(problem: &Option<TableError>, s: S) -> Result<S::Ok, S::Error> {
    problem.map(|p| p.to_string()).serialize(s)
}

fn mode_name<S: Serializer>(mode: &Mode, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(mode.name())
}

fn state_name<S: Serializer>(state: &BackendState, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(match state {
        BackendState::Absent => "absent",
        BackendState::Active => "active",
        BackendState::Draining => "draining",
        BackendState::Soft => "soft",
        BackendState::Down => "down",
        BackendState::Recovering => "recovering",
        BackendState::Maintenance => "maintenance",
        BackendState::Settling => "settling",
    })
}
