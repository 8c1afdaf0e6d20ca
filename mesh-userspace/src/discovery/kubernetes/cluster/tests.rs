//! What objects mean, from JSON as an API server has it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    derive::{Derived, derive},
    objects::{Kind, News, Objects},
    *,
};
use crate::discovery::kubernetes::watch::Change;

fn spec() -> ClusterSpec {
    ClusterSpec {
        access: ClusterAccess { kubeconfig: None, timeout: Duration::from_secs(1), wait: Duration::from_secs(1) },
        class: "mesh/balancer".into(),
        pool: vec!["192.0.2.0/29".parse().unwrap(), "2001:db8::/126".parse().unwrap()],
        services: true,
        gateways: true,
        istio: Some([("istio".to_owned(), "mesh".to_owned())].into()),
        node: Some("n1".into()),
        template: Map::new(),
    }
}

fn look(services: &[Value], others: &[(Kind, Value)]) -> Derived {
    let spec = spec();
    let mut objects = Objects::new(Kind::of(&spec));
    let read = |all: &[Value]| Change::All(all.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect());
    objects.take(News::Services(Box::new(read(services))));
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}]}});
    objects.take(News::Node(Box::new(Change::All(vec![serde_json::from_value(node).unwrap()]))));
    for kind in Kind::of(&spec).into_iter().filter(|k| *k >= Kind::GatewayClasses) {
        assert!(!objects.complete());
        let all = others.iter().filter(|(k, _)| *k == kind).map(|(_, v)| serde_json::from_value(v.clone()).unwrap()).collect();
        objects.take(News::Dynamic(kind, Change::All(all)));
    }
    assert!(objects.complete());
    derive(&objects, &spec, "t")
}

/// `NAME VIP PROTOCOL SOURCE...`.
fn shown(derived: &Derived) -> Vec<String> {
    let one = |s: &written::Service| {
        let sources = s.sources.iter().map(|s| {
            let s = &s.value;
            let port = s.port_name.as_ref().map(|p| format!(":{p}")).unwrap_or_default();
            let share = s.share.as_ref().map(|p| format!("*{p}")).unwrap_or_default();
            let node = s.node.as_ref().map(|n| format!("@{n}")).unwrap_or_default();
            format!(" {}{port}{share}{node}", s.service.as_ref().map_or("", |s| s.value.as_str()))
        });
        let vip = format!("{}:{}", s.vip.value, s.port.as_ref().map_or(0, |p| p.value));
        format!("{} {vip}/{}{}", s.name, s.protocol, sources.collect::<String>())
    };
    derived.services.iter().map(one).collect()
}

