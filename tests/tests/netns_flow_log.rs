//! The flow log of the real daemon: every connection of a client is in it with its beginning and its end.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{daemon::Daemon, peer, stage::Stage};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const VIP: &str = "10.77.0.100:80";
const REQUESTS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

fn config(stage: &Stage, log: &Path) -> Result<String> {
    let mut text = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nnat: {{timeouts: {{closed: 2s, closing: 2s}}}}\nflow_log: {{sample: 1, to: {}}}\nservices:\n  - {{name: web, vip: \"{VIP}\", announce: \
         {{address: eth0}}, health: {{type: tcp, interval: 1s}}, backends: [",
        log.display()
    );
    for (name, _) in BACKENDS {
        text += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, false)?);
    }
    Ok(text + "]}\n")
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

fn clients<'a>(lines: &'a [Value], events: &[&str]) -> BTreeSet<&'a str> {
    let of = lines.iter().filter(|line| events.iter().any(|event| line["event"] == *event));
    of.filter_map(|line| line["client"].as_str()).collect()
}

#[test]
fn every_connection_is_told_when_it_begins_and_when_it_ends() -> Result<()> {
    let mut stage = Stage::build("mesh-flowlog", &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("flows");
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, &path)?)?;
    // What the first sweep finds counts as there before.
    std::thread::sleep(Duration::from_millis(1500));
    let to: SocketAddr = VIP.parse()?;
    for _ in 0..REQUESTS {
        stage.client.ns.enter(|| peer::get(to, "/", PATIENCE))??;
    }
    let end = Instant::now() + LIMIT;
    let told = loop {
        let told = lines(&path)?;
        if clients(&told, &["opened"]).len() == REQUESTS && clients(&told, &["closed", "reset", "idle"]).len() == REQUESTS {
            break told;
        }
        ensure!(Instant::now() < end, "{told:?}; log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    let backends: BTreeSet<&str> = told.iter().filter_map(|line| line["backend"].as_str()).collect();
    let wanted: Vec<String> = BACKENDS.iter().map(|(name, _)| Ok(stage.address(name, false)?.to_string())).collect::<Result<_>>()?;
    ensure!(backends.iter().copied().eq(wanted.iter().map(String::as_str)), "{backends:?}");
    for line in &told {
        ensure!(
            line["service"] == "web" && line["vip"] == VIP && line["protocol"] == "tcp" && line["source_port"].as_u64() > Some(1023),
            "{line}"
        );
        ensure!(line["client"].as_str().is_some_and(|client| client.starts_with(&format!("{}:", stage.client.v4))), "{line}");
    }
    Ok(())
}
