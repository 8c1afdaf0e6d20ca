//! Dynamic weights as the daemon carries them out: what was seen of each backend to the controllers, and their factors to the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use mesh_common::abi::{BackendSignals, Mode};

use super::{
    agents::{Agents, Question, Word},
    beating::Lease,
    daemon::Daemon,
    merge::Merged,
    weight_view::WeightView,
};
use crate::{
    config::balanced::SignalWord,
    health::{Health, TargetKey, Waited},
    model::{BackendId, ServiceName, VipAddr},
    plan::{PlannedBackend, ServicePlan},
    weights::{Act, Controller, Factor, Observation, Reading},
};

/// What agents have said.
pub(super) type Words = BTreeMap<TargetKey, Word>;

/// What the daemon knows for the sake of weights.
#[derive(Debug, Default)]
pub struct Weighing {
    services: BTreeMap<ServiceName, Weigher>,
    agents: Agents,
    last: Option<Instant>,
    /// Many connections are timed.
    timing: bool,
    /// There was something to do the last time.
    busy: bool,
}

/// One service that is weighed by latency.
#[derive(Debug, Default)]
struct Weigher {
    controller: Controller,
    /// What its heartbeats took, and flows begun and open when that was done last.
    heard: BTreeMap<BackendId, Waited>,
    flows: BTreeMap<BackendId, (u64, u64)>,
    timed: BTreeMap<BackendId, BackendSignals>,
}

/// What the kernel half counted of a backend: flows begun ever, and connections that were timed.
type Told = (u64, BackendSignals);
/// A few flows a second say nothing of who keeps up: of all, and of those that are drawn.
const FEWEST: f64 = 20.0;
const FEWEST_DRAWN: f64 = 5.0;
/// Connections that stay for longer end too seldom to say who keeps up, seconds.
const LONG: f64 = 5.0;

impl Daemon {
    /// Lets the controllers take a step. To be called every second or so.
    pub(super) fn weigh(&mut self, now: Instant) {
        let some = !self.core.roll().weighed.is_empty();
        if !some && !self.weighing.busy && self.weighed.is_empty() {
            return;
        }
        self.weighing.busy = some;
        self.ask_agents();
        let dt = self.weighing.last.replace(now).map_or(1.0, |last| now.saturating_duration_since(last).as_secs_f64()).clamp(0.1, 5.0);
        self.time_connections();
        let told = self.flows_told();
        let words = self.weighing.agents.words();
        let mut services = std::mem::take(&mut self.weighing.services);
        services.retain(|name, _| self.core.services().get(name).is_some_and(is_controlled));
        let mut changed = false;
        self.weighed.retain(|name, _| self.core.services().contains_key(name));
        let weighed: BTreeSet<_> = self.core.roll().weighed.iter().chain(self.weighed.keys()).cloned().collect();
        for name in &weighed {
            let (Some(merged), Some(plan)) = (self.core.services().get(name), self.core.plan().service(name)) else { continue };
            let mut factors = BTreeMap::new();
            if is_controlled(merged) {
                let weigher = services.entry(plan.name.clone()).or_default();
                let seen = plan.members.iter().filter(|m| m.configured.0 > 0);
                let seen = seen.map(|m| (m.id, self.sight(weigher, (merged, plan), m, &told, dt))).collect();
                weigher.controller.step(dt, &seen);
                factors = weigher.controller.factors();
            }
            if merged.service.weights.agent.is_some() {
                for member in &plan.members {
                    let key = TargetKey { service: plan.name.clone(), backend: member.id };
                    let asked = words.get(&key).map_or(Factor::ONE, |w| w.report.factor());
                    let own = factors.entry(member.id).or_insert(Factor::ONE);
                    *own = if asked == Factor::ZERO { Factor::ZERO } else { Factor::of(own.as_f64() * asked.as_f64()) };
                }
            }
            factors.retain(|_, factor| *factor != Factor::ONE);
            changed |= self.weighed.get(&plan.name).map_or(!factors.is_empty(), |old| *old != factors);
            if factors.is_empty() {
                self.weighed.remove(name);
            } else {
                self.weighed.insert(name.clone(), factors);
            }
        }
        self.weighing.services = services;
        if changed {
            self.core.set_dynamic(&self.weighed);
            self.dirty(now);
        }
    }

    /// Why a backend's weight is what it is.
    pub(super) fn weight_view(&self, words: &Words, plan: &ServicePlan, member: &PlannedBackend) -> WeightView {
        let reading = self.weighing.services.get(&plan.name).and_then(|w| w.controller.reading(&member.id));
        let word = words.get(&TargetKey { service: plan.name.clone(), backend: member.id });
        let merged = self.core.services().get(&plan.name);
        let endpoint = merged.and_then(|m| m.endpoints.get(m.endpoints.binary_search_by_key(&member.id, |e| e.id).ok()?));
        let mut view = view(member, reading.as_ref(), word, endpoint.and_then(|e| e.zone.clone()));
        let by_load = merged.is_some_and(|m| m.service.weights.by == SignalWord::Load);
        let key = TargetKey { service: plan.name.clone(), backend: member.id };
        if let Some(Err(problem)) = self.monitor.status(&key).filter(|_| by_load).and_then(|status| status.load) {
            view.why.push(problem);
        }
        view
    }

