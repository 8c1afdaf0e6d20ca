//! Objects -> services to be balanced, statuses to be written, and what is wrong. Pure.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{
    ClusterSpec,
    addresses::{Given, give},
    gateways, istio,
    objects::{Kind, Objects},
    services,
    status::Wish,
};
use crate::config::written;

/// What the objects mean.
#[derive(Debug, Default)]
pub struct Derived {
    /// Sorted by name.
    pub services: Vec<written::Service>,
    pub problems: Vec<String>,
    pub statuses: Vec<Wish>,
}

/// One service that is to be, in the words of the configuration.
#[derive(Debug)]
pub struct Made {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    pub udp: bool,
    /// Keys that go before the template's.
    pub own: Vec<(&'static str, Value)>,
    pub sources: Vec<Value>,
}

/// `now`: for conditions that change.
pub fn derive(objects: &Objects, spec: &ClusterSpec, now: &str) -> Derived {
    let mut derived = Derived::default();
    let mut claims = Vec::new();
    if spec.services {
        services::claims(objects, spec, &mut claims, &mut derived.problems);
    }
    if spec.gateways {
        gateways::claims(objects, spec, &mut claims);
    }
    let given: Given = give(&claims, &spec.pool);
    if spec.services {
        services::derive(objects, spec, &given, &mut derived);
    }
    if spec.gateways {
        gateways::derive(objects, spec, &given, now, &mut derived);
    }
    if spec.istio.is_some() {
        istio::derive(objects, spec, &mut derived);
    }
    // Where the server knows no grants there is none.
    for (kind, what) in objects.missing.iter().filter(|(kind, _)| **kind != Kind::ReferenceGrants) {
        derived.problems.push(format!("{}: {what}", kind.resource().plural));
    }
    derived.problems.extend(objects.unwritten.clone());
    derived.services.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    derived
}

impl Derived {
    /// Adds a service, or says why it can't be.
    pub fn make(&mut self, spec: &ClusterSpec, made: Made) {
        let name = fitting(&made.name);
        let mut keys = spec.template.clone();
        // A heartbeat in general is one of TCP; the other protocol has none unless it is said.
        if made.udp {
            keys.insert("health".to_owned(), json!("none"));
        }
        keys.extend(made.own.into_iter().map(|(key, value)| (key.to_owned(), value)));
        keys.insert("name".to_owned(), json!(name));
        keys.insert("vip".to_owned(), json!(made.vip.to_string()));
        keys.insert("port".to_owned(), json!(made.port));
        keys.insert("protocol".to_owned(), json!(if made.udp { "udp" } else { "tcp" }));
        keys.insert("sources".to_owned(), Value::Array(made.sources));
        match serde_json::from_value(Value::Object(keys)) {
            Ok(service) => self.services.push(service),
            Err(error) => self.problems.push(format!("{name}: {error}")),
        }
    }
}

/// A source in the words of the configuration. `port`: of the Service, by name; empty = its only one.
pub fn source(spec: &ClusterSpec, namespace: &str, service: &str, port: &str, share: Option<u16>, local: bool) -> Value {
    let mut source = json!({"type": "kubernetes", "service": format!("{namespace}/{service}")});
    if !port.is_empty() {
        source["port_name"] = json!(port);
    }
    if let Some(share) = share {
        source["share"] = json!(share);
    }
    if let Some(node) = spec.node.as_ref().filter(|_| local) {
        source["node"] = json!(node);
    }
    if let Some(kubeconfig) = &spec.access.kubeconfig {
        source["kubeconfig"] = json!(kubeconfig);
    }
    source
}

/// Names of services have 63 characters; of a longer one the end is its hash.
fn fitting(name: &str) -> String {
    const MOST: usize = 63;
    if name.len() <= MOST {
        return name.to_owned();
    }
    // FNV-1a: the same on every node and in every version.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let start: String = name.chars().take(MOST - 17).collect();
    format!("{start}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart() {
        let (a, b) = (fitting(&"a".repeat(64)), fitting(&"a".repeat(65)));
        assert_eq!((a.len(), b.len()), (63, 63));
        assert_ne!(a, b);
        assert_eq!(fitting("default/web/80"), "default/web/80");
    }
}
