//! Istio: Gateways that select us, and the `tcp` routes of VirtualServices at their servers. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use kube::{ResourceExt, api::DynamicObject};
use serde::Deserialize;
use serde_json::Value;

use super::{
    ClusterSpec,
    derive::{Derived, Made, source},
    gateways::{port_name, share},
    objects::{Kind, Objects},
};

/// Istio's Gateways have no addresses of their own: theirs is said here.
const ADDRESS: &str = "mesh/address";

#[derive(Deserialize)]
struct GatewaySpec {
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    servers: Vec<Server>,
}

#[derive(Deserialize)]
struct Server {
    port: ServerPort,
}

#[derive(Deserialize)]
struct ServerPort {
    number: u16,
    #[serde(default)]
    protocol: String,
}

#[derive(Deserialize)]
struct VirtualServiceSpec {
    #[serde(default)]
    gateways: Vec<String>,
    #[serde(default)]
    http: Vec<Value>,
    #[serde(default)]
    tls: Vec<Value>,
    #[serde(default)]
    tcp: Vec<Route>,
}

#[derive(Deserialize)]
struct Route {
    #[serde(default, rename = "match")]
    matches: Vec<BTreeMap<String, Value>>,
    #[serde(default)]
    route: Vec<Weighted>,
}

#[derive(Deserialize)]
struct Weighted {
    destination: Destination,
    weight: Option<u64>,
}

#[derive(Deserialize)]
struct Destination {
    host: String,
    port: Option<PortNumber>,
    subset: Option<String>,
}

#[derive(Deserialize)]
struct PortNumber {
    number: i32,
}

pub fn derive(objects: &Objects, spec: &ClusterSpec, derived: &mut Derived) {
    let Some(labels) = &spec.istio else { return };
    for gateway in objects.dynamic(Kind::IstioGateways) {
        let read = match serde_json::from_value::<GatewaySpec>(gateway.data["spec"].clone()) {
            Ok(read) if !read.selector.is_empty() && read.selector.iter().all(|(k, v)| labels.get(k) == Some(v)) => read,
            Ok(_) => continue,
            Err(error) => {
                derived.problems.push(format!("{}: {error}", shown(gateway)));
                continue;
            }
        };
        match address(gateway, spec) {
            Ok(vip) => read.servers.iter().for_each(|server| listen(objects, spec, gateway, vip, server, derived)),
            Err(why) => derived.problems.push(format!("{}: {why}", shown(gateway))),
        }
    }
}

fn address(gateway: &DynamicObject, spec: &ClusterSpec) -> Result<IpAddr, String> {
    let text = gateway.annotations().get(ADDRESS).ok_or_else(|| format!("it has no address: give it the annotation {ADDRESS}"))?;
    let addr: IpAddr = text.parse().map_err(|_| format!("`{text}` is no address"))?;
    if spec.pool.iter().any(|range| range.has(addr)) { Ok(addr) } else { Err(format!("{addr} is not in the pool `addresses`")) }
}

/// One server of a Gateway, with the first route that is for it.
fn listen(objects: &Objects, spec: &ClusterSpec, gateway: &DynamicObject, vip: IpAddr, server: &Server, derived: &mut Derived) {
    let number = server.port.number;
    if server.port.protocol != "TCP" {
        let why = format!("port {number} is {}, which is not for an L4 balancer: only TCP is", server.port.protocol);
        derived.problems.push(format!("{}: {why}", shown(gateway)));
        return;
    }
    let (namespace, name) = (gateway.namespace().unwrap_or_default(), gateway.name_any());
    for service in objects.dynamic(Kind::VirtualServices) {
        let read = match serde_json::from_value::<VirtualServiceSpec>(service.data["spec"].clone()) {
            Ok(read) if is_for(&read, service, &namespace, &name) => read,
            Ok(_) => continue,
            Err(error) => {
                derived.problems.push(format!("{}: {error}", shown(service)));
                continue;
            }
        };
        for (kind, routes) in [("http", &read.http), ("tls", &read.tls)] {
            if !routes.is_empty() {
                let problem = format!("{}: its `{kind}` routes are not for an L4 balancer: only `tcp` is", shown(service));
                if !derived.problems.contains(&problem) {
                    derived.problems.push(problem);
                }
            }
        }
        let Some(route) = read.tcp.iter().find(|r| matches(r, number)) else { continue };
        match sources(objects, spec, service, route) {
            Ok(sources) => {
                let made =
                    Made { name: format!("istio/{namespace}/{name}/{number}"), vip, port: number, udp: false, own: Vec::new(), sources };
                derived.make(spec, made);
                return;
            }
            Err(why) => derived.problems.push(format!("{}: {why}", shown(service))),
        }
    }
}

/// `NAME` in its own namespace, or `NAMESPACE/NAME`.
fn is_for(read: &VirtualServiceSpec, service: &DynamicObject, namespace: &str, name: &str) -> bool {
    let own = service.namespace().unwrap_or_default();
    read.gateways.iter().any(|gateway| match gateway.split_once('/') {
        Some((there, gateway)) => (there, gateway) == (namespace, name),
        None => own == namespace && gateway == name,
    })
}

/// Without a match it is for every port; one that looks at more than the port is not fulfilled by looking at the port.
fn matches(route: &Route, number: u16) -> bool {
    let fits =
        |rule: &BTreeMap<String, Value>| rule.iter().all(|(key, value)| key == "gateways" || key == "port" && *value == u64::from(number));
    route.matches.is_empty() || route.matches.iter().any(fits)
}

fn sources(objects: &Objects, spec: &ClusterSpec, service: &DynamicObject, route: &Route) -> Result<Vec<Value>, String> {
    let own = service.namespace().unwrap_or_default();
    let sum: u64 = route.route.iter().map(|r| r.weight.unwrap_or(0)).sum();
    let one = |weighted: &Weighted| {
        let Destination { host, port, subset } = &weighted.destination;
        if subset.is_some() {
            return Err(format!("the destination {host} has a subset, which is not known here"));
        }
        let (name, namespace) = service_of(host, &own).ok_or_else(|| format!("{host} is no Service of this cluster"))?;
        let number = port.as_ref().map(|p| p.number);
        let port = port_name(objects, &namespace, &name, number)
            .ok_or_else(|| format!("there is no Service {namespace}/{name} with that port"))?;
        let share = (route.route.len() > 1).then(|| share(weighted.weight.unwrap_or(0), sum));
        Ok(source(spec, &namespace, &name, &port, share, false))
    };
    route.route.iter().map(one).collect()
}

/// Name and namespace of `NAME`, `NAME.NAMESPACE`, and the same with `.svc` and a cluster's domain behind it.
fn service_of(host: &str, own: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = host.split('.').collect();
    match parts.as_slice() {
        [name] if !name.is_empty() => Some(((*name).to_owned(), own.to_owned())),
        [name, namespace] => Some(((*name).to_owned(), (*namespace).to_owned())),
        [name, namespace, "svc", ..] => Some(((*name).to_owned(), (*namespace).to_owned())),
        _ => None,
    }
}

fn shown(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |t| t.kind.as_str());
    format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_services() {
        let of = |host| service_of(host, "own").map(|(name, namespace)| format!("{namespace}/{name}"));
        assert_eq!(of("web").as_deref(), Some("own/web"));
        assert_eq!(of("web.shop").as_deref(), Some("shop/web"));
        assert_eq!(of("web.shop.svc.cluster.local").as_deref(), Some("shop/web"));
        assert_eq!((of(""), of("www.example.org")), (None, None));
    }
}
