//! Gateway API: Gateways of our classes, and the TCPRoutes and UDPRoutes at their listeners. Pure.

mod routes;

use std::net::IpAddr;

use kube::{ResourceExt, api::DynamicObject};
use serde::Deserialize;
use serde_json::{Value, json};

use self::routes::{Attached, attach};
pub use self::routes::{port_name, share};
use super::{
    ClusterSpec,
    addresses::{Claim, Given},
    conditions::{Condition, conditions},
    derive::{Derived, Made},
    objects::{Kind, Objects},
    status::Wish,
};

/// What of a Gateway's specification matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GatewaySpec {
    gateway_class_name: String,
    #[serde(default)]
    listeners: Vec<Listener>,
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub name: String,
    pub port: u16,
    pub protocol: String,
    allowed_routes: Option<AllowedRoutes>,
}

#[derive(Clone, Deserialize)]
struct AllowedRoutes {
    namespaces: Option<From>,
}

#[derive(Clone, Deserialize)]
struct From {
    from: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    value: String,
}

/// A Gateway of ours.
pub struct Gateway<'a> {
    pub object: &'a DynamicObject,
    pub namespace: String,
    pub name: String,
    pub listeners: Vec<Listener>,
    wanted: Vec<String>,
}

impl Listener {
    pub fn udp(&self) -> Option<bool> {
        match self.protocol.as_str() {
            "TCP" => Some(false),
            "UDP" => Some(true),
            _ => None,
        }
    }

    /// Whether routes of that namespace may come to a listener in `own`.
    pub fn admits(&self, namespace: &str, own: &str) -> bool {
        let from = self.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref()?.from.as_deref()).unwrap_or("Same");
        from == "All" || from == "Same" && namespace == own
    }
}

/// What the Gateways want of the pool: one IPv4 address each, or those that they name.
pub fn claims(objects: &Objects, spec: &ClusterSpec, claims: &mut Vec<Claim>) {
    for gateway in ours(objects, spec, &mut Vec::new()) {
        let wanted: Vec<IpAddr> = gateway.wanted.iter().filter_map(|w| w.parse().ok()).collect();
        for v4 in gateway.families() {
            claims.push(Claim {
                name: gateway.shown(),
                created: gateway.object.creation_timestamp().map(|t| t.0.to_string()).unwrap_or_default(),
                v4,
                wanted: wanted.iter().copied().find(|a| a.is_ipv4() == v4),
                held: gateway.held(),
            });
        }
    }
}

pub fn derive(objects: &Objects, spec: &ClusterSpec, given: &Given, now: &str, derived: &mut Derived) {
    classes(objects, spec, now, derived);
    let gateways = ours(objects, spec, &mut derived.problems);
    let attached = attach(objects, spec, &gateways, now, derived);
    for (index, gateway) in gateways.iter().enumerate() {
        let attached: Vec<&Attached> = attached.iter().filter(|a| a.gateway == index).collect();
        one(gateway, &attached, spec, given, now, derived);
    }
}

/// Classes that name us are told that we are here.
fn classes(objects: &Objects, spec: &ClusterSpec, now: &str, derived: &mut Derived) {
    for class in objects.dynamic(Kind::GatewayClasses).filter(|c| c.data["spec"]["controllerName"] == spec.class.as_str()) {
        let accepted = Condition { kind: "Accepted", holds: true, reason: "Accepted", message: "mesh balances its Gateways".to_owned() };
        let status = conditions(&[accepted], &class.data["status"]["conditions"], generation(class), now);
        wish(derived, Kind::GatewayClasses, class, json!({"conditions": status}));
    }
}

fn ours<'a>(objects: &'a Objects, spec: &ClusterSpec, problems: &mut Vec<String>) -> Vec<Gateway<'a>> {
    let class = |name: &str| {
        objects.dynamic(Kind::GatewayClasses).any(|c| c.name_any() == name && c.data["spec"]["controllerName"] == spec.class.as_str())
    };
    let one = |object: &'a DynamicObject| {
        if !class(object.data["spec"]["gatewayClassName"].as_str().unwrap_or_default()) {
            return None;
        }
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match serde_json::from_value::<GatewaySpec>(object.data["spec"].clone()) {
            Ok(read) => {
                debug_assert!(class(&read.gateway_class_name));
                let wanted =
                    read.addresses.into_iter().filter(|a| a.kind.as_deref().unwrap_or("IPAddress") == "IPAddress").map(|a| a.value);
                Some(Gateway { object, namespace, name, listeners: read.listeners, wanted: wanted.filter(|w| !w.is_empty()).collect() })
            }
            Err(error) => {
                problems.push(format!("Gateway {namespace}/{name}: {error}"));
                None
            }
        }
    };
    objects.dynamic(Kind::Gateways).filter_map(one).collect()
}

