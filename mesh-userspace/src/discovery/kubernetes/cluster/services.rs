//! Services of type LoadBalancer with our class; ClusterIP and NodePort where an annotation asks for it. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{
    ClusterSpec,
    addresses::{Claim, Given},
    derive::{Derived, Made, source},
    objects::{Kind, Objects},
    status::Wish,
};

/// `cluster-ip`, `node-port`, or both with a comma between: what of a Service is balanced besides its LoadBalancer's addresses.
const BALANCE: &str = "mesh/balance";
/// The class of a Service, where it has no field for it.
const CLASS: &str = "mesh/class";
/// Addresses that are wanted of the pool, with commas between.
const ADDRESSES: &str = "mesh/addresses";
/// `nat`, `dsr`, ...: goes before what the configuration says.
const MODE: &str = "mesh/mode";
/// `tcp`, `http`, `https`, `icmp` or `none`: the same. Whoever may write Services may not have the node run commands.
const HEALTH: &str = "mesh/health";
const HEALTHS: [&str; 6] = ["tcp", "tls", "http", "https", "icmp", "none"];

/// What the Services want of the pool.
pub fn claims(objects: &Objects, spec: &ClusterSpec, claims: &mut Vec<Claim>, problems: &mut Vec<String>) {
    for service in objects.services.values().filter(|s| is_ours(s, spec)) {
        let wanted = wanted(service).unwrap_or_else(|why| {
            problems.push(format!("{}: {why}", shown(service)));
            Vec::new()
        });
        for v4 in families(service) {
            claims.push(Claim {
                name: claimant(service),
                created: service.creation_timestamp().map(|t| t.0.to_string()).unwrap_or_default(),
                v4,
                wanted: wanted.iter().copied().find(|a| a.is_ipv4() == v4),
                held: held(service),
            });
        }
    }
}

pub fn derive(objects: &Objects, spec: &ClusterSpec, given: &Given, derived: &mut Derived) {
    for service in objects.services.values() {
        if is_ours(service, spec) {
            load_balancer(service, spec, given, derived);
        }
        let words: Vec<&str> = service.annotations().get(BALANCE).map(|b| b.split(',').map(str::trim).collect()).unwrap_or_default();
        for word in words {
            match word {
                "cluster-ip" => cluster_ip(service, spec, derived),
                "node-port" => node_port(service, objects, spec, derived),
                other => derived.problems.push(format!("{}: {BALANCE} is not {other}: write cluster-ip or node-port", shown(service))),
            }
        }
    }
}

fn is_ours(service: &Service, spec: &ClusterSpec) -> bool {
    let Some(wanted) = service.spec.as_ref().filter(|s| s.type_.as_deref() == Some("LoadBalancer")) else { return false };
    // Servers before 1.21 forget the field: there an annotation says the same.
    wanted.load_balancer_class.as_ref().or_else(|| service.annotations().get(CLASS)) == Some(&spec.class)
}

fn load_balancer(service: &Service, spec: &ClusterSpec, given: &Given, derived: &mut Derived) {
    let held = held(service);
    let mut ingress = Vec::new();
    for v4 in families(service) {
        match given.get(&(claimant(service), v4)) {
            // Only what stands in the status is published: that is what every node agrees about.
            Some(Ok(addr)) => {
                ingress.push(*addr);
                if held.contains(addr) {
                    let local = service.spec.as_ref().is_some_and(|s| s.external_traffic_policy.as_deref() == Some("Local"));
                    ports(service, *addr, |port| u16::try_from(port.port).ok(), "", local, spec, derived);
                }
            }
            Some(Err(why)) => derived.problems.push(format!("{}: {why}", shown(service))),
            None => {}
        }
    }
    if ingress != held {
        let entries: Vec<Value> = ingress.iter().map(|addr| json!({"ip": addr.to_string()})).collect();
        derived.statuses.push(Wish {
            kind: Kind::Services,
            namespace: service.namespace().unwrap_or_default(),
            name: service.name_any(),
            version: service.resource_version().unwrap_or_default(),
            status: json!({"loadBalancer": {"ingress": entries}}),
        });
    }
}

fn cluster_ip(service: &Service, spec: &ClusterSpec, derived: &mut Derived) {
    let addresses = service.spec.as_ref().and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let local = service.spec.as_ref().is_some_and(|s| s.internal_traffic_policy.as_deref() == Some("Local"));
    for addr in addresses.iter().filter_map(|a| a.parse().ok()) {
        ports(service, addr, |port| u16::try_from(port.port).ok(), "/cluster-ip", local, spec, derived);
    }
}

fn node_port(service: &Service, objects: &Objects, spec: &ClusterSpec, derived: &mut Derived) {
    let Some(node) = &objects.node else {
        let why = "the addresses of this node are not known: `kubernetes.node` says which node it is";
        derived.problems.push(format!("{}: {why}", shown(service)));
        return;
    };
    let local = service.spec.as_ref().is_some_and(|s| s.external_traffic_policy.as_deref() == Some("Local"));
    let addresses = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
    for addr in addresses.iter().filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()) {
        ports(service, addr, |port| port.node_port.and_then(|p| u16::try_from(p).ok()), "/node-port", local, spec, derived);
    }
}

fn ports(
    service: &Service,
    vip: IpAddr,
    number: impl Fn(&ServicePort) -> Option<u16>,
    suffix: &str,
    local: bool,
    spec: &ClusterSpec,
    derived: &mut Derived,
) {
    let own = match own(service) {
        Ok(own) => own,
        Err(why) => return derived.problems.push(format!("{}: {why}", shown(service))),
    };
    for port in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
        let udp = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => false,
            "UDP" => true,
            other => {
                derived.problems.push(format!("{}: port {} is {other}, which is not balanced", shown(service), port.port));
                continue;
            }
        };
        let Some(number) = number(port).filter(|n| *n > 0) else { continue };
        let (protocol, family) = (if udp { "/udp" } else { "" }, if vip.is_ipv4() { "" } else { "/v6" });
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        derived.make(
            spec,
            Made {
                name: format!("{namespace}/{name}/{number}{protocol}{family}{suffix}"),
                vip,
                port: number,
                udp,
                own: own.clone(),
                sources: vec![source(spec, &namespace, &name, port.name.as_deref().unwrap_or_default(), None, local)],
            },
        );
    }
}

/// What the Service says of how it is balanced.
fn own(service: &Service) -> Result<Vec<(&'static str, Value)>, String> {
    let mut own = Vec::new();
    let annotations = service.annotations();
    own.extend(annotations.get(MODE).map(|mode| ("mode", json!(mode))));
    if let Some(health) = annotations.get(HEALTH) {
        if !HEALTHS.contains(&health.as_str()) {
            return Err(format!("{HEALTH} is not {health}: write one of {}", HEALTHS.join(", ")));
        }
        own.push(("health", json!(health)));
    }
    Ok(own)
}

fn wanted(service: &Service) -> Result<Vec<IpAddr>, String> {
    let field = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_ref()).filter(|ip| !ip.is_empty());
    let Some(text) = service.annotations().get(ADDRESSES).or(field) else { return Ok(Vec::new()) };
    text.split(',').map(|part| part.trim().parse().map_err(|_| format!("`{part}` is no address"))).collect()
}

/// True for IPv4.
fn families(service: &Service) -> Vec<bool> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec![true] } else { families.iter().map(|f| f != "IPv6").collect() }
}

fn held(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

fn claimant(service: &Service) -> String {
    shown(service)
}

fn shown(service: &Service) -> String {
    format!("Service {}/{}", service.namespace().unwrap_or_default(), service.name_any())
}
