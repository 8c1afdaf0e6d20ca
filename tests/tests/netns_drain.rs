//! Drains on real flows: planned, watched by the kernel's own counts, ended by the last flow, by a deadline or by the operator.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{daemon::Daemon, peer::Held, stage::Stage};
use serde_json::Value;

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
const PATIENCE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);

struct World {
    daemon: Daemon,
    stage: Stage,
    vip: SocketAddr,
}

impl World {
    fn new(group: &str) -> Result<Self> {
        let mut stage = Stage::build(group, &BACKENDS)?;
        for (name, _) in BACKENDS {
            stage.serve(name)?;
        }
        let backends: Vec<_> = BACKENDS
            .map(|(name, _)| Ok(format!("{{name: {name}, address: \"{}\"}}", stage.address(name, false)?)))
            .into_iter()
            .collect::<Result<_>>()?;
        let config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: '10.77.0.100:80', announce: {{address: eth0}}, backends: [{}]}}\n",
            backends.join(", ")
        );
        let daemon = Daemon::start(&stage.balancer.ns, &config)?;
        Ok(Self { daemon, stage, vip: "10.77.0.100:80".parse()? })
    }

    /// Connections that are asked one after the other, and given up after `patience`.
    fn hold(&self, count: usize, patience: Duration) -> Result<Held> {
        Held::open(&self.stage.client.ns, self.vip, count, Duration::from_millis(10), patience)
    }

    fn drain(&self, name: &str) -> Result<Value> {
        let all = self.daemon.json(&["backend", "drains", "web"])?;
        all.as_array().and_then(|a| a.iter().find(|d| d["name"] == name)).cloned().with_context(|| format!("no drain of {name}: {all}"))
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !holds(self)? {
            ensure!(Instant::now() < end, "not within {LIMIT:?}: {what}; log:\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let all = self.daemon.json(&["events"])?;
        Ok(all.as_array().into_iter().flatten().filter(|e| e["event"] == kind).cloned().collect())
    }
}

#[test]
fn a_planned_drain_keeps_its_flows_and_ends_with_the_last() -> Result<()> {
    let world = World::new("mesh-drain")?;
    let held = world.hold(24, PATIENCE)?;
    world.until("the flows are counted", |w| Ok(w.daemon.json(&["service", "show", "web"])?["live_flows"].as_u64() >= Some(24)))?;

    let planned = world.daemon.json(&["plan", "drain", "web", "b2"])?;
    let web = &planned["services"][0];
    let refused = world.daemon.cli(&["plan", "drain", "web", "b2", "--max-move", "2%"])?;
    ensure!(refused.status.code() == Some(4), "a third of the hash space is more than 2 %: {refused:?}");
    let before = world.events("slots_moved")?.len();

    let output = std::thread::scope(|scope| -> Result<_> {
        let waiting = scope.spawn(|| world.daemon.ok(&["backend", "drain", "web", "b2", "--wait"]));
        world.until("the drain is watched", |w| Ok(w.drain("b2").is_ok_and(|d| d["flows"].as_u64() > Some(0))))?;
        let told = world.events("slots_moved")?;
        let told = told.get(before).context("no event tells what moved")?;
        for key in ["moved", "slots", "secondaries"] {
            ensure!(told[key] == web[key], "{key} was planned as {}, and came out as {}", web[key], told[key]);
        }
        ensure!(told["flows"]["lost"] == 0 && web["flows"]["lost"] == 0, "translated flows stay: {planned} {told}");
        std::thread::sleep(Duration::from_millis(1500));
        let drain = world.drain("b2")?;
        ensure!(drain["state"] == "draining" && drain["new_flows"] == 0 && !waiting.is_finished(), "{drain}");
        let reports = held.finish();
        let broken: Vec<_> = reports.iter().filter(|r| r.broken.is_some()).collect();
        ensure!(broken.is_empty() && reports.iter().any(|r| r.owner == "b2"), "{broken:?}");
        waiting.join().map_err(|_| anyhow::anyhow!("the waiting command panicked"))?
    })?;
    ensure!(output.contains("is drained after") && output.contains("the last flow has ended"), "{output}");
    ensure!(world.drain("b2")?["ended"] == "empty");
    ensure!(world.events("drain_ended")?.len() == 1);
    Ok(())
}

#[test]
fn deadlines_cut_and_remove_and_undrain_ends_a_drain() -> Result<()> {
    let world = World::new("mesh-deadline")?;
    // Those that are cut off are waited for in vain, while the others wait for their turn.
    let held = world.hold(24, Duration::from_millis(500))?;
    world.until("the flows are counted", |w| Ok(w.daemon.json(&["service", "show", "web"])?["live_flows"].as_u64() >= Some(24)))?;
    world.daemon.ok(&["backend", "drain", "web", "b1", "--deadline", "1s", "--then", "cut"])?;
    world.daemon.ok(&["backend", "drain", "web", "b2", "--deadline", "1h", "--then", "remove"])?;
    world.until("b1 is cut off", |w| Ok(w.drain("b1")?["ended"] == "cut"))?;
    let list = world.daemon.json(&["backend", "ls", "web"])?;
    let live =
        |list: &Value, name: &str| list.as_array().and_then(|l| l.iter().find(|b| b["name"] == name)).map(|b| b["live_flows"].clone());
    world.until("its flows are gone", |w| Ok(live(&w.daemon.json(&["backend", "ls", "web"])?, "b1") == Some(0.into())))?;
    ensure!(live(&list, "b2").and_then(|n| n.as_u64()) > Some(0), "b2 keeps its flows: {list}");

    world.daemon.ok(&["backend", "undrain", "web", "b1"])?;
    drop(held);
    world.until("b2 is removed with its last flow", |w| {
        let list = w.daemon.json(&["backend", "ls", "web"])?;
        Ok(live(&list, "b2").is_none() && w.drain("b2")?["ended"] == "removed")
    })?;
    world.daemon.ok(&["backend", "drain", "web", "b3"])?;
    world.daemon.ok(&["backend", "undrain", "web", "b3"])?;
    world.until("the operator has taken b3 back", |w| Ok(w.drain("b3")?["ended"] == "undrained" || w.drain("b3")?["ended"] == "empty"))
}