fn service(name: &str, spec: Value, annotations: Value, ingress: &[&str]) -> Value {
    let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations},
        "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn balanced(more: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer", "loadBalancerClass": "mesh/balancer", "ports": [{"name": "web", "port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn a_load_balancer_is_given_an_address_and_then_published() {
    let derived = look(&[service("web", balanced(json!({})), json!({}), &[])], &[]);
    assert_eq!(shown(&derived), [""; 0], "not before every node can know its address");
    let [wish] = derived.statuses.as_slice() else { panic!("{:?}", derived.statuses) };
    assert_eq!((wish.name.as_str(), wish.version.as_str()), ("web", "7"));
    assert_eq!(wish.status, json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.0"}]}}));

    let dual = balanced(json!({"ipFamilies": ["IPv4", "IPv6"], "externalTrafficPolicy": "Local",
        "ports": [{"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "x", "port": 1, "protocol": "SCTP"}]}));
    let derived = look(&[service("web", dual, json!({"mesh/health": "none"}), &["192.0.2.3", "2001:db8::1"])], &[]);
    assert_eq!(
        shown(&derived),
        [
            "shop/web/53/udp 192.0.2.3:53/udp shop/web:dns@n1",
            "shop/web/53/udp/v6 2001:db8::1:53/udp shop/web:dns@n1",
            "shop/web/80 192.0.2.3:80/tcp shop/web:web@n1",
            "shop/web/80/v6 2001:db8::1:80/tcp shop/web:web@n1",
        ]
    );
    assert!(derived.statuses.is_empty() && derived.problems[0].contains("port 1 is SCTP"), "{derived:?}");
}

#[test]
fn others_are_left_alone_and_wishes_checked() {
    let old = look(&[service("old", json!({"type": "LoadBalancer", "ports": []}), json!({"mesh/class": "mesh/balancer"}), &[])], &[]);
    assert_eq!(old.statuses.len(), 1);
    let other = balanced(json!({"loadBalancerClass": "other/one"}));
    let derived =
        look(&[service("a", other, json!({}), &[]), service("b", json!({"type": "LoadBalancer", "ports": []}), json!({}), &[])], &[]);
    assert!(derived.statuses.is_empty() && derived.services.is_empty() && derived.problems.is_empty(), "{derived:?}");
    let all = [
        service("a", balanced(json!({"loadBalancerIP": "192.0.2.5"})), json!({}), &["192.0.2.5"]),
        service("b", balanced(json!({})), json!({"mesh/addresses": "198.51.100.1"}), &["198.51.100.1"]),
        service("c", balanced(json!({})), json!({"mesh/health": "exec"}), &["192.0.2.6"]),
    ];
    let derived = look(&all, &[]);
    assert_eq!(shown(&derived), ["shop/a/80 192.0.2.5:80/tcp shop/a:web"]);
    assert_eq!(derived.statuses.len(), 1, "what is not from the pool is taken back");
    assert_eq!(derived.statuses[0].status, json!({"loadBalancer": {"ingress": []}}));
    assert!(derived.problems.iter().any(|p| p.contains("198.51.100.1 is not in the pool")), "{derived:?}");
    assert!(derived.problems.iter().any(|p| p.contains("mesh/health is not exec")), "{derived:?}");
}

#[test]
fn cluster_addresses_and_node_ports_by_annotation() {
    let spec = json!({"type": "NodePort", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80, "nodePort": 30080}]});
    let derived = look(&[service("web", spec, json!({"mesh/balance": "cluster-ip, node-port"}), &[])], &[]);
    assert_eq!(
        shown(&derived),
        ["shop/web/30080/node-port 10.0.0.1:30080/tcp shop/web", "shop/web/80/cluster-ip 10.96.0.7:80/tcp shop/web"]
    );
    let headless = json!({"clusterIPs": ["None"], "ports": [{"port": 80}]});
    let derived = look(&[service("web", headless, json!({"mesh/balance": "cluster-ip, all"}), &[])], &[]);
    assert!(derived.services.is_empty() && derived.problems[0].contains("mesh/balance is not all"), "{derived:?}");
}

fn object(namespace: &str, name: &str, spec: Value, status: Value) -> Value {
    json!({"apiVersion": "x/v1", "kind": "Thing", "spec": spec, "status": status,
           "metadata": {"namespace": namespace, "name": name, "resourceVersion": "9", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"}})
}

fn gateway(status: Value) -> Vec<(Kind, Value)> {
    let listeners = json!([{"name": "pg", "port": 5432, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
                           {"name": "web", "port": 443, "protocol": "HTTPS"}]);
    vec![
        (Kind::GatewayClasses, object("", "mesh", json!({"controllerName": "mesh/balancer"}), json!({}))),
        (Kind::GatewayClasses, object("", "other", json!({"controllerName": "example.org/other"}), json!({}))),
        (Kind::Gateways, object("shop", "edge", json!({"gatewayClassName": "mesh", "listeners": listeners}), status)),
        (Kind::Gateways, object("shop", "theirs", json!({"gatewayClassName": "other", "listeners": listeners}), json!({}))),
    ]
}

fn route(name: &str, parent: Value, backends: Value) -> Value {
    object("shop", name, json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]}), json!({}))
}

#[test]
fn routes_of_the_gateway_api() {
    let services = [
        service("db", json!({"ports": [{"name": "pg", "port": 5432}]}), json!({}), &[]),
        service("db2", json!({"ports": [{"port": 5432}]}), json!({}), &[]),
    ];
    let held = json!({"addresses": [{"type": "IPAddress", "value": "192.0.2.0"}]});
    let mut all = gateway(held);
    let both = json!([{"name": "db", "port": 5432, "weight": 3}, {"name": "db2", "port": 5432}]);
    all.push((Kind::TcpRoutes, route("a", json!({"name": "edge", "sectionName": "pg"}), both)));
    all.push((Kind::TcpRoutes, route("b", json!({"name": "edge"}), json!([{"name": "db", "port": 5432}]))));
    all.push((Kind::UdpRoutes, route("c", json!({"name": "edge", "port": 53}), json!([{"name": "gone", "port": 53}]))));
    all.push((Kind::UdpRoutes, route("d", json!({"name": "theirs"}), json!([]))));
    let derived = look(&services, &all);
    assert_eq!(shown(&derived), ["gateway/shop/edge/pg 192.0.2.0:5432/tcp shop/db:pg*45000 shop/db2*15000"]);
    let status = |kind, name: &str| derived.statuses.iter().find(|w| w.kind == kind && w.name == name).map(|w| w.status.clone());
    let condition = |status: &Value, kind: &str| {
        let found = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap();
        format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    };
    let edge = status(Kind::Gateways, "edge").unwrap();
    assert_eq!((condition(&edge, "Accepted"), condition(&edge, "Programmed")), ("True Accepted".into(), "True Programmed".into()));
    let listeners: Vec<_> =
        edge["listeners"].as_array().unwrap().iter().map(|l| (l["attachedRoutes"].as_u64().unwrap(), condition(l, "Accepted"))).collect();
    assert_eq!(listeners, [(1, "True Accepted".into()), (1, "True Accepted".into()), (0, "False UnsupportedProtocol".into())]);
    let parent = |kind, name: &str| status(kind, name).unwrap()["parents"][0].clone();
    let conditions = |kind, name: &str| (condition(&parent(kind, name), "Accepted"), condition(&parent(kind, name), "ResolvedRefs"));
    assert_eq!(conditions(Kind::TcpRoutes, "a"), ("True Accepted".into(), "True ResolvedRefs".into()));
    assert_eq!(conditions(Kind::TcpRoutes, "b"), ("False RouteConflict".into(), "True ResolvedRefs".into()));
    assert_eq!(conditions(Kind::UdpRoutes, "c"), ("True Accepted".into(), "False BackendNotFound".into()));
    assert_eq!(parent(Kind::TcpRoutes, "a")["controllerName"], "mesh/balancer");
    assert!(
        status(Kind::UdpRoutes, "d").is_none()
            && status(Kind::Gateways, "theirs").is_none()
            && status(Kind::GatewayClasses, "other").is_none()
    );
    assert!(status(Kind::GatewayClasses, "mesh").is_some());

    // What was written is not written again.
    for (kind, value) in &mut all {
        if let Some(wish) = derived.statuses.iter().find(|w| w.kind == *kind && value["metadata"]["name"] == w.name.as_str()) {
            value["status"] = wish.status.clone();
        }
    }
    assert!(look(&services, &all).statuses.is_empty(), "{:?}", look(&services, &all).statuses);
}

#[test]
fn foreign_namespaces_need_leave() {
    let mut all = gateway(json!({"addresses": [{"value": "192.0.2.0"}]}));
    let mut far = route("far", json!({"name": "edge", "namespace": "shop"}), json!([{"name": "db", "port": 5432}]));
    far["metadata"]["namespace"] = json!("other");
    let beyond = route("beyond", json!({"name": "edge"}), json!([{"name": "db", "namespace": "other", "port": 5432}]));
    all.extend([(Kind::TcpRoutes, far), (Kind::TcpRoutes, beyond)]);
    let derived = look(&[], &all);
    assert!(derived.services.is_empty());
    let reasons: Vec<_> = derived.statuses.iter().filter(|w| w.kind == Kind::TcpRoutes).map(|w| w.status.to_string()).collect();
    assert!(reasons.iter().any(|r| r.contains("NoMatchingParent")) && reasons.iter().any(|r| r.contains("RefNotPermitted")), "{reasons:?}");
}

#[test]
fn a_grant_beside_the_service_lets_routes_lead_there() {
    let mut db = service("db", json!({"ports": [{"name": "pg", "port": 5432}]}), json!({}), &[]);
    db["metadata"]["namespace"] = json!("other");
    let beyond = route("beyond", json!({"name": "edge"}), json!([{"name": "db", "namespace": "other", "port": 5432}]));
    let leads = |namespace: &str, kind: &str, to: Value| {
        let from = json!([{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "shop"}]);
        let grant = object(namespace, "grant", json!({"from": from, "to": [to]}), json!({}));
        let mut all = gateway(json!({"addresses": [{"value": "192.0.2.0"}]}));
        all.extend([(Kind::TcpRoutes, beyond.clone()), (Kind::ReferenceGrants, grant)]);
        !look(&[db.clone()], &all).services.is_empty()
    };
    let any = json!({"group": "", "kind": "Service"});
    assert!(leads("other", "TCPRoute", any.clone()));
    assert!(leads("other", "TCPRoute", json!({"group": "", "kind": "Service", "name": "db"})));
    assert!(!leads("other", "TCPRoute", json!({"group": "", "kind": "Service", "name": "web"})));
    assert!(!leads("other", "TCPRoute", json!({"group": "", "kind": "Secret"})));
    assert!(!leads("other", "UDPRoute", any.clone()), "it is for other routes");
    assert!(!leads("shop", "TCPRoute", any), "it stands beside the route");
}

#[test]
fn tcp_routes_of_istio() {
    let services = [service("db", json!({"ports": [{"name": "pg", "port": 5432}]}), json!({}), &[])];
    let servers = json!([{"port": {"number": 5432, "protocol": "TCP"}, "hosts": ["*"]}, {"port": {"number": 80, "protocol": "HTTP"}}]);
    let mut edge = object("shop", "edge", json!({"selector": {"istio": "mesh"}, "servers": servers}), json!({}));
    let theirs = object("shop", "theirs", json!({"selector": {"istio": "ingressgateway"}, "servers": servers}), json!({}));
    let tcp = json!([{"match": [{"port": 5432, "sourceLabels": {"a": "b"}}], "route": [{"destination": {"host": "no"}}]},
                     {"match": [{"port": 5432}], "route": [{"destination": {"host": "db.shop.svc.cluster.local", "port": {"number": 5432}}}]}]);
    let virtual_service = object("shop", "vs", json!({"gateways": ["edge"], "http": [{"route": []}], "tcp": tcp}), json!({}));
    let all = |edge: &Value| {
        vec![(Kind::IstioGateways, edge.clone()), (Kind::IstioGateways, theirs.clone()), (Kind::VirtualServices, virtual_service.clone())]
    };
    let derived = look(&services, &all(&edge));
    assert!(
        derived.services.is_empty() && derived.problems.iter().any(|p| p.contains("give it the annotation mesh/address")),
        "{derived:?}"
    );
    edge["metadata"]["annotations"] = json!({"mesh/address": "192.0.2.4"});
    let derived = look(&services, &all(&edge));
    assert_eq!(shown(&derived), ["istio/shop/edge/5432 192.0.2.4:5432/tcp shop/db:pg"]);
    for expected in ["its `http` routes are not for an L4 balancer", "port 80 is HTTP, which is not for an L4 balancer"] {
        assert!(derived.problems.iter().any(|p| p.contains(expected)), "{derived:?}");
    }
}