impl Gateway<'_> {
    fn shown(&self) -> String {
        format!("Gateway {}/{}", self.namespace, self.name)
    }

    fn families(&self) -> Vec<bool> {
        let named = |v4: bool| self.wanted.iter().any(|w| w.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4() == v4));
        let families: Vec<bool> = [true, false].into_iter().filter(|v4| named(*v4)).collect();
        if families.is_empty() { vec![true] } else { families }
    }

    fn held(&self) -> Vec<IpAddr> {
        let addresses = self.object.data["status"]["addresses"].as_array();
        addresses.into_iter().flatten().filter_map(|a| a["value"].as_str()?.parse().ok()).collect()
    }
}

fn one(gateway: &Gateway<'_>, attached: &[&Attached], spec: &ClusterSpec, given: &Given, now: &str, derived: &mut Derived) {
    let (mut addresses, mut why) = (Vec::new(), None);
    for v4 in gateway.families() {
        match given.get(&(gateway.shown(), v4)) {
            Some(Ok(addr)) => addresses.push(*addr),
            Some(Err(reason)) => why = Some(reason.clone()),
            None => {}
        }
    }
    derived.problems.extend(why.iter().map(|why| format!("{}: {why}", gateway.shown())));
    let held = gateway.held();
    for route in attached.iter().filter(|a| !a.sources.is_empty()) {
        let Some(listener) = gateway.listeners.get(route.listener) else { continue };
        // As with Services: what stands in the status is what every node agrees about.
        for addr in addresses.iter().filter(|a| held.contains(a)) {
            let family = if addr.is_ipv4() { "" } else { "/v6" };
            let name = format!("gateway/{}/{}/{}{family}", gateway.namespace, gateway.name, listener.name);
            let udp = listener.udp().unwrap_or(false);
            derived.make(spec, Made { name, vip: *addr, port: listener.port, udp, own: Vec::new(), sources: route.sources.clone() });
        }
    }
    let status = status(gateway, attached, &addresses, why, now);
    wish(derived, Kind::Gateways, gateway.object, status);
}

fn status(gateway: &Gateway<'_>, attached: &[&Attached], addresses: &[IpAddr], why: Option<String>, now: &str) -> Value {
    let (before, generation) = (&gateway.object.data["status"], generation(gateway.object));
    let programmed = why.is_none();
    let all = [
        Condition { kind: "Accepted", holds: true, reason: "Accepted", message: String::new() },
        Condition {
            kind: "Programmed",
            holds: programmed,
            reason: if programmed { "Programmed" } else { "AddressNotAssigned" },
            message: why.unwrap_or_default(),
        },
    ];
    let listeners = gateway.listeners.iter().enumerate().map(|(index, listener)| {
        let count = attached.iter().filter(|a| a.listener == index).count();
        let old = before["listeners"].as_array().into_iter().flatten().find(|l| l["name"] == listener.name.as_str());
        let old = old.map_or(&Value::Null, |l| &l["conditions"]);
        let (known, kinds) = match listener.udp() {
            Some(udp) => (true, json!([{"group": "gateway.networking.k8s.io", "kind": if udp { "UDPRoute" } else { "TCPRoute" }}])),
            None => (false, json!([])),
        };
        let unknown = if known { String::new() } else { format!("{} is not for an L4 balancer: write TCP or UDP", listener.protocol) };
        let reason = |good| if known { good } else { "UnsupportedProtocol" };
        let all = [
            Condition { kind: "Accepted", holds: known, reason: reason("Accepted"), message: unknown.clone() },
            Condition { kind: "Conflicted", holds: false, reason: "NoConflicts", message: String::new() },
            Condition { kind: "Programmed", holds: known && programmed, reason: if known && programmed { "Programmed" } else { "Invalid" }, message: unknown },
            Condition { kind: "ResolvedRefs", holds: true, reason: "ResolvedRefs", message: String::new() },
        ];
        json!({"name": listener.name, "supportedKinds": kinds, "attachedRoutes": count, "conditions": conditions(&all, old, generation, now)})
    });
    let listeners: Vec<Value> = listeners.collect();
    let addresses: Vec<Value> = addresses.iter().map(|a| json!({"type": "IPAddress", "value": a.to_string()})).collect();
    json!({"addresses": addresses, "conditions": conditions(&all, &before["conditions"], generation, now), "listeners": listeners})
}

pub fn generation(object: &DynamicObject) -> i64 {
    object.metadata.generation.unwrap_or_default()
}

/// Asks for a status, if the object has another one.
pub fn wish(derived: &mut Derived, kind: Kind, object: &DynamicObject, status: Value) {
    let differs = status.as_object().into_iter().flatten().any(|(key, value)| object.data["status"][key] != *value);
    if differs {
        derived.statuses.push(Wish {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            version: object.resource_version().unwrap_or_default(),
            status,
        });
    }
}
