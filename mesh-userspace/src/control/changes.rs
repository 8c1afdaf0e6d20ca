//! What changes from one plan to the next, as events. Pure.

use super::view::StateWord;
use crate::{
    events::{Grounds, What},
    health::TargetKey,
    model::{BackendId, ServiceName, Weight},
    plan::{self, Change, Plan, ServiceChange, Standing},
};

/// `evidence`: why a backend's health is what it is; with `true`, what its breaker or its limit is.
pub fn events(before: &Plan, after: &Plan, evidence: impl Fn(&TargetKey, bool) -> Option<Grounds>) -> Vec<What> {
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

fn changed(change: ServiceChange, evidence: &impl Fn(&TargetKey, bool) -> Option<Grounds>, events: &mut Vec<What>) {
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
    evidence: &impl Fn(&TargetKey, bool) -> Option<Grounds>,
    events: &mut Vec<What>,
) {
    let (from, to) = (word(before.0), word(after.0));
    if from != to {
        let key = TargetKey { service: service.clone(), backend };
        let Grounds { words, values } = grounds(before.0, after.0, |gated| evidence(&key, gated));
        events.push(What::BackendState { service: service.clone(), backend, from, to, evidence: words, values });
    }
    if before.1 != after.1 {
        events.push(What::WeightChanged { service: service.clone(), backend, weight: after.1.0 });
    }
}

/// What a change rests on: the health, a breaker or limit, or what is wished.
fn grounds(before: Standing, after: Standing, evidence: impl Fn(bool) -> Option<Grounds>) -> Grounds {
    let gated = |s| matches!(s, Standing::Broken | Standing::Full | Standing::OnTrial);
    let wished = |s| matches!(s, Standing::Draining | Standing::Maintenance | Standing::Weightless | Standing::Standby);
    let ill = |s| matches!(s, Standing::Unhealthy | Standing::Suspected | Standing::Unchecked);
    let why = match () {
        () if gated(after) || gated(before) && !wished(after) && !ill(after) => evidence(true),
        () if wished(after) => None,
        () if before == Standing::Draining => None,
        () if before == Standing::Standby && !ill(after) => return Grounds::words("too few of the others can be used"),
        () => evidence(false),
    };
    why.unwrap_or_else(|| Grounds::words(after.to_string()))
}

/// The state as people are told it.
pub fn word(standing: Standing) -> StateWord {
    match standing {
        Standing::Maintenance => StateWord::Maintenance,
        Standing::Unhealthy => StateWord::Down,
        Standing::Unchecked => StateWord::Unknown,
        Standing::Draining => StateWord::Draining,
        Standing::Suspected => StateWord::Soft,
        Standing::Broken => StateWord::Open,
        Standing::Full => StateWord::Full,
        Standing::Standby => StateWord::Standby,
        Standing::OnTrial => StateWord::Trial,
        Standing::Recovering => StateWord::Recovering,
        Standing::Weightless | Standing::Serving => StateWord::Active,
    }
}
