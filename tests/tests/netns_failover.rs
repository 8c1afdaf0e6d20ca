//! Instances that fail, recover, drain and change weight, under real traffic.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use mesh_tests::{
    peer,
    stage::Stage,
    world::{BACKENDS, PATIENCE, World},
};

type Counts = BTreeMap<String, usize>;

/// Three backends that are asked by HTTP twenty times a second.
fn world(group: &str, mode: &str) -> Result<World> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    let vip: SocketAddr = "10.77.0.100:8080".parse()?;
    for (name, _) in BACKENDS {
        if mode == "dsr" {
            stage.backends[name].own_quietly(vip.ip())?;
            stage.serve_at(name, vip)?;
        }
        stage.serve(name)?;
    }
    World::of(stage, &format!("mode: {mode}, health: {{type: http, path: /, interval: 50ms, timeout: 50ms, rise: 2, fall: 2}}"))
}

/// Waits until `holds` is true of who answers.
fn until(world: &World, what: &str, holds: impl Fn(&Counts) -> bool) -> Result<()> {
    // A request may still fail on the way there.
    world.until(what, |w| Ok(w.ask(60).is_ok_and(|who| holds(&who))))
}

fn without(name: &str) -> impl Fn(&Counts) -> bool {
    move |who| who.len() == 2 && !who.contains_key(name)
}

#[test]
fn a_dead_backend_leaves_and_a_recovered_one_comes_back() -> Result<()> {
    for mode in ["nat", "dsr"] {
        let mut world = world(&format!("mesh-fail-{mode}"), mode)?;
        world.stage.kill("b1")?;
        until(&world, "b1 is out", without("b1"))?;
        // From here on not one request may fail or go to the dead.
        let after = world.ask(200)?;
        ensure!(!after.contains_key("b1"), "b1 is dead, but {after:?}");
        if mode == "dsr" {
            world.stage.serve_at("b1", world.vip)?;
        }
        world.stage.serve("b1")?;
        until(&world, "b1 is back", |who| who.len() == 3)?;
    }
    Ok(())
}

#[test]
fn a_host_that_is_cut_off_leaves() -> Result<()> {
    let world = world("mesh-cut", "nat")?;
    world.stage.backends["b2"].unplug()?;
    until(&world, "b2 is out", without("b2"))?;
    world.stage.backends["b2"].plug()?;
    until(&world, "b2 is back", |who| who.len() == 3)
}

#[test]
fn a_backend_that_never_passed_a_check_gets_nothing() -> Result<()> {
    let world = world("mesh-never", "nat")?;
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
    let mut world = world("mesh-alldead", "nat")?;
    for (name, _) in BACKENDS {
        world.stage.kill(name)?;
    }
    world.until("no backend is left", |w| Ok(w.daemon.json(&["service", "show", "web"])?["taking"] == 0))?;
    let vip = world.vip;
    ensure!(world.stage.client.ns.enter(|| peer::get(vip, "/", Duration::from_millis(300)))?.is_err(), "nobody is there to answer");
    for (name, _) in BACKENDS {
        world.stage.serve(name)?;
    }
    until(&world, "all are back", |who| who.len() == 3)
}

#[test]
fn a_drained_nat_backend_keeps_its_connections() -> Result<()> {
    let world = world("mesh-drain", "nat")?;
    let held = world.hold(24, PATIENCE)?;
    world.daemon.ok(&["backend", "drain", "web", "b3"])?;
    until(&world, "b3 gets nothing new", without("b3"))?;
    std::thread::sleep(Duration::from_millis(500));
    let reports = held.finish();
    let owned = reports.iter().filter(|r| r.owner == "b3").count();
    let broken = reports.iter().filter(|r| r.broken.is_some()).count();
    ensure!(owned > 0, "none of 24 long connections was b3's: {reports:?}");
    ensure!(broken == 0, "{broken} long connections broke: {reports:?}");
    world.daemon.ok(&["backend", "undrain", "web", "b3"])?;
    until(&world, "b3 is back", |who| who.len() == 3)
}

#[test]
fn weights_move_shares_and_removal_empties() -> Result<()> {
    let world = world("mesh-weight", "nat")?;
    world.daemon.ok(&["backend", "weight", "web", "b1", "8"])?;
    until(&world, "b1 answers most", |who| who.get("b1").copied().unwrap_or(0) > 36)?;
    world.daemon.ok(&["backend", "rm", "web", "b1"])?;
    until(&world, "b1 is gone", without("b1"))
}
