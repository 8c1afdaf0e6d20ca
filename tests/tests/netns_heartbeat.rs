//! Backends that report themselves: by CLI, and by the listener for other hosts.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, LIMIT},
    peer,
    stage::Stage,
    world::PATIENCE,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];

fn state(daemon: &Daemon, backend: SocketAddr) -> Result<Option<Value>> {
    let all = daemon.json(&["backend", "ls", "web"])?;
    Ok(all.as_array().context("no list")?.iter().find(|b| b["id"] == backend.to_string().as_str()).cloned())
}

#[test]
fn backends_register_themselves_and_live_as_long_as_they_beat() -> Result<()> {
    let mut stage = Stage::build("mesh-beat", &BACKENDS)?;
    stage.serve("b1")?;
    stage.serve("b2")?;
    let config = "interfaces: [{name: eth0, hook: xdp}]\nservices:\n  - {name: web, vip: 10.77.0.100, port: 8080, announce: {address: eth0}, health: none, \
                  heartbeat: {ttl: 60s, register: true, forget: 1s}}\n";
    let mut daemon = Daemon::start(&stage.balancer.ns, config)?;
    let (one, two) = (stage.address("b1", false)?, stage.address("b2", false)?);
    let beat = |daemon: &Daemon, backend: SocketAddr, more: &[&str]| {
        let backend = backend.to_string();
        daemon.ok(&[&["backend", "heartbeat", "web", &backend][..], more].concat())
    };
    beat(&daemon, one, &["--name", "b1", "--load", "0.25"])?;
    beat(&daemon, two, &[])?;
    let seen = state(&daemon, one)?.context("b1 is not there")?;
    ensure!(seen["state"] == "active" && seen["name"] == "b1" && seen["origin"] == "source", "{seen}");
    ensure!(seen["health"]["heartbeat"]["load"] == 0.25 && seen["health"]["health"] == "up", "{seen}");
    let vip: SocketAddr = "10.77.0.100:8080".parse()?;
    let ask = || stage.client.ns.enter(|| peer::get(vip, "/", PATIENCE))?.map_err(anyhow::Error::from);
    daemon.until("both answer", || Ok((0..40).map(|_| ask()).collect::<Result<std::collections::BTreeSet<_>>>()?.len() == 2))?;

    // Missing beats fail it, and then it is forgotten.
    beat(&daemon, two, &["--ttl", "2s"])?;
    daemon.until("b2 is gone", || Ok(state(&daemon, two)?.is_none()))?;
    let events = daemon.ok(&["events"])?;
    ensure!(events.contains("no heartbeat for 2s"), "{events}");
    ensure!((0..20).map(|_| ask()).all(|who| who.is_ok_and(|who| who == "b1")), "only b1 is left");

    // It says itself that it fails, and that it is well again.
    beat(&daemon, one, &["--failing"])?;
    ensure!(state(&daemon, one)?.is_some_and(|b| b["state"] == "down"));
    beat(&daemon, one, &[])?;
    ensure!(state(&daemon, one)?.is_some_and(|b| b["state"] == "recovering"));

    // Over a restart it stays: what was registered is remembered, and has a time to live to be heard of.
    std::thread::sleep(Duration::from_millis(1500));
    daemon.stop(Signal::SIGTERM)?;
    daemon.launch()?;
    daemon.wait_ready(LIMIT)?;
    let seen = state(&daemon, one)?.context("b1 was forgotten")?;
    ensure!(seen["health"]["health"] == "up" && ask()? == "b1", "{seen}");

    daemon.ok(&["backend", "heartbeat", "web", &one.to_string(), "--leave"])?;
    daemon.until("b1 has left", || Ok(state(&daemon, one)?.is_none()))
}

#[test]
fn other_hosts_need_the_token() -> Result<()> {
    let mut stage = Stage::build("mesh-beat-tcp", &BACKENDS)?;
    stage.serve("b1")?;
    let secrets = tempfile::tempdir()?;
    let file = secrets.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n")?;
    let listen = SocketAddr::from((stage.balancer.v4, 9101));
    let config = format!(
        "  heartbeat: {{listen: \"{listen}\", token_file: {}}}\ninterfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: 10.77.0.100, \
         port: 8080, announce: {{address: eth0}}, health: none, heartbeat: {{register: true}}}}\n",
        file.display()
    );
    // What the configuration begins with ends in the table `api`.
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    let backend = stage.address("b1", false)?;
    let put = |token: &str, path: &str| -> Result<String> {
        let url = format!("http://{listen}{path}");
        let header = format!("Authorization: Bearer {token}");
        let curl =
            ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "-H", &header, "-d", r#"{"ttl": "30s", "load": 0.5}"#, &url];
        let output = stage.backends["b1"].ns.command("curl").args(curl).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let path = format!("/v1/services/web/backends/{backend}/heartbeat");
    ensure!(put("wrong", &path)? == "401");
    ensure!(state(&daemon, backend)?.is_none(), "who has no token changes nothing");
    ensure!(put("0123456789abcdef", "/v1/services/web")? == "404", "there is nothing else");
    let code = put("0123456789abcdef", &path)?;
    ensure!(code == "200", "{code}");
    let seen = state(&daemon, backend)?.context("b1 is not there")?;
    ensure!(seen["state"] == "active" && seen["health"]["heartbeat"]["load"] == 0.5, "{seen}");
    let who = stage.client.ns.enter(|| peer::get("10.77.0.100:8080".parse()?, "/", PATIENCE).map_err(anyhow::Error::from))??;
    ensure!(who == "b1", "{who}");
    Ok(())
}

#[test]
fn what_is_not_expected_is_refused() -> Result<()> {
    let stage = Stage::build("mesh-beat-no", &BACKENDS)?;
    let config = "interfaces: [{name: eth0, hook: xdp}]\nservices:\n  - {name: web, vip: 10.77.0.100, port: 8080, health: none, heartbeat: {}, \
                  backends: [10.77.0.11]}\n  - {name: api, vip: 10.77.0.100, port: 81, health: none, backends: [10.77.0.11]}\n";
    let daemon = Daemon::start(&stage.balancer.ns, config)?;
    let complaint = |args: &[&str]| -> Result<String> {
        let output = daemon.cli(args)?;
        ensure!(!output.status.success(), "{args:?} was taken");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let seen = state(&daemon, "10.77.0.11:8080".parse()?)?.context("not there")?;
    ensure!(seen["state"] == "unknown", "who has never been heard gets nothing: {seen}");
    ensure!(complaint(&["backend", "heartbeat", "web", "10.77.0.12:8080"])?.contains("register: true"));
    ensure!(complaint(&["backend", "heartbeat", "api", "10.77.0.11:81"])?.contains("expects no heartbeats"));
    ensure!(complaint(&["backend", "heartbeat", "web", "10.77.0.11:8080", "--ttl", "1ms"])?.contains("out of range"));
    daemon.ok(&["backend", "heartbeat", "web", "10.77.0.11:8080"])?;
    let seen = state(&daemon, "10.77.0.11:8080".parse()?)?.context("not there")?;
    ensure!(seen["state"] == "active", "{seen}");
    Ok(())
}
