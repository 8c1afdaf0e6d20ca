//! Every kind of heartbeat against the real servers of Debian's packages, good and bad, through the configuration and the daemon.

#[path = "peer_probes/refused.rs"]
mod refused;
#[path = "peer_probes/rows.rs"]
mod rows;
#[path = "peer_probes/servers.rs"]
mod servers;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_tests::{daemon::Daemon, stage::Stage};
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

#[test]
fn every_kind_tells_the_good_from_the_bad() -> Result<()> {
    let stage = Stage::build("mesh-probes", &[("b1", 11), ("b2", 12)])?;
    stage.backends["b2"].ns.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
    let servers = Servers::start(&stage.backends["b1"])?;
    let rows = rows();
    let daemon = Daemon::start(&stage.balancer.ns, &config(&rows, &servers)?)?;
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
fn probes_come_from_the_chosen_address() -> Result<()> {
    let stage = Stage::build("mesh-source", &[("b1", 11)])?;
    stage.balancer.ns.ip("address add 10.77.0.3/24 dev eth0")?;
    let listener = stage.backends["b1"].ns.enter(|| std::net::TcpListener::bind("10.77.0.11:9000"))??;
    let config = "interfaces: [eth0]\nservices:\n- {name: web, vip: \"10.77.1.1:80\", health: {type: tcp, source: 10.77.0.3, interval: 50ms}, \
                  backends: [\"10.77.0.11:9000\"]}\n";
    let daemon = Daemon::start(&stage.balancer.ns, config)?;
    let (_, from) = listener.accept().context("nobody asked")?;
    anyhow::ensure!(from.ip().to_string() == "10.77.0.3", "asked from {from}");
    drop(daemon);
    Ok(())
}