    pub(super) fn agent_words(&self) -> Words {
        self.weighing.agents.words()
    }

    fn weighed_services(&self) -> impl Iterator<Item = (&ServiceName, &Merged)> {
        self.core.roll().weighed.iter().filter_map(|name| self.core.services().get_key_value(name))
    }

    fn ask_agents(&mut self) {
        let mut wanted: BTreeMap<TargetKey, Question> = BTreeMap::new();
        for (name, merged) in self.weighed_services() {
            let Some((port, interval)) = merged.service.weights.agent else { continue };
            let question = |id: &BackendId| (SocketAddr::new(id.0.ip(), port), interval);
            wanted.extend(merged.origins.keys().map(|id| (TargetKey { service: name.clone(), backend: *id }, question(id))));
        }
        self.weighing.agents.set(wanted);
    }

    /// Has more connections timed while somebody goes by it.
    fn time_connections(&mut self) {
        let wanted = self.weighed_services().any(|(_, m)| m.service.weights.by == SignalWord::Latency);
        if self.weighing.timing != wanted {
            self.weighing.timing = wanted;
            self.plane.time_many(wanted);
        }
    }

    /// What the kernel half counted, by service and backend; only where somebody wants to know.
    fn flows_told(&self) -> BTreeMap<(SocketAddr, BackendId), Told> {
        if !self.weighed_services().any(|(_, m)| is_controlled(m)) {
            return BTreeMap::new();
        }
        let counters = self.plane.counters().unwrap_or_default();
        let services = counters.services.iter();
        let rows = services.flat_map(|s| s.backends.iter().zip(&s.signals).map(move |(row, signals)| (s.vip, row, signals)));
        rows.map(|(vip, (id, stats), signals)| ((place(vip), *id), (stats.flows, *signals))).collect()
    }

    /// What was seen of one backend since the last step.
    fn sight(
        &self,
        weigher: &mut Weigher,
        (merged, plan): (&Merged, &ServicePlan),
        member: &PlannedBackend,
        told: &BTreeMap<(SocketAddr, BackendId), Told>,
        dt: f64,
    ) -> Observation {
        let key = TargetKey { service: plan.name.clone(), backend: member.id };
        let by_load = merged.service.weights.by == SignalWord::Load;
        let status = self.monitor.status(&key);
        let said = || status.as_ref().filter(|s| s.health == Health::Up).and_then(|s| s.load.clone()?.ok());
        let load = self.core.beat_of(&key).and_then(Lease::load).or_else(said).filter(|_| by_load);
        let status = status.filter(|_| !by_load);
        let waited = status.map(|s| s.waited).unwrap_or_default();
        // Who is followed from now on says nothing of before; and a target that begins anew counts from 0.
        let heard = weigher.heard.insert(member.id, waited).and_then(|before| waited.since(before)).filter(|w| w.checks > 0);
        let (begun, signals) = told.get(&(place(plan.vip), member.id)).copied().unwrap_or_default();
        let timed = weigher.timed.insert(member.id, signals).filter(|_| !by_load).map(|before| Timed::of(&before, &signals));
        let timed = timed.unwrap_or_default();
        let now = (begun, self.nat.open.get(&(plan.vip, member.id)).map_or(0, |o| o.flows));
        let flows = weigher.flows.insert(member.id, now).filter(|_| plan.mode == Mode::Nat).map(|before| {
            let arrivals = now.0.saturating_sub(before.0) as f64;
            (arrivals, (arrivals + before.1 as f64 - now.1 as f64).max(0.0))
        });
        let drawn = (timed.begun, timed.ended);
        let drawn = Some(drawn).filter(|(begun, _)| *begun >= FEWEST_DRAWN * dt && timed.stay.is_some_and(|stay| stay < LONG));
        let flows = if plan.mode == Mode::Nat { flows.filter(|(arrivals, _)| *arrivals >= FEWEST * dt) } else { drawn };
        Observation {
            weight: if member.state.takes_new() { f64::from(member.configured.0) * member.parts.ramp.as_f64() } else { 0.0 },
            latency: heard.map(|w| w.time.as_secs_f64() / w.checks as f64),
            checks: heard.map_or(0.0, |w| w.checks as f64),
            load,
            arrivals: flows.map(|f| f.0),
            completions: flows.map(|f| f.1),
            stay: timed.stay,
            stays: timed.stays,
            ..Observation::default()
        }
    }
}

/// What connections that were drawn tell of the time between two looks.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Timed {
    /// Seconds, on average, of so many.
    stay: Option<f64>,
    stays: f64,
    /// Those whose handshake was over, and those that ended.
    begun: f64,
    ended: f64,
}

