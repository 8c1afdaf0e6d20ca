//! The real kube-apiserver on the real etcd: `cargo xtask test k8s`. Debian's is of version 1.20, which has EndpointSlices as v1beta1 and no
//! `loadBalancerClass`: nginx before it renames the one, and the topology as later servers do, and an annotation says the other.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    daemon::{Daemon, Process},
    peer::{self, Load},
    registry::{Ground, etcd},
    stage::{PORT, Stage},
};
use rcgen::KeyPair;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "one-who-may-do-all";
/// A service of the configuration, whose backends the cluster says.
const NEAR: &str = "10.77.0.120:80";
const GATEWAY: &str = "gateway.networking.k8s.io";

struct Cluster<'a> {
    stage: &'a Stage,
    ground: Ground,
    _etcd: Process,
    _nginx: Process,
    server: Option<Process>,
}

impl<'a> Cluster<'a> {
    fn start(stage: &'a Stage) -> Result<Self> {
        let ground = Ground::within(&stage.balancer.ns)?;
        let etcd = etcd::start(&ground)?;
        ground.write("tokens", &format!("{TOKEN},admin,1,\"system:masters\"\n"))?;
        let key = KeyPair::generate()?;
        ground.write("sa.key", &key.serialize_pem())?;
        ground.write("sa.pub", &key.public_key_pem())?;
        let dir = ground.path("");
        let dir = dir.display();
        let onward = "proxy_pass https://127.0.0.1:16443; proxy_buffering off; proxy_http_version 1.1; proxy_read_timeout 1h;";
        let config = ground.write(
            "nginx.conf",
            &format!(
                "user root;\ndaemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/nginx.log;\nevents {{}}\nhttp {{\n  access_log off;\n\
                 client_body_temp_path {dir}/a;\n  proxy_temp_path {dir}/b;\n  fastcgi_temp_path {dir}/c;\n  uwsgi_temp_path {dir}/d;\n\
                 scgi_temp_path {dir}/e;\n  server {{\n  listen 127.0.0.1:6443;\n  location / {{ {onward} }}\n\
                 location /apis/discovery.k8s.io/v1/ {{ rewrite ^/apis/discovery.k8s.io/v1/(.*)$ /apis/discovery.k8s.io/v1beta1/$1 break; {onward}\n\
                 proxy_set_header Accept-Encoding ''; sub_filter discovery.k8s.io/v1beta1 discovery.k8s.io/v1; sub_filter '\"topology\":' '\"deprecatedTopology\":';\n\
                 sub_filter_types *; sub_filter_once off; }}\n\
                 }}\n}}\n"
            ),
        )?;
        let nginx = ground.start("nginx", ground.ns.command("nginx").arg("-c").arg(config))?;
        let mut cluster = Self { stage, ground, _etcd: etcd, _nginx: nginx, server: None };
        cluster.launch()?;
        Ok(cluster)
    }

