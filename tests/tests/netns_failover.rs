//! Instances that fail, recover, drain and change weight, under real traffic.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use mesh_tests::{
    daemon::Daemon,
    peer::{self, Held},
    stage::Stage,
};

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
const PATIENCE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);

type Counts = BTreeMap<String, usize>;

struct World {
    daemon: Daemon,
    stage: Stage,
    vip: SocketAddr,
}

impl World {
    fn new(group: &str, mode: &str) -> Result<Self> {
        let mut stage = Stage::build(group, &BACKENDS)?;
        let vip: SocketAddr = "10.77.0.100:8080".parse()?;
        let mut backends = String::new();
        for (name, _) in BACKENDS {
            if mode == "dsr" {
                stage.backends[name].own_quietly(vip.ip())?;
                stage.serve_at(name, vip)?;
            }
            stage.serve(name)?;
            backends += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, false)?);
        }
        let config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: \"{}\", port: 8080, protocol: tcp, mode: {mode}, \
             announce: {{address: eth0}}, health: {{type: http, path: /, interval: 50ms, timeout: 50ms, rise: 2, fall: 2}}, backends: [{backends}]}}\n",
            vip.ip(),
        );
        let daemon = Daemon::start(&stage.balancer.ns, &config)?;
        Ok(Self { daemon, stage, vip })
    }

    /// Who answers `n` requests; each must be answered.
    fn ask(&self, n: usize) -> Result<Counts> {
        let vip = self.vip;
        let answers = self.stage.client.ns.enter(|| (0..n).map(|_| peer::get(vip, "/", PATIENCE)).collect::<Result<Vec<_>, _>>())??;
        let mut counts = Counts::new();
        for who in answers {
            *counts.entry(who).or_default() += 1;
        }
        Ok(counts)
    }

    /// Waits until `holds` is true of who answers.
    fn until(&self, what: &str, holds: impl Fn(&Counts) -> bool) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.ask(60) {
                Ok(counts) if holds(&counts) => return Ok(()),
                other if Instant::now() > end => bail!("not within {LIMIT:?}: {what}; last {other:?}; log:\n{}", self.daemon.log()),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

fn without(name: &str) -> impl Fn(&Counts) -> bool {
    move |who| who.len() == 2 && !who.contains_key(name)
}

#[test]
fn a_dead_backend_leaves_and_a_recovered_one_comes_back() -> Result<()> {
    for mode in ["nat", "dsr"] {
        let mut world = World::new(&format!("mesh-fail-{mode}"), mode)?;
        world.stage.kill("b1")?;
        world.until("b1 is out", without("b1"))?;
        // From here on not one request may fail or go to the dead.
        let after = world.ask(200)?;
        ensure!(!after.contains_key("b1"), "b1 is dead, but {after:?}");
        if mode == "dsr" {
            world.stage.serve_at("b1", world.vip)?;
        }
        world.stage.serve("b1")?;
        world.until("b1 is back", |who| who.len() == 3)?;
    }
    Ok(())
}

#[test]
fn a_host_that_is_cut_off_leaves() -> Result<()> {
    let world = World::new("mesh-cut", "nat")?;
    world.stage.backends["b2"].unplug()?;
    world.until("b2 is out", without("b2"))?;
    world.stage.backends["b2"].plug()?;
    world.until("b2 is back", |who| who.len() == 3)
}

#[test]
fn a_backend_that_never_passed_a_check_gets_nothing() -> Result<()> {
    let world = World::new("mesh-never", "nat")?;
    // Nobody listens there: a connection that is sent to it fails, and with it the test.
    let address = SocketAddr::new(IpAddr::from(world.stage.backends["b1"].v4), 9);
    world.daemon.ok(&["backend", "add", "web", &address.to_string(), "--name", "ghost"])?;
    for _ in 0..10 {
        world.ask(60)?;
    }
    Ok(())
}

#[test]
fn all_dead_is_said_and_survived() -> Result<()> {
    let mut world = World::new("mesh-alldead", "nat")?;
    for (name, _) in BACKENDS {
        world.stage.kill(name)?;
    }
    let end = Instant::now() + LIMIT;
    while world.daemon.json(&["service", "show", "web"])?["taking"] != 0 {
        ensure!(Instant::now() < end, "the service does not say that it has no backend: {}", world.daemon.ok(&["service", "show", "web"])?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let vip = world.vip;
    ensure!(world.stage.client.ns.enter(|| peer::get(vip, "/", Duration::from_millis(300)))?.is_err(), "nobody is there to answer");
    for (name, _) in BACKENDS {
        world.stage.serve(name)?;
    }
    world.until("all are back", |who| who.len() == 3)
}

#[test]
fn a_drained_nat_backend_keeps_its_connections() -> Result<()> {
    let world = World::new("mesh-drain", "nat")?;
    let held = Held::open(&world.stage.client.ns, world.vip, 24, Duration::from_millis(20), PATIENCE)?;
    world.daemon.ok(&["backend", "drain", "web", "b3"])?;
    world.until("b3 gets nothing new", without("b3"))?;
    std::thread::sleep(Duration::from_millis(500));
    let reports = held.finish();
    let owned = reports.iter().filter(|r| r.owner == "b3").count();
    let broken = reports.iter().filter(|r| r.broken.is_some()).count();
    ensure!(owned > 0, "none of 24 long connections was b3's: {reports:?}");
    ensure!(broken == 0, "{broken} long connections broke: {reports:?}");
    world.daemon.ok(&["backend", "undrain", "web", "b3"])?;
    world.until("b3 is back", |who| who.len() == 3)
}

#[test]
fn weights_move_shares_and_removal_empties() -> Result<()> {
    let world = World::new("mesh-weight", "nat")?;
    world.daemon.ok(&["backend", "weight", "web", "b1", "8"])?;
    world.until("b1 answers most", |who| who.get("b1").copied().unwrap_or(0) > 36)?;
    world.daemon.ok(&["backend", "rm", "web", "b1"])?;
    world.until("b1 is gone", without("b1"))
}
