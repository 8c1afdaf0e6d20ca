//! Every kind of heartbeat against the real servers of Debian's packages, good and bad, through the configuration and the daemon.

#[path = "peer_probes/refused.rs"]
mod refused;
#[path = "peer_probes/rows.rs"]
mod rows;
#[path = "peer_probes/servers.rs"]
mod servers;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    daemon::Daemon,
    netns::{Host, run},
    stage::Stage,
};
use serde_json::Value;

use rows::{Row, rows};
use servers::Servers;

const LIMIT: Duration = Duration::from_secs(60);

/// One service for each row, each with a VIP of its own.
fn config(rows: &[Row], servers: &Servers) -> Result<String> {
    let mut text = String::from("interfaces: [eth0]\nservices:\n");
    for (i, row) in (1..).zip(rows) {
        let health = row.health.replace("DIR", &servers.dir());
        let (address, port) = (row.address, row.port);
        text += &format!("- {{name: {}, vip: \"10.77.1.{i}:80\", health: {health}, backends: [\"{address}:{port}\"]}}\n", row.name);
    }
    Ok(text)
}

/// What is not yet as the row says.
fn wrong(row: &Row, backends: &Value) -> Option<String> {
    let backend = backends.as_array()?.iter().find(|b| b["service"] == row.name)?;
    let (health, error) = (backend["health"]["health"].as_str().unwrap_or(""), backend["health"]["error"].as_str().unwrap_or(""));
    let right = match row.error {
        None => health == "up" && error.is_empty(),
        Some(part) => health == "down" && error.contains(part),
    };
    (!right).then(|| format!("{} ({}): {health}, `{error}`, expected {}", row.name, row.health, row.error.unwrap_or("up")))
}

/// Waits until each row is as it says.
fn until_right(rows: &[Row], daemon: &Daemon, servers: &Servers) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let backends = daemon.json(&["backend", "ls"])?;
        let wrong: Vec<_> = rows.iter().filter_map(|row| wrong(row, &backends)).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{} of {} heartbeats say something else:\n{}\n{}", wrong.len(), rows.len(), wrong.join("\n"), servers.logs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn every_kind_tells_the_good_from_the_bad() -> Result<()> {
    let stage = Stage::build("mesh-probes", &[("b1", 11), ("b2", 12), ("b3", 13)])?;
    stage.backends["b2"].ns.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
    let _liar = servers::lie(&stage.backends["b3"])?;
    let servers = Servers::start(&stage.backends["b1"])?;
    let rows = rows();
    let daemon = Daemon::start(&stage.balancer.ns, &config(&rows, &servers)?)?;
    until_right(&rows, &daemon, &servers)
}

/// Packets that a host has sent through the discipline of its line.
fn sent(host: &Host) -> Result<u64> {
    let said = host.ns.command("tc").args("-s -j qdisc show dev eth0".split(' ')).output()?;
    let disciplines: Value = serde_json::from_slice(&said.stdout).context("tc speaks no JSON")?;
    disciplines[0]["packets"].as_u64().with_context(|| format!("no packets counted: {disciplines}"))
}

/// Each answer is sent, and comes seconds after the question: to nobody, and not to the next question.
#[test]
fn answers_that_come_too_late_are_none() -> Result<()> {
    let stage = Stage::build("mesh-late", &[("b1", 11)])?;
    let host = &stage.backends["b1"];
    let servers = Servers::start(host)?;
    let slow = rows::late();
    let quick: Vec<_> = slow.iter().map(|row| Row { error: None, ..*row }).collect();
    let daemon = Daemon::start(&stage.balancer.ns, &config(&slow, &servers)?)?;
    until_right(&quick, &daemon, &servers).context("before the line is slow")?;
    run(host.ns.command("tc").args("qdisc add dev eth0 root tbf rate 2kbit burst 2kb latency 4s".split(' ')))?;
    until_right(&slow, &daemon, &servers).context("while the line is slow")?;
    let before = sent(host)?;
    let end = Instant::now() + LIMIT;
    while sent(host)? < before + 8 {
        ensure!(Instant::now() < end, "the host behind the slow line sends nothing any more");
        std::thread::sleep(Duration::from_millis(100));
    }
    until_right(&slow, &daemon, &servers).context("while answers to older questions came in")?;
    run(host.ns.command("tc").args("qdisc delete dev eth0 root".split(' ')))?;
    until_right(&quick, &daemon, &servers).context("after the line was slow")
}

#[test]
fn probes_come_from_the_chosen_address() -> Result<()> {
    let stage = Stage::build("mesh-source", &[("b1", 11)])?;
    stage.balancer.ns.ip("address add 10.77.0.3/24 dev eth0")?;
    let listener = stage.backends["b1"].ns.enter(|| std::net::TcpListener::bind("10.77.0.11:9000"))??;
    let config = "interfaces: [eth0]\nservices:\n- {name: web, vip: \"10.77.1.1:80\", health: {type: tcp, source: 10.77.0.3, interval: 50ms}, \
                  backends: [\"10.77.0.11:9000\"]}\n";
    let daemon = Daemon::start(&stage.balancer.ns, config)?;
    let (_, from) = listener.accept().context("nobody asked")?;
    ensure!(from.ip().to_string() == "10.77.0.3", "asked from {from}");
    drop(daemon);
    Ok(())
}
