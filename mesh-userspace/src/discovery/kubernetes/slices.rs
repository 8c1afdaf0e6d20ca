//! EndpointSlices -> endpoints. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{self, EndpointPort, EndpointSlice};
use kube::ResourceExt;

use super::KubernetesSpec;
use crate::{
    discovery::{Failure, Fit, Told},
    model::{BackendId, Endpoint, Weight, proto_name},
};

/// Problems that are told in full.
const SHOWN: usize = 3;

/// The endpoints, sorted by id, and what is wrong with those that can't be. An error where none of several can.
pub fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    spec: &KubernetesSpec,
    fit: &Fit,
) -> Result<(Vec<Endpoint>, Option<String>), Failure> {
    let family = if fit.vip.addr.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut found: BTreeMap<BackendId, Endpoint> = BTreeMap::new();
    let mut problems = Vec::new();
    // The other family's slices are another VIP's business, and names are nobody's.
    for slice in slices.filter(|slice| slice.address_type == family && !slice.endpoints.is_empty()) {
        let port = match port(slice.ports.as_deref().unwrap_or_default(), spec, fit) {
            Ok(port) => port,
            Err(why) => {
                problems.push(format!("slice {}: {why}", slice.name_any()));
                continue;
            }
        };
        let ours = |e: &&v1::Endpoint| spec.node.is_none() || node_of(e) == spec.node;
        for told in slice.endpoints.iter().filter(ours).filter_map(|endpoint| told(endpoint, port)) {
            let name = told.name.clone().unwrap_or_else(|| told.address.clone());
            match fit.endpoint(told) {
                // The same address may for a moment be in two slices; who is ready goes first.
                Ok(endpoint) if found.get(&endpoint.id).is_none_or(|other| other.drain) => drop(found.insert(endpoint.id, endpoint)),
                Ok(_) => {}
                Err(why) => problems.push(format!("{name}: {why}")),
            }
        }
    }
    if found.is_empty() && !problems.is_empty() {
        return Err(Failure::Bad(format!("nothing of it can be used: {}", listed(&problems))));
    }
    if let Some(share) = spec.share {
        let each = shared(share, found.values().filter(|e| !e.drain).count());
        found.values_mut().for_each(|endpoint| endpoint.weight = each);
    }
    let problem = (!problems.is_empty()).then(|| listed(&problems));
    Ok((found.into_values().collect(), problem))
}

/// `None` = it is out. Who is about to end keeps the flows that it has.
fn told(endpoint: &v1::Endpoint, port: Option<u16>) -> Option<Told> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // What is not said is to be taken for the good.
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    let drain = terminating && serving;
    // Consumers are to take the first address only.
    let address = endpoint.addresses.first().filter(|_| drain || ready && !terminating)?;
    Some(Told {
        address: address.clone(),
        port,
        name: endpoint.target_ref.as_ref().and_then(|target| target.name.clone()),
        drain,
        node: node_of(endpoint),
        zone: endpoint.zone.clone().or_else(|| deprecated(endpoint, "topology.kubernetes.io/zone")),
        ..Told::default()
    })
}

fn node_of(endpoint: &v1::Endpoint) -> Option<String> {
    endpoint.node_name.clone().or_else(|| deprecated(endpoint, "kubernetes.io/hostname"))
}

/// What slices say that were written as v1beta1, and not since.
fn deprecated(endpoint: &v1::Endpoint, label: &str) -> Option<String> {
    endpoint.deprecated_topology.as_ref()?.get(label).cloned()
}

/// The port of a slice's endpoints that is meant; `None` = it names none.
fn port(ports: &[EndpointPort], spec: &KubernetesSpec, fit: &Fit) -> Result<Option<u16>, String> {
    let protocol = proto_name(fit.vip.proto).to_uppercase();
    let ours: Vec<&EndpointPort> = ports.iter().filter(|p| p.protocol.as_deref().unwrap_or("TCP") == protocol).collect();
    let number = |port: &EndpointPort| port.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let of = |port: &EndpointPort| number(port).map(Some).ok_or_else(|| "its port has no number".to_owned());
    if let Some(name) = &spec.port_name {
        let named = ours.iter().find(|p| p.name.as_deref().unwrap_or_default() == name);
        return named.map_or_else(|| Err(format!("it has no {protocol} port `{name}`")), |p| of(p));
    }
    match ours.as_slice() {
        [] if ports.is_empty() => Ok(None),
        [] => Err(format!("it has no {protocol} port")),
        [only] => of(only),
        several => {
            let chosen = several.iter().find(|p| number(p) == Some(fit.port));
            let names: Vec<_> = several.iter().map(|p| p.name.clone().unwrap_or_default()).collect();
            chosen.map_or_else(|| Err(format!("it has several ports ({}): say which by `port_name`", names.join(", "))), |p| of(p))
        }
    }
}

/// The weight of each of `count`; at least 1 where there is a share at all.
fn shared(share: u16, count: usize) -> Weight {
    let count = u16::try_from(count.max(1)).unwrap_or(u16::MAX);
    Weight(if share == 0 { 0 } else { (share / count).max(1) })
}

