//! Configuration, discovered endpoints and the operator's changes -> what is wanted of each service. Pure.

use std::collections::{BTreeMap, HashMap};

use super::{
    beating::source_key,
    view::{Admin, Origin},
};
use crate::{
    config::{Config, Service},
    discovery::{EndpointSet, Fit, SourceKey, SourceSpec},
    model::{BackendId, ConnectionLimits, Endpoint, ServiceName, VipAddr, Weight},
    plan,
    state::{Change, Presence, State},
};

/// One service with all that stands behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct Merged {
    pub service: Service,
    pub origin: Origin,
    pub spec: plan::ServiceSpec,
    /// Sorted by id; those that the operator removed are not here.
    pub endpoints: Vec<Endpoint>,
    pub origins: BTreeMap<BackendId, Origin>,
    pub intents: BTreeMap<BackendId, plan::Intent>,
}

impl Merged {
    /// What the operator wants of a backend.
    pub fn admin(&self, id: &BackendId) -> Admin {
        match self.intents.get(id).map(|i| i.admin) {
            Some(plan::Admin::Drain | plan::Admin::Maintenance) => Admin::Drain,
            _ => Admin::In,
        }
    }

    /// What a backend weighs where it is to take new flows; 0 where it is drained.
    pub fn weight(&self, endpoint: &Endpoint) -> u16 {
        let intent = self.intents.get(&endpoint.id).copied().unwrap_or_default();
        if intent.admin == plan::Admin::In { intent.weight.unwrap_or(endpoint.weight).0 } else { 0 }
    }

    /// The service's sources.
    pub fn sources(&self) -> impl Iterator<Item = (SourceKey, &SourceSpec)> {
        self.service.sources.iter().map(|spec| (SourceKey { service: self.service.name.clone(), source: spec.kind.to_string() }, spec))
    }

    /// How many flows a backend may have.
    pub fn limits(&self, endpoint: &Endpoint) -> ConnectionLimits {
        endpoint.limits.or(self.service.limits)
    }

    pub fn has(&self, id: &BackendId) -> bool {
        self.origins.contains_key(id)
    }
}

/// Services by name, and those of a cluster or by CLI that the others leave no place for, with the reason.
pub fn merge(
    config: &Config,
    state: &State,
    derived: &BTreeMap<ServiceName, Service>,
    added: &BTreeMap<ServiceName, Service>,
    files: &BTreeMap<ServiceName, EndpointSet>,
    found: &BTreeMap<SourceKey, EndpointSet>,
) -> (BTreeMap<ServiceName, Merged>, Vec<(ServiceName, String)>) {
    let mut services: BTreeMap<ServiceName, (&Service, Origin)> = BTreeMap::new();
    for service in config.services.values().filter(|s| !state.removed.contains(&s.name)) {
        services.insert(service.name.clone(), (service, Origin::Config));
    }
    let mut shadowed = Vec::new();
    let mut vips: HashMap<VipAddr, ServiceName> = services.values().map(|(s, _)| (s.vip, s.name.clone())).collect();
    let of_cluster = derived.values().filter(|s| !state.removed.contains(&s.name)).map(|s| (s, Origin::Kubernetes));
    for (service, origin) in of_cluster.chain(added.values().map(|s| (s, Origin::Cli))) {
        if services.contains_key(&service.name) || config.services.contains_key(&service.name) {
            continue;
        }
        match vips.get(&service.vip) {
            Some(other) => shadowed.push((service.name.clone(), format!("its VIP {} is that of service `{other}`", service.vip))),
            None => {
                vips.insert(service.vip, service.name.clone());
                services.insert(service.name.clone(), (service, origin));
            }
        }
    }
    let merged = services.into_iter().map(|(name, (service, origin))| (name, with_backends(service, origin, state, files, found)));
    (merged.collect(), shadowed)
}

/// The same for one service that was merged before, whose backends may be others now.
pub fn again(
    merged: &Merged,
    state: &State,
    files: &BTreeMap<ServiceName, EndpointSet>,
    found: &BTreeMap<SourceKey, EndpointSet>,
) -> Merged {
    with_backends(&merged.service, merged.origin, state, files, found)
}