impl Timed {
    fn of(before: &BackendSignals, now: &BackendSignals) -> Self {
        // Another backend's counters begin anew.
        if now.stays < before.stays || now.stay_time < before.stay_time {
            return Self::default();
        }
        let stays = (now.stays - before.stays) as f64;
        let units = (now.stay_time - before.stay_time) as f64 * f64::from(1u32 << BackendSignals::TIME_SHIFT);
        let begun = now.handshakes().1.saturating_sub(before.handshakes().1) as f64;
        let ended = stays + now.aborted.saturating_sub(before.aborted) as f64;
        Self { stay: (stays > 0.0).then(|| units / stays / 1e9), stays, begun, ended }
    }
}

/// Somebody says how much its backends can do.
pub(super) fn is_weighed(merged: &Merged) -> bool {
    is_controlled(merged) || merged.service.weights.agent.is_some()
}

/// A controller moves the weights of its backends.
fn is_controlled(merged: &Merged) -> bool {
    merged.service.weights.by != SignalWord::Static
}

fn place(vip: VipAddr) -> SocketAddr {
    SocketAddr::new(vip.addr, vip.port)
}

fn view(member: &PlannedBackend, reading: Option<&Reading>, word: Option<&Word>, zone: Option<String>) -> WeightView {
    let micros = |seconds: f64| (seconds * 1e6).round() as u64;
    let mut why = vec![format!("configured {}", member.configured.0)];
    if !member.state.takes_new() || member.configured.0 == 0 {
        why.push(format!("takes no new flows: {}", member.standing));
    }
    let parts = member.parts;
    if parts.ramp.as_f64() < 1.0 {
        why.push(format!("x {:.2}: slow start after its return", parts.ramp.as_f64()));
    }
    if let Some(r) = reading {
        why.push(format!("x {:.2}: {}", r.factor.as_f64(), because(r)));
    }
    if let Some(word) = word {
        let comment = word.report.comment.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
        why.push(format!("x {:.2}: its agent says so{comment}", word.report.factor().as_f64()));
        why.extend(word.error.as_ref().map(|e| format!("its agent: {e}; what it said before holds")));
    }
    if parts.trial != Factor::ONE {
        why.push(format!("x {:.2}: its breaker tries it with a share", parts.trial.as_f64()));
    }
    if parts.locality != Factor::ONE {
        let zone = zone.as_deref().unwrap_or("no zone");
        why.push(format!("x {:.2}: by its distance ({zone})", parts.locality.as_f64()));
    }
    WeightView {
        slow_start: parts.ramp.as_f64(),
        dynamic: parts.dynamic.as_f64(),
        locality: parts.locality.as_f64(),
        zone,
        latency_us: reading.and_then(|r| r.latency).map(micros),
        unloaded_us: reading.and_then(|r| r.unloaded).map(micros),
        stay_us: reading.and_then(|r| r.stay).map(micros),
        stay_unloaded_us: reading.and_then(|r| r.stay_unloaded).map(micros),
        inflation: reading.map(|r| r.inflation),
        reference: reading.map(|r| r.reference),
        load: reading.and_then(|r| r.load),
        agent: word.map(|w| w.report.factor().as_f64()),
        why,
    }
}

fn because(r: &Reading) -> String {
    let (own, all) = (r.inflation, r.reference);
    let stands = match r.load {
        Some(load) => format!("it reports a load of {load:.2}, and is {own:.2} times as slow as without"),
        None => format!(
            "its latency{} is {own:.2} times what it is without load",
            if r.stay.is_some() { ", of checks and connections," } else { "" }
        ),
    };
    match r.act {
        Act::Blind => "nothing was seen of its latency or load yet".to_owned(),
        Act::Out => format!("{stands}, and it takes no new flows: the factor waits for it"),
        Act::Even => format!("{stands}, about as all are ({all:.2})"),
        Act::Raised => format!("{stands}, all are {all:.2} times: it gets more"),
        Act::Lowered => format!("{stands}, all are {all:.2} times: it gets less"),
        Act::Waits => format!("{stands}, but its backlog shrinks already"),
        Act::Relieved => format!("{stands}, and more comes than it can do: relieved at once"),
        Act::Held => "more than half of the backends can't keep up: weights can't help, all stay".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timed_connections_tell_of_the_time_between_two_looks() {
        let before = BackendSignals { stays: 10, stay_time: 1_000_000, aborted: 1, ..BackendSignals::default() };
        let mut now = BackendSignals { stays: 14, stay_time: 1_000_000 + 4 * 9766, aborted: 3, ..before };
        now.accepts[12] = 7;
        let timed = Timed::of(&before, &now);
        assert!((timed.stay.unwrap() - 0.010).abs() < 1e-5, "{timed:?}");
        assert_eq!((timed.stays, timed.begun, timed.ended), (4.0, 7.0, 6.0));
        assert_eq!(Timed::of(&now, &before), Timed::default());
        assert_eq!(Timed::of(&now, &now).stay, None);
    }
}