    fn launch(&mut self) -> Result<()> {
        let program = std::env::var("MESH_KUBE_APISERVER").context("no kube-apiserver: `cargo xtask test k8s` builds one")?;
        let file = |name: &str| self.ground.path(name).display().to_string();
        let mut command = self.ground.ns.command(program);
        command.args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=127.0.0.1", "--secure-port=16443", "--insecure-port=0"]);
        command.arg(format!("--advertise-address={}", self.stage.balancer.v4)).arg(format!("--cert-dir={}", file("certs")));
        command.args(["--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc"]);
        command.arg(format!("--service-account-signing-key-file={}", file("sa.key")));
        command.arg(format!("--service-account-key-file={}", file("sa.pub"))).arg(format!("--token-auth-file={}", file("tokens")));
        command.args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"]);
        command.arg("--feature-gates=EndpointSliceTerminatingCondition=true,EndpointSliceNodeName=true");
        self.server = Some(self.ground.start("apiserver", &mut command)?);
        let end = Instant::now() + LIMIT;
        while self.ask("GET", "/readyz", None).is_err() {
            ensure!(Instant::now() < end, "kube-apiserver does not answer: {}", fs::read_to_string(self.ground.path("apiserver.log"))?);
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut command: Command = self.ground.ns.command("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "20", "--request", method]);
        command.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--header", "Content-Type: application/json"]);
        if let Some(body) = body {
            command.args(["--data", &body.to_string()]);
        }
        let output = command.arg(format!("http://127.0.0.1:6443{path}")).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{method} {path}: {} {text}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.ask("POST", path, Some(object))
    }

    /// Replaces the one slice of a Service: backends and whether they are ready. `b1` is on node `n1` in zone `z1`, and so on.
    fn pods(&self, method: &str, service: &str, protocol: &str, pods: &[(&str, bool)]) -> Result<()> {
        let one = |(name, ready): &(&str, bool)| {
            let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
            let topology = json!({"topology.kubernetes.io/zone": name.replace('b', "z")});
            let address = self.stage.address(name, false)?.ip();
            Ok(json!({"addresses": [address], "conditions": conditions, "nodeName": name.replace('b', "n"), "topology": topology}))
        };
        let endpoints = pods.iter().map(one).collect::<Result<Vec<_>>>()?;
        let name = format!("{service}-1");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "web", "port": PORT, "protocol": protocol}],
        });
        let path = "/apis/discovery.k8s.io/v1beta1/namespaces/shop/endpointslices";
        let path = if method == "PUT" { format!("{path}/{name}") } else { path.to_owned() };
        self.ask(method, &path, Some(&slice)).map(drop)
    }

    /// A kind of the Gateway API, as far as the server has to know it: objects with a status of their own.
    fn define(&self, kind: &str, version: &str, scope: &str) -> Result<()> {
        let (plural, schema) = (plural(kind), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        let version = json!({"name": version, "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}});
        let names = json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase()});
        let metadata =
            json!({"name": format!("{plural}.{GATEWAY}"), "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}});
        let object = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
            "spec": {"group": GATEWAY, "scope": scope, "names": names, "versions": [version]},
        });
        self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &object).map(drop)
    }
}

fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") }
}

