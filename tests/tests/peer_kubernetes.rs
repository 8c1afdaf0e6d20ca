//! The real daemon and real traffic for what a cluster asks for: the API server and the daemon both die, and traffic must not notice.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use mesh_tests::{
    daemon::{Daemon, LIMIT},
    kube::{FakeApi, slice},
    peer::{self, Load},
    stage::{PORT, Stage},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SLICES: &str = "discovery.k8s.io/v1/endpointslices";
const SERVICES: &str = "v1/services";
const CLASSES: &str = "gateway.networking.k8s.io/v1/gatewayclasses";
const GATEWAYS: &str = "gateway.networking.k8s.io/v1/gateways";
const TCP_ROUTES: &str = "gateway.networking.k8s.io/v1alpha2/tcproutes";
const UDP_ROUTES: &str = "gateway.networking.k8s.io/v1alpha2/udproutes";

fn until(daemon: &Daemon, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() > end {
            bail!("not within {LIMIT:?}: {what}; {}\nlog:\n{}", daemon.ok(&["source", "ls"])?, daemon.log());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn taking(daemon: &Daemon, service: &str) -> u64 {
    daemon.json(&["service", "show", service]).ok().and_then(|s| s["taking"].as_u64()).unwrap_or(0)
}

fn source(daemon: &Daemon, name: &str) -> Result<Value> {
    let all = daemon.json(&["source", "ls"])?;
    Ok(all.as_array().into_iter().flatten().find(|s| s["source"] == name).cloned().unwrap_or_default())
}

fn pods(stage: &Stage, api: &FakeApi, service: &str, pods: &[(&str, &str)]) -> Result<()> {
    let one = |(name, state): &(&str, &'static str)| Ok((stage.address(name, false)?.ip().to_string(), *state));
    let pods =
        pods.iter().map(|(name, state)| one(&(name, if *state == "ready" { "ready" } else { "draining" }))).collect::<Result<Vec<_>>>()?;
    api.put(SLICES, slice("shop", service, &format!("{service}-1"), PORT, &pods)?);
    Ok(())
}

fn ask(stage: &Stage, vip: &str) -> Result<bool> {
    let vip: SocketAddr = vip.parse()?;
    Ok(stage.client.ns.enter(|| peer::get(vip, "/", Duration::from_secs(1)))?.is_ok())
}

/// A server in the balancer's namespace, and a daemon that is told of it.
fn start(stage: &Stage, kinds: &[&str], more: &str) -> Result<(FakeApi, Daemon, tempfile::TempDir)> {
    let api = stage.balancer.ns.enter(|| FakeApi::start("127.0.0.1:6443", kinds))??;
    let dir = tempfile::Builder::new().prefix("mesh-kube-").tempdir()?;
    let kubeconfig = dir.path().join("config");
    fs::write(&kubeconfig, api.kubeconfig())?;
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nkubernetes:\n  kubeconfig: {}\n  addresses: [10.77.0.100-10.77.0.109]\n  announce: {{address: eth0}}\n\
         \x20 health: {{type: tcp, interval: 100ms, timeout: 5s, detector: rise_fall}}\n  timeout: 1s\n{more}",
        kubeconfig.display()
    );
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    Ok((api, daemon, dir))
}

#[test]
fn a_load_balancer_is_made_announced_and_outlives_the_api_server() -> Result<()> {
    let mut stage = Stage::build("mesh-kube", &[("b1", 11), ("b2", 12)])?;
    stage.serve("b1")?;
    stage.serve("b2")?;
    let (api, mut daemon, _dir) = start(&stage, &[SLICES, SERVICES], "")?;
    let spec =
        json!({"type": "LoadBalancer", "loadBalancerClass": "mesh/balancer", "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]});
    api.put(SERVICES, json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}));
    pods(&stage, &api, "web", &[("b1", "ready"), ("b2", "ready")])?;
    until(&daemon, "both pods take flows", || Ok(taking(&daemon, "shop/web/80") == 2))?;
    until(&daemon, "the Service's status is written", || {
        let service = api.get(SERVICES, "shop", "web").unwrap_or_default();
        Ok(service["status"]["loadBalancer"]["ingress"] == json!([{"ip": "10.77.0.100"}]))
    })?;
    until(&daemon, "clients are answered", || ask(&stage, "10.77.0.100:80"))?;
    let view = daemon.json(&["service", "show", "shop/web/80"])?;
    ensure!(view["origin"] == "kubernetes" && view["address"] == "10.77.0.100", "{view}");

    // A pod that ends is drained first.
    pods(&stage, &api, "web", &[("b1", "ready"), ("b2", "ending")])?;
    until(&daemon, "b2 drains", || Ok(taking(&daemon, "shop/web/80") == 1))?;
    let backends = daemon.json(&["backend", "ls", "shop/web/80"])?;
    ensure!(backends.as_array().is_some_and(|all| all.len() == 2 && all.iter().any(|b| b["state"] == "draining")), "{backends}");
    pods(&stage, &api, "web", &[("b1", "ready"), ("b2", "ready")])?;
    until(&daemon, "b2 is back", || Ok(taking(&daemon, "shop/web/80") == 2))?;

    // The operator's word goes before the cluster's, until it is taken back.
    daemon.ok(&["service", "rm", "shop/web/80"])?;
    ensure!(daemon.json(&["service", "ls"])? == json!([]));
    daemon.ok(&["service", "add", "shop/web/80", "--vip", "10.77.0.100:80"])?;
    until(&daemon, "the cluster's service is back", || Ok(taking(&daemon, "shop/web/80") == 2))?;

    let load = Load::start(&stage.client.ns, "10.77.0.100:80".parse()?, 4, Duration::from_millis(2), Duration::from_secs(5))?;
    let stopped = api.stop();
    until(&daemon, "the cluster and its source are stale", || {
        Ok(source(&daemon, "cluster")?["state"] == "stale" && source(&daemon, "kubernetes shop/web web")?["state"] == "stale")
    })?;
    // Both pods' addresses.
    for pod in ["b1", "b2"] {
        daemon.wait_written(&stage.address(pod, false)?.to_string())?;
    }
    daemon.stop(Signal::SIGKILL)?;
    daemon.launch()?;
    daemon.wait_ready(LIMIT)?;
    ensure!(taking(&daemon, "shop/web/80") == 2, "{}", daemon.ok(&["backend", "ls"])?);
    std::thread::sleep(Duration::from_millis(500));
    let answers = load.finish();
    let errors: Vec<_> = answers.iter().filter_map(|a| a.from.as_ref().err()).collect();
    ensure!(answers.len() > 50 && errors.is_empty(), "{} of {} failed: {errors:?}; log:\n{}", errors.len(), answers.len(), daemon.log());

    let api = stage.balancer.ns.enter(|| stopped.start())??;
    until(&daemon, "the cluster answers again", || Ok(source(&daemon, "cluster")?["state"] == "live"))?;
    api.delete(SERVICES, "shop", "web");
    until(&daemon, "the service is gone", || Ok(daemon.json(&["service", "ls"])? == json!([])))?;
    println!("{}", daemon.ok(&["source", "ls", "-o", "wide"])?);
    Ok(())
}

#[test]
fn routes_of_the_gateway_api_are_balanced_and_told_how_they_are() -> Result<()> {
    let mut stage = Stage::build("mesh-gwapi", &[("b1", 11), ("b2", 12)])?;
    stage.serve("b1")?;
    stage.serve("b2")?;
    let kinds = [SLICES, SERVICES, CLASSES, GATEWAYS, TCP_ROUTES, UDP_ROUTES];
    let (api, daemon, _dir) = start(&stage, &kinds, "  gateways: true\n  istio: {istio: mesh}\n")?;
    // Istio is not there, and is said not to be; the rest goes on.
    until(&daemon, "the missing kinds are told", || {
        Ok(source(&daemon, "cluster")?["error"].as_str().is_some_and(|e| e.contains("virtualservices")))
    })?;
    let at = |namespace: &str, name: &str| json!({"namespace": namespace, "name": name});
    let ports = json!([{"name": "web", "port": 8080, "protocol": "TCP"}]);
    api.put(SERVICES, json!({"metadata": at("shop", "blue"), "spec": {"ports": ports}}));
    api.put(SERVICES, json!({"metadata": at("shop", "green"), "spec": {"ports": ports}}));
    pods(&stage, &api, "blue", &[("b1", "ready")])?;
    pods(&stage, &api, "green", &[("b2", "ready")])?;
    api.put(CLASSES, json!({"metadata": {"name": "mesh"}, "spec": {"controllerName": "mesh/balancer"}}));
    let listeners = json!([{"name": "web", "port": 80, "protocol": "TCP"}]);
    api.put(GATEWAYS, json!({"metadata": at("shop", "edge"), "spec": {"gatewayClassName": "mesh", "listeners": listeners}}));
    let backends = json!([{"name": "blue", "port": 8080, "weight": 1}, {"name": "green", "port": 8080, "weight": 3}]);
    let route = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": backends}]});
    api.put(TCP_ROUTES, json!({"metadata": at("shop", "web"), "spec": route}));
    until(&daemon, "both colours take flows", || Ok(taking(&daemon, "gateway/shop/edge/web") == 2))?;
    until(&daemon, "clients are answered", || ask(&stage, "10.77.0.100:80"))?;
    let shares = daemon.json(&["backend", "ls", "gateway/shop/edge/web"])?;
    let share = |at: usize| shares[at]["share"].as_f64().unwrap_or_default();
    ensure!((share(0) - 0.25).abs() < 0.01 && (share(1) - 0.75).abs() < 0.01, "{shares}");
    until(&daemon, "the statuses are written", || {
        let holds = |object: &Value, kind: &str| {
            object["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
        };
        let status = |kind, namespace, name| api.get(kind, namespace, name).unwrap_or_default()["status"].clone();
        let (gateway, route) = (status(GATEWAYS, "shop", "edge"), status(TCP_ROUTES, "shop", "web"));
        Ok(gateway["addresses"][0]["value"] == "10.77.0.100"
            && gateway["listeners"][0]["attachedRoutes"] == 1
            && holds(&gateway, "Programmed")
            && holds(&route["parents"][0], "ResolvedRefs")
            && holds(&status(CLASSES, "", "mesh"), "Accepted"))
    })?;
    // Nothing is written again and again: it comes to rest.
    let writes = Cell::new(0);
    until(&daemon, "a second without a write", || {
        let before = writes.replace(api.asked().writes);
        std::thread::sleep(Duration::from_secs(1));
        Ok(before == api.asked().writes)
    })?;
    println!("{:?}", api.asked());
    Ok(())
}
