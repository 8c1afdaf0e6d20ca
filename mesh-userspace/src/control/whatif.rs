//! What an order would do, before it is given: the same plan, of a copy of all that decides.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    core::Core,
    error::ControlError,
    handle::BackendSpec,
    merge::Merged,
    startup::as_far_as_possible,
    view::{Admin, Origin},
};
use crate::{
    config,
    health::Health,
    model::{BackendId, ServiceName},
    plan::{self, Plan, Preview, Seen, ServiceInput},
};

/// A change that is thought through. `B`: how the backend is named.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Intention<B> {
    Add {
        service: ServiceName,
        backend: Box<BackendSpec>,
    },
    Rm {
        service: ServiceName,
        backend: B,
    },
    Drain {
        service: ServiceName,
        backend: B,
    },
    Undrain {
        service: ServiceName,
        backend: B,
    },
    Weight {
        service: ServiceName,
        backend: B,
        weight: u16,
    },
    /// A reload with this configuration.
    Apply {
        /// What the file is called: its extension tells the syntax, and relative paths are relative to it.
        file: PathBuf,
        text: String,
    },
}

/// What a change would do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanView {
    /// What is to change, by service; empty = nothing.
    pub services: Vec<Preview>,
    /// The largest share of a service's hash space that moves, 0 to 1.
    pub moved_share: f64,
    /// Open flows that are kept and lost where they are counted (`nat`).
    pub flows_kept: u64,
    pub flows_lost: u64,
    /// What the numbers take for granted.
    pub assumed: Vec<String>,
}

impl Core {
    /// What `intention` would do now. Backends that it adds are taken to be healthy.
    pub fn what_if(&mut self, intention: Intention<BackendId>, seed: u64, now: Instant) -> Result<PlanView, ControlError> {
        let mut trial = self.copy();
        trial.carry_out(intention)?;
        let mut assumed = Vec::new();
        trial.assume_health(&self.merged, &mut assumed);
        let planned = trial.merged.values().map(|merged| {
            let known = self.plan.service(&merged.spec.name);
            match known.filter(|_| self.merged.get(&merged.spec.name) == Some(merged)) {
                Some(same) => same.clone(),
                None => {
                    let none = BTreeMap::new();
                    let undisturbed = BTreeMap::new();
                    let dynamic = self.dynamic.get(&merged.spec.name).unwrap_or(&undisturbed);
                    let seen = trial.seen.get(&merged.spec.name).unwrap_or(&none);
                    let free = BTreeMap::new();
                    let gates = self.gates.get(&merged.spec.name).unwrap_or(&free);
                    let input = ServiceInput {
                        spec: &merged.spec,
                        endpoints: &merged.endpoints,
                        intents: &merged.intents,
                        seen,
                        dynamic,
                        gates,
                        shared: self.config.shares_flows(),
                    };
                    Arc::new(plan::plan_service(&input, seed, now, &mut self.cache))
                }
            }
        });
        let after = Plan { services: planned.collect(), replan_at: None };
        let live = |vip, id| self.live.get(&(vip, id)).copied().unwrap_or(0);
        let services = plan::preview(&self.plan, &after, &live);
        Ok(PlanView {
            moved_share: services.iter().map(|s| s.moved_share).fold(0.0, f64::max),
            flows_kept: services.iter().filter_map(|s| s.flows.kept).sum(),
            flows_lost: services.iter().filter_map(|s| s.flows.lost).sum(),
            services,
            assumed,
        })
    }

    /// All that decides, without what was made of it.
    fn copy(&self) -> Self {
        let (mut copy, _) = Self::new(self.config.clone(), self.state.clone());
        copy.derived.clone_from(&self.derived);
        copy.told.clone_from(&self.told);
        copy.files.clone_from(&self.files);
        copy.found.clone_from(&self.found);
        copy.seen.clone_from(&self.seen);
        copy.merge();
        copy
    }

    fn carry_out(&mut self, intention: Intention<BackendId>) -> Result<(), ControlError> {
        match intention {
            Intention::Add { service, backend } => self.add_backend(&service, &backend).map(drop),
            Intention::Rm { service, backend } => self.remove_backend(&service, backend),
            Intention::Drain { service, backend } => self.set_admin(&service, backend, Admin::Drain).map(drop),
            Intention::Undrain { service, backend } => self.set_admin(&service, backend, Admin::In).map(drop),
            Intention::Weight { service, backend, weight } => self.set_weight(&service, backend, weight),
            Intention::Apply { file, text } => self.apply_text(&file, &text),
        }
    }

    fn apply_text(&mut self, file: &Path, text: &str) -> Result<(), ControlError> {
        let invalid = |e: config::ConfigError| ControlError::Invalid(e.to_string());
        let syntax = config::syntax_of(file).map_err(invalid)?;
        let loaded = config::parse(text, syntax, file).map_err(invalid)?;
        let config = as_far_as_possible(loaded.config, &self.config);
        self.reload(config).map(drop).map_err(ControlError::Invalid)
    }

    /// Who is new is healthy, for the plan; whether it is, the checks will tell.
    fn assume_health(&mut self, before: &BTreeMap<ServiceName, Merged>, assumed: &mut Vec<String>) {
        for (name, merged) in self.merged.iter().filter(|(_, m)| m.spec.checked) {
            let new = |id: &&BackendId| !before.get(name).is_some_and(|old| old.has(id));
            for id in merged.origins.keys().filter(new) {
                self.seen.entry(name.clone()).or_default().insert(*id, Seen { health: Health::Up, back_since: None });
                assumed.push(format!("{name}: backend {id} is healthy"));
            }
            let unread = merged.service.backends_file.is_some() && !self.files.contains_key(name);
            let unheard = merged.sources().any(|(key, _)| !self.found.contains_key(&key));
            if unread || unheard {
                let from = if unread { Origin::File } else { Origin::Source };
                assumed.push(format!("{name}: its {from} names no backends, for it was not asked"));
            }
        }
    }
}