fn until(daemon: &Daemon, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds().unwrap_or(false) {
        if Instant::now() > end {
            bail!("not within {LIMIT:?}: {what}; {}\nlog:\n{}", daemon.ok(&["source", "ls"])?, daemon.log());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn taking(daemon: &Daemon, service: &str) -> Result<u64> {
    daemon.json(&["service", "show", service])?["taking"].as_u64().context("no number")
}

#[test]
fn services_and_routes_of_the_real_api_server() -> Result<()> {
    let mut stage = Stage::build("mesh-k8s", &[("b1", 11), ("b2", 12)])?;
    stage.serve("b1")?;
    stage.serve("b2")?;
    let mut cluster = Cluster::start(&stage)?;
    let version = cluster.ask("GET", "/version", None)?["gitVersion"].clone();
    for (kind, version, scope) in [
        ("GatewayClass", "v1", "Cluster"),
        ("Gateway", "v1", "Namespaced"),
        ("TCPRoute", "v1alpha2", "Namespaced"),
        ("UDPRoute", "v1alpha2", "Namespaced"),
    ] {
        cluster.define(kind, version, scope)?;
    }
    let kubeconfig = cluster.ground.write(
        "kubeconfig",
        &json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:6443"}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string(),
    )?;
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nkubernetes:\n  kubeconfig: {}\n  gateways: true\n  addresses: [10.77.0.100-10.77.0.109]\n\
         \x20 announce: {{address: eth0}}\n  node: n1\n  health: {{type: tcp, interval: 500ms, timeout: 2s}}\nservices:\n  - name: near\n    vip: {NEAR}\n\
         \x20   announce: {{address: eth0}}\n    locality: {{distances: {{z1: 1}}, elsewhere: 4}}\n\
         \x20   sources: [{{type: kubernetes, kubeconfig: {}, service: shop/web, port_name: web}}]\n",
        kubeconfig.display(),
        kubeconfig.display()
    );
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;

    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}))?;
    let spec = json!({"type": "LoadBalancer", "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]});
    let metadata = json!({"name": "web", "annotations": {"mesh/class": "mesh/balancer"}});
    cluster.create("/api/v1/namespaces/shop/services", &json!({"metadata": metadata, "spec": spec}))?;
    cluster.pods("POST", "web", "TCP", &[("b1", true), ("b2", true)])?;
    until(&daemon, "both pods take flows", || Ok(taking(&daemon, "shop/web/80")? == 2))?;
    let service = cluster.ask("GET", "/api/v1/namespaces/shop/services/web", None)?;
    ensure!(service["status"]["loadBalancer"]["ingress"] == json!([{"ip": "10.77.0.100"}]), "{service}");
    let vip: SocketAddr = "10.77.0.100:80".parse()?;
    let ask = || Ok(stage.client.ns.enter(|| peer::get(vip, "/", Duration::from_secs(1)))?.is_ok());
    until(&daemon, "clients are answered", ask)?;
    cluster.pods("PUT", "web", "TCP", &[("b1", true), ("b2", false)])?;
    until(&daemon, "b2 drains", || {
        let backends = daemon.json(&["backend", "ls", "shop/web/80"])?;
        Ok(backends.as_array().is_some_and(|all| all.len() == 2 && all.iter().any(|b| b["state"] == "draining")))
    })?;
    cluster.pods("PUT", "web", "TCP", &[("b1", true), ("b2", true)])?;

    topology(&cluster, &daemon)?;
    routes(&cluster, &daemon)?;

    let load = Load::start(&stage.client.ns, vip, 4, Duration::from_millis(2), Duration::from_secs(5))?;
    let state = |wanted: &str| Ok(daemon.json(&["source", "ls"])?.as_array().is_some_and(|all| all.iter().all(|s| s["state"] == wanted)));
    cluster.server.take().context("it does not run")?.kill()?;
    until(&daemon, "all sources are stale", || state("stale"))?;
    ensure!(taking(&daemon, "shop/web/80")? == 2, "the dead server emptied the service");
    cluster.launch()?;
    until(&daemon, "all sources answer again", || state("live"))?;
    let answers = load.finish();
    let errors: Vec<_> = answers.iter().filter_map(|a| a.from.as_ref().err()).collect();
    ensure!(answers.len() > 50 && errors.is_empty(), "{} of {} failed: {errors:?}", errors.len(), answers.len());
    cluster.ask("DELETE", "/api/v1/namespaces/shop/services/web", None)?;
    until(&daemon, "the service is gone", || Ok(taking(&daemon, "shop/web/80").is_err()))?;
    println!("kube-apiserver {version}: {} requests while it died and returned, none failed", answers.len());
    Ok(())
}

/// Nodes and zones: a Service that keeps traffic on its node has the pods there alone, a node port is one of this node's address, and the zone counts as
/// the distance.
fn topology(cluster: &Cluster<'_>, daemon: &Daemon) -> Result<()> {
    let stage = cluster.stage;
    let node = cluster.create("/api/v1/nodes", &json!({"metadata": {"name": "n1"}}))?;
    let addresses = json!([{"type": "InternalIP", "address": stage.balancer.v4}]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": node["metadata"], "status": {"addresses": addresses}});
    cluster.ask("PUT", "/api/v1/nodes/n1/status", Some(&node))?;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]});
    let metadata = json!({"name": "local", "annotations": {"mesh/class": "mesh/balancer"}});
    cluster.create("/api/v1/namespaces/shop/services", &json!({"metadata": metadata, "spec": spec}))?;
    cluster.pods("POST", "local", "TCP", &[("b1", true), ("b2", true)])?;
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30080, "protocol": "TCP"}]);
    let metadata = json!({"name": "every", "annotations": {"mesh/balance": "cluster-ip, node-port"}});
    cluster.create("/api/v1/namespaces/shop/services", &json!({"metadata": metadata, "spec": {"type": "NodePort", "ports": ports}}))?;
    cluster.pods("POST", "every", "TCP", &[("b1", true), ("b2", true)])?;

    let (b1, b2) = (stage.address("b1", false)?.to_string(), stage.address("b2", false)?.to_string());
    let shares = |service: &str| -> Result<Vec<(String, f64)>> {
        let backends = daemon.json(&["backend", "ls", service])?;
        let share = |b: &Value| Some((b["id"].as_str()?.to_owned(), b["share"].as_f64()?));
        Ok(backends.as_array().into_iter().flatten().filter_map(share).collect())
    };
    until(daemon, "the pod of this node has all the traffic that stays on it", || Ok(shares("shop/local/80")? == [(b1.clone(), 1.0)]))?;
    until(daemon, "node port and cluster IP are balanced", || {
        Ok(taking(daemon, "shop/every/30080/node-port")? == 2 && taking(daemon, "shop/every/80/cluster-ip")? == 2)
    })?;
    let at = SocketAddr::new(stage.balancer.v4.into(), 30080);
    until(daemon, "the node port answers", || Ok(stage.client.ns.enter(|| peer::get(at, "/", Duration::from_secs(1)))?.is_ok()))?;
    until(daemon, "the near zone has four times the far one's share", || {
        let found = shares("near")?;
        let share = |id: &String| found.iter().find(|(of, _)| of == id).map_or(0.0, |(_, share)| *share);
        Ok(found.len() == 2 && (share(&b1) - 0.8).abs() < 0.02 && (share(&b2) - 0.2).abs() < 0.02)
    })
}

