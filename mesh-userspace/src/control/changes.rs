//! What changes from one plan to the next, as events. Pure.

use super::view::StateWord;
use crate::{
    events::What,
    health::TargetKey,
    model::{BackendId, ServiceName, Weight},
    plan::{self, Change, Plan, ServiceChange, Standing},
};

/// `evidence`: why a backend's health is what it is.
pub fn events(before: &Plan, after: &Plan, evidence: impl Fn(&TargetKey) -> Option<String>) -> Vec<What> {
    let mut events = Vec::new();
    for change in plan::diff(before, after) {
        match change {
            Change::Added { service } => {
                let empty = after.services.iter().any(|s| s.name == service && s.no_backends);
                events.push(What::ServiceAdded { service: service.clone() });
                if empty {
                    events.push(What::ServiceWithoutBackends { service });
                }
            }
            Change::Removed { service } => events.push(What::ServiceRemoved { service }),
            Change::Changed(change) => changed(change, &evidence, &mut events),
        }
    }
    events
}

fn changed(change: ServiceChange, evidence: &impl Fn(&TargetKey) -> Option<String>, events: &mut Vec<What>) {
    for backend in change.backends {
        match (backend.before, backend.after) {
            (None, _) => events.push(What::BackendAdded { service: change.service.clone(), backend: backend.id }),
            (_, None) => events.push(What::BackendRemoved { service: change.service.clone(), backend: backend.id }),
            (Some(before), Some(after)) => stands(&change.service, backend.id, before, after, evidence, events),
        }
    }
    if change.no_backends == Some(true) {
        events.push(What::ServiceWithoutBackends { service: change.service });
    }
}

fn stands(
    service: &ServiceName,
    backend: BackendId,
    before: (Standing, Weight),
    after: (Standing, Weight),
    evidence: &impl Fn(&TargetKey) -> Option<String>,
    events: &mut Vec<What>,
) {
    let (from, to) = (word(before.0), word(after.0));
    if from != to {
        let by_health =
            !matches!(after.0, Standing::Draining | Standing::Maintenance | Standing::Weightless) && before.0 != Standing::Draining;
        let why = evidence(&TargetKey { service: service.clone(), backend }).filter(|_| by_health);
        let evidence = why.unwrap_or_else(|| after.0.to_string());
        events.push(What::BackendState { service: service.clone(), backend, from, to, evidence });
    }
    if before.1 != after.1 {
        events.push(What::WeightChanged { service: service.clone(), backend, weight: after.1.0 });
    }
}

/// The state as people are told it.
pub fn word(standing: Standing) -> StateWord {
    match standing {
        Standing::Maintenance => StateWord::Maintenance,
        Standing::Unhealthy => StateWord::Down,
        Standing::Unchecked => StateWord::Unknown,
        Standing::Draining => StateWord::Draining,
        Standing::Suspected => StateWord::Soft,
        Standing::Recovering => StateWord::Recovering,
        Standing::Weightless | Standing::Serving => StateWord::Active,
    }
}