fn with_backends(
    service: &Service,
    origin: Origin,
    state: &State,
    files: &BTreeMap<ServiceName, EndpointSet>,
    found: &BTreeMap<SourceKey, EndpointSet>,
) -> Merged {
    let name = &service.name;
    // What is no longer asked for no longer counts.
    let key = |spec: &SourceSpec| SourceKey { service: name.clone(), source: spec.kind.to_string() };
    let itself = service.heartbeat.filter(|h| h.register).map(|_| source_key(name));
    let told = Told {
        file: files.get(name).filter(|_| service.backends_file.is_some()),
        sources: service.sources.iter().map(key).chain(itself).filter_map(|key| found.get(&key)).collect(),
    };
    static UNCHANGED: BTreeMap<BackendId, Change> = BTreeMap::new();
    one(service, origin, &told, state.backends.get(name).unwrap_or(&UNCHANGED))
}

/// What a service's file and its sources say.
struct Told<'a> {
    file: Option<&'a EndpointSet>,
    sources: Vec<&'a EndpointSet>,
}

/// A backend that several name is the first one's: the service itself, its file, its sources, the CLI.
fn one(service: &Service, origin: Origin, told: &Told<'_>, changes: &BTreeMap<BackendId, Change>) -> Merged {
    let mut found: BTreeMap<BackendId, (Endpoint, Origin)> = BTreeMap::new();
    for (id, change) in changes.iter().filter(|(_, c)| c.presence == Presence::Added) {
        let weight = change.weight.map_or(Weight::ONE, Weight);
        found.insert(
            *id,
            (
                Endpoint {
                    name: change.name.clone(),
                    zone: change.zone.clone(),
                    capacity: change.capacity,
                    backup: change.backup,
                    limits: change.limits,
                    quic_server_id: change.quic_server_id,
                    ..Endpoint::new(*id, weight)
                },
                Origin::Cli,
            ),
        );
    }
    // Until a source answers for a service that has changed, what it said may no longer fit.
    let fit = Fit { vip: service.vip, mode: service.mode, port: service.vip.port };
    for endpoint in told.sources.iter().flat_map(|set| set.iter()).filter(|e| fit.admits(e)) {
        found.insert(endpoint.id, (endpoint.clone(), Origin::Source));
    }
    for endpoint in told.file.into_iter().flat_map(EndpointSet::iter) {
        found.insert(endpoint.id, (endpoint.clone(), Origin::File));
    }
    for endpoint in &service.backends {
        found.insert(endpoint.id, (endpoint.clone(), origin));
    }
    found.retain(|id, _| changes.get(id).is_none_or(|c| c.presence != Presence::Removed));
    let mut intents: BTreeMap<_, _> =
        changes.iter().filter(|(id, _)| found.contains_key(id)).map(|(id, change)| (*id, intent(change))).collect();
    for (id, _) in found.iter().filter(|(_, (endpoint, _))| endpoint.drain) {
        intents.entry(*id).or_default().admin = plan::Admin::Drain;
    }
    Merged {
        spec: plan::ServiceSpec {
            name: service.name.clone(),
            vip: service.vip,
            mode: service.mode,
            ways: service.ways.clone(),
            when_empty: service.when_empty,
            announce: service.announce.clone(),
            checked: service.check.is_some() || service.heartbeat.is_some(),
            log2_slots: service.log2_slots,
            scheduler: service.scheduler,
            locality: service.locality.clone(),
            backup_below: service.backup_below,
        },
        intents,
        origins: found.iter().map(|(id, (_, origin))| (*id, *origin)).collect(),
        endpoints: found.into_values().map(|(endpoint, _)| endpoint).collect(),
        service: service.clone(),
        origin,
    }
}

fn intent(change: &Change) -> plan::Intent {
    let admin = match change.admin {
        Admin::In => plan::Admin::In,
        Admin::Drain if change.drain.is_some_and(|order| order.cut) => plan::Admin::Maintenance,
        Admin::Drain => plan::Admin::Drain,
    };
    plan::Intent { admin, weight: change.weight.map(Weight) }
}