/// A TCPRoute and a UDPRoute at one Gateway: real traffic by both, and what their statuses say.
fn routes(cluster: &Cluster<'_>, daemon: &Daemon) -> Result<()> {
    let group = |version: &str, kind: &str| format!("/apis/{GATEWAY}/{version}/namespaces/shop/{}", plural(kind));
    let object = |version: &str, kind: &str, name: &str, spec: Value| json!({"apiVersion": format!("{GATEWAY}/{version}"), "kind": kind, "metadata": {"name": name}, "spec": spec});
    let class = object("v1", "GatewayClass", "mesh", json!({"controllerName": "mesh/balancer"}));
    cluster.create(&format!("/apis/{GATEWAY}/v1/gatewayclasses"), &class)?;
    let listeners = json!([{"name": "web", "port": 81, "protocol": "TCP"}, {"name": "echo", "port": 53, "protocol": "UDP"}]);
    let gateway = object("v1", "Gateway", "edge", json!({"gatewayClassName": "mesh", "listeners": listeners}));
    cluster.create(&group("v1", "Gateway"), &gateway)?;
    let spec = json!({"ports": [{"name": "web", "port": 53, "protocol": "UDP"}]});
    cluster.create("/api/v1/namespaces/shop/services", &json!({"metadata": {"name": "echo"}, "spec": spec}))?;
    cluster.pods("POST", "echo", "UDP", &[("b1", true), ("b2", true)])?;
    for (kind, name, port) in [("TCPRoute", "web", 80), ("UDPRoute", "echo", 53)] {
        let parent = json!([{"name": "edge", "sectionName": name}]);
        let route = json!({"parentRefs": parent, "rules": [{"backendRefs": [{"name": name, "port": port}]}]});
        cluster.create(&group("v1alpha2", kind), &object("v1alpha2", kind, name, route))?;
        until(daemon, &format!("the {kind} is balanced"), || Ok(taking(daemon, &format!("gateway/shop/edge/{name}"))? == 2))?;
    }
    let gateway = || cluster.ask("GET", &format!("{}/edge", group("v1", "Gateway")), None);
    until(daemon, "the statuses are written", || {
        let told = |kind: &str, name: &str| -> Result<bool> {
            let route = cluster.ask("GET", &format!("{}/{name}", group("v1alpha2", kind)), None)?;
            let conditions = &route["status"]["parents"][0]["conditions"];
            let holds = |wanted: &str| conditions.as_array().into_iter().flatten().any(|c| c["type"] == wanted && c["status"] == "True");
            Ok(holds("Accepted") && holds("ResolvedRefs"))
        };
        let listeners = &gateway()?["status"]["listeners"];
        let attached = [0, 1].map(|at| listeners[at]["attachedRoutes"] == 1);
        Ok(attached == [true; 2] && told("TCPRoute", "web")? && told("UDPRoute", "echo")?)
    })?;
    let address = gateway()?["status"]["addresses"][0]["value"].as_str().context("the Gateway has no address")?.parse()?;
    let client = &cluster.stage.client.ns;
    until(daemon, "the TCPRoute answers", || {
        Ok(client.enter(|| peer::get(SocketAddr::new(address, 81), "/", Duration::from_secs(1)))?.is_ok())
    })?;
    until(daemon, "the UDPRoute answers", || {
        Ok(client.enter(|| peer::ask_udp(SocketAddr::new(address, 53), "question", 1, Duration::from_secs(1)))?.is_ok())
    })
}