fn listed(problems: &[String]) -> String {
    let more = problems.len().saturating_sub(SHOWN);
    let shown = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        discovery::ClusterAccess,
        model::{Mode, Proto, VipAddr},
    };

    fn spec(port_name: Option<&str>, share: Option<u16>) -> KubernetesSpec {
        let access = ClusterAccess { kubeconfig: None, timeout: Duration::from_secs(1), wait: Duration::from_secs(1) };
        KubernetesSpec { access, namespace: "n".into(), service: "s".into(), port_name: port_name.map(str::to_owned), share, node: None }
    }

    fn look(slices: &[Value], spec: &KubernetesSpec) -> Result<Vec<String>, String> {
        let slices: Vec<EndpointSlice> = slices.iter().map(|s| serde_json::from_value(s.clone()).unwrap()).collect();
        let vip = VipAddr { addr: [192, 0, 2, 10].into(), port: 80, proto: Proto::Tcp };
        let fit = Fit { vip, mode: Mode::Nat, port: 9090 };
        let (found, problem) = endpoints(slices.iter(), spec, &fit).map_err(|e| e.to_string())?;
        let one = |e: &Endpoint| format!("{}*{}{}", e.id, e.weight.0, if e.drain { " drains" } else { "" });
        Ok(found.iter().map(one).chain(problem).collect())
    }

    fn slice(endpoints: Value, ports: Value) -> Value {
        json!({"metadata": {"name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
    }

    fn pod(last: u8, conditions: Value) -> Value {
        json!({"addresses": [format!("10.0.0.{last}")], "conditions": conditions, "nodeName": "n1", "zone": "z1",
               "targetRef": {"kind": "Pod", "name": format!("p{last}")}})
    }

    #[test]
    fn conditions_decide_who_is_in() {
        let pods = json!([
            pod(1, json!({})),
            pod(2, json!({"ready": true, "serving": true, "terminating": false})),
            pod(3, json!({"ready": false, "serving": true, "terminating": true})),
            pod(4, json!({"ready": false, "serving": false, "terminating": true})),
            pod(5, json!({"ready": false})),
            // Published although not ready; ends, and would be published all the same.
            pod(6, json!({"ready": true, "serving": false, "terminating": true})),
        ]);
        let ports = json!([{"port": 8080}]);
        assert_eq!(
            look(&[slice(pods, ports)], &spec(None, None)),
            Ok(["10.0.0.1:8080*1", "10.0.0.2:8080*1", "10.0.0.3:8080*1 drains"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn who_is_in_two_slices_is_what_the_better_one_says() {
        let (ready, ending) = (json!([pod(1, json!({}))]), json!([pod(1, json!({"ready": false, "serving": true, "terminating": true}))]));
        let ports = json!([{"port": 80}]);
        let both = [slice(ending.clone(), ports.clone()), slice(ready.clone(), ports.clone())];
        assert_eq!(look(&both, &spec(None, None)), Ok(vec!["10.0.0.1:80*1".to_owned()]));
        assert_eq!(look(&[both[1].clone(), both[0].clone()], &spec(None, None)), Ok(vec!["10.0.0.1:80*1".to_owned()]));
    }

    #[test]
    fn the_port_is_the_one_that_is_meant() {
        let one = |ports: Value, name: Option<&str>| look(&[slice(json!([pod(1, json!({}))]), ports)], &spec(name, None));
        let two = json!([{"name": "web", "port": 8080}, {"name": "metrics", "port": 9090}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        assert_eq!(one(two.clone(), Some("web")), Ok(vec!["10.0.0.1:8080*1".to_owned()]));
        assert_eq!(one(two.clone(), None), Ok(vec!["10.0.0.1:9090*1".to_owned()]), "the source's own `port`");
        assert!(one(two, Some("dns")).unwrap_err().contains("no TCP port `dns`"));
        assert!(one(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]), None).unwrap_err().contains("say which by `port_name`"));
        assert_eq!(one(json!([]), None), Ok(vec!["10.0.0.1:9090*1".to_owned()]));
        for bad in [json!([{"port": 0}]), json!([{"port": -1}]), json!([{"port": 70000}]), json!([{"name": "x"}])] {
            assert!(one(bad.clone(), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_shared_out_and_what_does_not_fit_is_told() {
        let pods = json!([pod(1, json!({})), pod(2, json!({})), {"addresses": ["127.0.0.1"]}, {"addresses": []}]);
        let found = look(&[slice(pods, json!([{"port": 80}]))], &spec(None, Some(1001))).unwrap();
        assert_eq!(found[..2], ["10.0.0.1:80*500", "10.0.0.2:80*500"].map(str::to_owned));
        assert!(found[2].contains("127.0.0.1 is a loopback address"), "{found:?}");
        let there = json!([pod(1, json!({})), {"addresses": ["10.0.0.2"], "nodeName": "n2"}]);
        let here = KubernetesSpec { node: Some("n2".into()), ..spec(None, None) };
        assert_eq!(look(&[slice(there, json!([{"port": 80}]))], &here), Ok(vec!["10.0.0.2:80*1".to_owned()]));
        let old = json!([pod(1, json!({})), {"addresses": ["10.0.0.3"], "deprecatedTopology": {"kubernetes.io/hostname": "n2"}}]);
        assert_eq!(look(&[slice(old, json!([{"port": 80}]))], &here), Ok(vec!["10.0.0.3:80*1".to_owned()]), "as v1beta1 said it");
        assert_eq!((shared(0, 3), shared(1, 9), shared(9, 0)), (Weight(0), Weight(1), Weight(9)));
        let six = json!({"metadata": {"name": "s-6"}, "addressType": "IPv6", "endpoints": [{"addresses": ["2001:db8::1"]}], "ports": []});
        assert_eq!(look(&[six], &spec(None, None)), Ok(Vec::new()), "the other family's");
    }
}
