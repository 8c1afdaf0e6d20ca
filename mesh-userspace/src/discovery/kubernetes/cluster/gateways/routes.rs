//! Routes at the listeners of our Gateways, and the Services that they lead to. Pure.

use std::collections::BTreeSet;

use kube::{ResourceExt, api::DynamicObject};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Gateway, generation, wish};
use crate::discovery::kubernetes::cluster::{
    ClusterSpec,
    conditions::{Condition, conditions},
    derive::{Derived, source},
    objects::{Kind, Objects},
};

/// Weights of several Services are told in this sum, so that shares of many endpoints stay whole numbers.
const WHOLE: u64 = 60_000;

/// A route that has come to a listener.
pub struct Attached {
    /// By their place in the lists.
    pub gateway: usize,
    pub listener: usize,
    pub sources: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
}

#[derive(Deserialize)]
struct BackendRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i32>,
    weight: Option<u64>,
}

/// Why a route leads nowhere: reason and message.
type Unresolved = (&'static str, String);

/// Every route, the oldest first; a listener has one.
pub fn attach(objects: &Objects, spec: &ClusterSpec, gateways: &[Gateway<'_>], now: &str, derived: &mut Derived) -> Vec<Attached> {
    let mut attached = Vec::new();
    let mut taken: BTreeSet<(usize, usize)> = BTreeSet::new();
    for (kind, udp) in [(Kind::TcpRoutes, false), (Kind::UdpRoutes, true)] {
        let mut routes: Vec<&DynamicObject> = objects.dynamic(kind).collect();
        routes.sort_by_key(|r| (r.creation_timestamp().map(|t| t.0.to_string()), r.namespace(), r.name_any()));
        for route in routes {
            let read = match serde_json::from_value::<RouteSpec>(route.data["spec"].clone()) {
                Ok(read) => read,
                Err(error) => {
                    derived.problems.push(format!("{}: {error}", shown(kind, route)));
                    continue;
                }
            };
            let resolved = resolve(objects, spec, (kind, route), &read);
            let mut parents = Vec::new();
            for (index, parent) in read.parent_refs.iter().enumerate() {
                let Some(at) = gateways.iter().position(|g| leads_to(parent, route, g)) else { continue };
                let gateway = &gateways[at];
                let listeners = fitting(parent, route, gateway, udp);
                let free: Vec<usize> = listeners.iter().copied().filter(|l| taken.insert((at, *l))).collect();
                let refused = match (listeners.is_empty(), free.is_empty()) {
                    (true, _) => Some((
                        "NoMatchingParent",
                        "no listener of the Gateway takes it: its protocol, name, port or namespace differs".to_owned(),
                    )),
                    (false, true) => Some(("RouteConflict", "an older route has its listener".to_owned())),
                    _ => None,
                };
                let sources = resolved.as_ref().cloned().unwrap_or_default();
                attached.extend(free.into_iter().map(|listener| Attached { gateway: at, listener, sources: sources.clone() }));
                for why in refused.iter().chain(resolved.as_ref().err()) {
                    derived.problems.push(format!("{}: {}", shown(kind, route), why.1));
                }
                parents.push(parent_status(route, &route.data["spec"]["parentRefs"][index], spec, refused, resolved.as_ref().err(), now));
            }
            status(kind, route, spec, parents, derived);
        }
    }
    attached
}

fn leads_to(parent: &ParentRef, route: &DynamicObject, gateway: &Gateway<'_>) -> bool {
    let namespace = parent.namespace.clone().or_else(|| route.namespace()).unwrap_or_default();
    parent.group.as_deref().unwrap_or("gateway.networking.k8s.io") == "gateway.networking.k8s.io"
        && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        && parent.name == gateway.name
        && namespace == gateway.namespace
}

/// Listeners that the reference means, and that take the route.
fn fitting(parent: &ParentRef, route: &DynamicObject, gateway: &Gateway<'_>, udp: bool) -> Vec<usize> {
    let namespace = route.namespace().unwrap_or_default();
    let fits = gateway.listeners.iter().enumerate().filter(|(_, listener)| {
        listener.udp() == Some(udp)
            && parent.section_name.as_ref().is_none_or(|section| *section == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
            && listener.admits(&namespace, &gateway.namespace)
    });
    fits.map(|(index, _)| index).collect()
}

/// The sources that a route leads to.
fn resolve(objects: &Objects, spec: &ClusterSpec, (of, route): (Kind, &DynamicObject), read: &RouteSpec) -> Result<Vec<Value>, Unresolved> {
    let own = route.namespace().unwrap_or_default();
    let [rule] = read.rules.as_slice() else {
        return Err((
            "UnsupportedValue",
            format!("it has {} rules: connections are told apart by nothing but their listener, so write one", read.rules.len()),
        ));
    };
    let sum: u64 = rule.backend_refs.iter().map(|b| b.weight.unwrap_or(1)).sum();
    let mut sources = Vec::new();
    for backend in &rule.backend_refs {
        let namespace = backend.namespace.clone().unwrap_or_else(|| own.clone());
        let (group, kind) = (backend.group.as_deref().unwrap_or_default(), backend.kind.as_deref().unwrap_or("Service"));
        if !group.is_empty() || kind != "Service" {
            return Err(("InvalidKind", format!("{group}/{kind} {}: only Services are led to", backend.name)));
        }
        if namespace != own && !granted(objects, (of, &own), &namespace, &backend.name) {
            return Err((
                "RefNotPermitted",
                format!(
                    "{namespace}/{} is in another namespace: put the route beside the Service, or a ReferenceGrant that allows it",
                    backend.name
                ),
            ));
        }
        let missing = || ("BackendNotFound", format!("there is no Service {namespace}/{} with that port", backend.name));
        let port = port_name(objects, &namespace, &backend.name, backend.port).ok_or_else(missing)?;
        let share = (rule.backend_refs.len() > 1).then(|| share(backend.weight.unwrap_or(1), sum));
        sources.push(source(spec, &namespace, &backend.name, &port, share, false));
    }
    Ok(sources)
}

/// Whether a ReferenceGrant beside the Service lets routes of this kind and namespace lead to it.
fn granted(objects: &Objects, (of, from): (Kind, &str), namespace: &str, service: &str) -> bool {
    let some = |spec: &Value, list: &str, fits: &dyn Fn(&Value) -> bool| spec[list].as_array().is_some_and(|all| all.iter().any(fits));
    let route = of.resource();
    objects.dynamic(Kind::ReferenceGrants).filter(|grant| grant.namespace().as_deref() == Some(namespace)).any(|grant| {
        let spec = &grant.data["spec"];
        some(spec, "from", &|f| f["group"] == route.group.as_str() && f["kind"] == route.kind.as_str() && f["namespace"] == from)
            && some(spec, "to", &|t| t["group"] == "" && t["kind"] == "Service" && (t["name"].is_null() || t["name"] == service))
    })
}

/// Name of a Service's port, by its number; empty = it is its only one and has no name.
pub fn port_name(objects: &Objects, namespace: &str, service: &str, number: Option<i32>) -> Option<String> {
    let service = objects.services.get(&(namespace.to_owned(), service.to_owned()))?;
    let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
    let port = match number {
        Some(number) => ports.iter().find(|p| p.port == number)?,
        None => ports.first().filter(|_| ports.len() == 1)?,
    };
    Some(port.name.clone().unwrap_or_default())
}

/// `weight` of `sum`, as weight of all endpoints together.
pub fn share(weight: u64, sum: u64) -> u16 {
    let share = u128::from(weight) * u128::from(WHOLE) / u128::from(sum.max(1));
    let share = if weight > 0 { share.max(1) } else { 0 };
    u16::try_from(share).unwrap_or(u16::MAX)
}

fn parent_status(
    route: &DynamicObject,
    parent: &Value,
    spec: &ClusterSpec,
    refused: Option<Unresolved>,
    unresolved: Option<&Unresolved>,
    now: &str,
) -> Value {
    let (accepted, resolved) = (refused.is_none(), unresolved.is_none());
    let (reason, message) = refused.unwrap_or(("Accepted", String::new()));
    let (refs_reason, refs_message) = unresolved.cloned().unwrap_or(("ResolvedRefs", String::new()));
    let all = [
        Condition { kind: "Accepted", holds: accepted, reason, message },
        Condition { kind: "ResolvedRefs", holds: resolved, reason: refs_reason, message: refs_message },
    ];
    let before = parents_of(route).find(|p| p["controllerName"] == spec.class.as_str() && p["parentRef"] == *parent);
    let before = before.map_or(&Value::Null, |p| &p["conditions"]);
    json!({"parentRef": parent, "controllerName": spec.class, "conditions": conditions(&all, before, generation(route), now)})
}

/// What other controllers say stays.
fn status(kind: Kind, route: &DynamicObject, spec: &ClusterSpec, parents: Vec<Value>, derived: &mut Derived) {
    let others = parents_of(route).filter(|p| p["controllerName"] != spec.class.as_str()).cloned();
    let all: Vec<Value> = others.chain(parents).collect();
    if !all.is_empty() || parents_of(route).next().is_some() {
        wish(derived, kind, route, json!({"parents": all}));
    }
}

fn parents_of(route: &DynamicObject) -> impl Iterator<Item = &Value> {
    route.data["status"]["parents"].as_array().into_iter().flatten()
}

fn shown(kind: Kind, route: &DynamicObject) -> String {
    format!("{} {}/{}", kind.resource().kind, route.namespace().unwrap_or_default(), route.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parts_of_the_whole() {
        assert_eq!((share(1, 2), share(9, 10), share(0, 5), share(1, 1_000_000)), (30_000, 54_000, 0, 1));
        assert_eq!((share(u64::MAX, u64::MAX), share(0, 0)), (60_000, 0));
    }
}
