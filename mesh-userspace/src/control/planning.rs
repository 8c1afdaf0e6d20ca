//! From what was taken in to the next plan: only what has changed is merged and planned anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use super::{
    changes,
    core::Core,
    merge::{self, Merged},
    stale::Stale,
};
use crate::{
    events::What,
    health::{TargetKey, breaker::Gate},
    model::{BackendId, ServiceName},
    plan::{self, Plan, Preview, Seen, ServiceInput},
    weights::Factor,
};

impl Core {
    /// Plans anew what has changed; says what changes from the plan before. `seed`: see [`plan::plan`].
    pub fn replan(&mut self, seed: u64, now: Instant) -> Vec<What> {
        self.grant_leases(now);
        for (name, _) in self.steps.iter().filter(|(_, at)| **at <= now) {
            self.stale.service(name);
        }
        let events = match std::mem::take(&mut self.stale) {
            Stale::All => {
                let plan = self.plan_all(seed, now);
                let events = self.news(&self.plan, &plan);
                self.plan = plan;
                events
            }
            Stale::Some(names) => {
                let (before, after) = self.plan_some(&names, seed, now);
                let events = self.news(&before, &after);
                after.services.into_iter().for_each(|service| self.plan.put(service));
                self.plan.replan_at = after.replan_at;
                events
            }
        };
        self.reweighed.clear();
        self.adopted.clear();
        events
    }

    /// What is to be told of a change of plans.
    fn news(&self, before: &Plan, after: &Plan) -> Vec<What> {
        let grounds = |key: &TargetKey, gated| if gated { &self.gate_grounds } else { &self.evidence }.get(key).cloned();
        let mut events = changes::events(before, after, grounds);
        let live = |vip, id| self.live.get(&(vip, id)).copied().unwrap_or(0);
        // What a controller does all the time is no event.
        let routine = |p: &Preview| self.reweighed.contains(&p.service) && !p.is_restaffed();
        let noticed = plan::preview(before, after, &live).into_iter().filter(|p| !p.is_still() && !routine(p));
        events.extend(noticed.map(What::moved));
        events
    }

    fn plan_all(&mut self, seed: u64, now: Instant) -> Plan {
        let mut cache = std::mem::take(&mut self.cache);
        let beaten: BTreeMap<_, _> = self.merged.iter().filter_map(|(name, m)| Some((name, self.with_heartbeats(m)?))).collect();
        let inputs: Vec<_> = self.merged.iter().map(|(name, m)| self.input(m, beaten.get(name))).collect();
        let plan = plan::plan(&inputs, seed, now, &mut cache);
        let steps = inputs.iter().filter_map(|input| Some((input.spec.name.clone(), input.next_step(now)?))).collect();
        (self.cache, self.steps) = (cache, steps);
        plan
    }

    /// The services that were named, as they were planned and as they are now, without those that are as they were: to touch ten thousand others would
    /// take longer than all the rest.
    fn plan_some(&mut self, names: &BTreeSet<ServiceName>, seed: u64, now: Instant) -> (Plan, Plan) {
        let (mut before, mut after) = (Plan::default(), Plan::default());
        let mut cache = std::mem::take(&mut self.cache);
        for name in names {
            // Who comes or goes has all planned.
            let Some(merged) = self.merged.get(name) else { continue };
            let beaten = self.with_heartbeats(merged);
            let input = self.input(merged, beaten.as_ref());
            let (step, planned) = (input.next_step(now), plan::plan_service(&input, seed, now, &mut cache));
            match step {
                Some(at) => drop(self.steps.insert(name.clone(), at)),
                None => drop(self.steps.remove(name)),
            }
            // One that is as it was stays the very same.
            let known = self.plan.service(name);
            if known.is_none_or(|known| **known != planned) {
                before.services.extend(known.cloned());
                after.services.push(Arc::new(planned));
            }
        }
        cache.sweep_seldom();
        self.cache = cache;
        after.replan_at = self.steps.values().min().copied();
        (before, after)
    }

    /// All that is known of a service; `beaten`: see [`Core::with_heartbeats`].
    fn input<'a>(&'a self, merged: &'a Merged, beaten: Option<&'a BTreeMap<BackendId, Seen>>) -> ServiceInput<'a> {
        static UNSEEN: BTreeMap<BackendId, Seen> = BTreeMap::new();
        static UNDISTURBED: BTreeMap<BackendId, Factor> = BTreeMap::new();
        static FREE: BTreeMap<BackendId, Gate> = BTreeMap::new();
        let name = &merged.spec.name;
        ServiceInput {
            spec: &merged.spec,
            endpoints: &merged.endpoints,
            intents: &merged.intents,
            seen: beaten.or_else(|| self.seen.get(name)).unwrap_or(&UNSEEN),
            dynamic: self.dynamic.get(name).unwrap_or(&UNDISTURBED),
            gates: self.gates.get(name).unwrap_or(&FREE),
            shared: self.config.shares_flows(),
        }
    }

    /// The same where nothing can have changed but the backends of one service.
    pub(super) fn merge_service(&mut self, name: &ServiceName) {
        let Some(old) = self.merged.get(name) else { return drop(self.merge()) };
        let new = merge::again(old, &self.state, &self.files, &self.found);
        // Weights are part of what checks are told.
        let weighed = new.service.check.is_some() && (new.endpoints != old.endpoints || new.intents != old.intents);
        self.wants_anew |= weighed || !new.origins.keys().eq(old.origins.keys());
        let gone: Vec<BackendId> = old.origins.keys().filter(|id| !new.has(id)).copied().collect();
        for backend in gone {
            let key = TargetKey { service: name.clone(), backend };
            if let Some(seen) = self.seen.get_mut(name) {
                seen.remove(&backend);
            }
            self.evidence.remove(&key);
            self.gate_grounds.remove(&key);
            self.leases.remove(&key);
            self.seeds.remove(&key);
        }
        self.stale.service(name);
        self.roll.enter(name, &new);
        self.merged.insert(name.clone(), new);
    }
}
