//! Breakers, limits and backups under the real daemon, on real flows.

use std::{collections::BTreeSet, io, net::TcpStream, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    peer::{self, Held},
    stage::Stage,
    world::{BACKENDS, PATIENCE, World},
};
use serde_json::Value;

/// A world whose backends have keys of their own beside name and address.
fn world(group: &str, more: &str, keys: [&str; 3]) -> Result<World> {
    world_on(Stage::build(group, &BACKENDS)?, more, keys)
}

fn world_on(mut stage: Stage, more: &str, keys: [&str; 3]) -> Result<World> {
    let mut backends = String::new();
    for ((name, _), keys) in BACKENDS.iter().zip(keys) {
        stage.serve(name)?;
        backends += &format!("{{name: {name}, address: \"{}\"{keys}}}, ", stage.address(name, false)?);
    }
    let vip = "10.77.0.100:8080";
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: '{vip}', announce: {{address: eth0}}, {more}, backends: [{backends}]}}\n"
    );
    Ok(World { daemon: Daemon::start(&stage.balancer.ns, &config)?, stage, vip: vip.parse()? })
}

/// Asks until `holds`; some of the requests may fail.
fn ask_until(world: &World, what: &str, holds: impl Fn(&World) -> Result<bool>) -> Result<()> {
    let vip = world.vip;
    world.until(what, |w| {
        let _ = w.stage.client.ns.enter(|| (0..10).filter(|_| peer::get(vip, "/", Duration::from_millis(300)).is_ok()).count())?;
        holds(w)
    })
}

fn backend(world: &World, name: &str) -> Result<Value> {
    world.daemon.json(&["backend", "show", "web", name])
}

#[test]
fn refusals_open_the_breaker_and_a_trial_that_goes_well_closes_it() -> Result<()> {
    // Nobody checks: only what becomes of clients' flows speaks against a backend.
    let mut world = world("mesh-brk-open", "health: none, breaker: {consecutive: 3, open: 2s, max_open: 2s, trial: 1s}", ["", "", ""])?;
    ensure!(world.ask(60)?.len() == 3, "all three serve");
    world.stage.kill("b2")?;
    ask_until(&world, "b2's breaker is open", |w| Ok(!w.became("b2", "open")?.is_empty()))?;
    let event = &world.became("b2", "open")?[0];
    ensure!(event["values"]["failed_in_row"].as_f64() >= Some(3.0), "{event}");
    ensure!(event["evidence"].as_str().is_some_and(|e| e.contains("flows fail one after the other")), "{event}");
    let shown = world.daemon.ok(&["backend", "show", "web", "b2"])?;
    ensure!(shown.contains("breaker:"), "{shown}");
    // A trial is refused again.
    ask_until(&world, "the trial fails", |w| Ok(!w.became("b2", "trial")?.is_empty() && w.became("b2", "open")?.len() > 1))?;
    world.stage.serve("b2")?;
    ask_until(&world, "b2 is trusted again", |w| Ok(!w.became("b2", "active")?.is_empty()))?;
    for name in ["b1", "b3"] {
        ensure!(world.became(name, "open")?.is_empty(), "{name} has done nothing");
    }
    world.until("all three serve again", |w| Ok(w.ask(60)?.len() == 3))
}

fn new_flows_go_to_the_others(mode: &str) -> Result<()> {
    let mut stage = Stage::build(&format!("mesh-brk-{mode}"), &BACKENDS)?;
    let _agents = match mode {
        "nat" => Vec::new(),
        _ => stage.serve_vip(&BACKENDS.map(|(name, _)| name), "10.77.0.100:8080".parse()?, mode == "tunnel")?,
    };
    let more = format!("mode: {mode}, health: none, breaker: {{consecutive: 2, open: 1h, max_open: 1h}}");
    let mut world = world_on(stage, &more, ["", "", ""])?;
    ensure!(world.ask(60)?.len() == 3, "all three serve");
    world.stage.kill("b2")?;
    ask_until(&world, "b2's breaker is open", |w| Ok(!w.became("b2", "open")?.is_empty()))?;
    let counts = world.ask(90)?;
    ensure!(!counts.contains_key("b2") && counts.len() == 2, "{counts:?}");
    let state = backend(&world, "b2")?;
    ensure!(state["state"] == "open" && state["slots"] == 0 && state["breaker"]["state"] == "open", "{state}");
    Ok(())
}

#[test]
fn while_it_is_open_new_flows_go_to_the_others_in_nat() -> Result<()> {
    new_flows_go_to_the_others("nat")
}

#[test]
fn while_it_is_open_new_flows_go_to_the_others_in_dsr() -> Result<()> {
    new_flows_go_to_the_others("dsr")
}

#[test]
fn while_it_is_open_new_flows_go_to_the_others_in_tunnels() -> Result<()> {
    new_flows_go_to_the_others("tunnel")
}

/// All breakers are open, one after the other, and the backends live again.
fn all_open(when_empty: &str) -> Result<World> {
    let more = format!("health: none, when_empty: {when_empty}, breaker: {{consecutive: 2, open: 1h, max_open: 1h}}");
    let mut world = world(&format!("mesh-brk-{}", &when_empty[..4]), &more, ["", "", ", backup: 1"])?;
    for name in ["b1", "b2", "b3"] {
        world.stage.kill(name)?;
        ask_until(&world, &format!("{name}'s breaker is open"), |w| Ok(!w.became(name, "open")?.is_empty()))?;
        if name == "b2" {
            ask_until(&world, "the backup stands in", |w| Ok(w.ask(30).is_ok_and(|who| who.into_keys().eq(["b3"]))))?;
        }
    }
    BACKENDS.iter().try_for_each(|(name, _)| world.stage.serve(name))?;
    Ok(world)
}

#[test]
fn when_all_are_open_who_fails_static_uses_them_all_the_same() -> Result<()> {
    let world = all_open("fail_static")?;
    ask_until(&world, "both that are no backup serve", |w| Ok(w.ask(30)?.into_keys().eq(["b1", "b2"])))?;
    ensure!(backend(&world, "b1")?["breaker"]["state"] == "open", "it is used in spite of its breaker");
    Ok(())
}

#[test]
fn when_all_are_open_who_rejects_refuses() -> Result<()> {
    let world = all_open("reject")?;
    let vip = world.vip;
    world.until("connections are refused", |w| {
        let tried = w.stage.client.ns.enter(|| TcpStream::connect_timeout(&vip, PATIENCE))?;
        Ok(tried.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused))
    })?;
    ensure!(BACKENDS.iter().all(|(name, _)| backend(&world, name).is_ok_and(|b| b["slots"] == 0)), "nobody is given anything");
    Ok(())
}

#[test]
fn who_has_as_many_connections_as_it_may_have_gets_no_new_ones() -> Result<()> {
    let world = world("mesh-brk-full", "health: none", [", max_connections: 4", "", ""])?;
    let one = || Held::open(&world.stage.client.ns, world.vip, 1, Duration::from_millis(20), PATIENCE);
    let mut held = Vec::new();
    while world.became("b1", "full")?.is_empty() {
        ensure!(held.len() < 200, "b1 was never full: {}", backend(&world, "b1")?);
        held.push(one()?);
    }
    let counts = world.ask(60)?;
    ensure!(!counts.contains_key("b1"), "b1 is at its limit: {counts:?}");
    let state = backend(&world, "b1")?;
    ensure!(state["limits"]["max_connections"] == 4 && state["limits"]["reached"].is_string(), "{state}");
    // What it has goes on, and when that ends it is given flows again.
    let reports: Vec<_> = held.into_iter().flat_map(Held::finish).collect();
    ensure!(reports.iter().all(|r| r.broken.is_none()), "{reports:?}");
    ensure!(reports.iter().filter(|r| r.owner == "b1").count() >= 4, "{reports:?}");
    ask_until(&world, "b1 is given flows again", |w| Ok(w.ask(20)?.contains_key("b1")))
}

#[test]
fn a_rate_is_kept_and_left_behind() -> Result<()> {
    let world = world("mesh-brk-rate", "health: none", [", max_connection_rate: 10", "", ""])?;
    ask_until(&world, "b1 was given too many", |w| {
        w.ask(100)?;
        Ok(!w.became("b1", "full")?.is_empty())
    })?;
    let event = &world.became("b1", "full")?[0];
    ensure!(event["values"]["limit"] == 10.0 && event["values"]["counted"].as_f64() >= Some(10.0), "{event}");
    world.until("there is room again", |w| Ok(!w.became("b1", "active")?.is_empty()))
}

#[test]
fn backups_stand_in_by_number_while_nobody_else_can() -> Result<()> {
    let mut world = world("mesh-brk-backup", "health: tcp", ["", ", backup: 2", ", backup: 1"])?;
    let who = |w: &World| -> Result<BTreeSet<String>> { Ok(w.ask(30)?.into_keys().collect()) };
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    world.until("b1 serves", |w| Ok(backend(w, "b1")?["state"] == "active" && backend(w, "b3")?["state"] == "standby"))?;
    ensure!(who(&world)? == only("b1"), "backups stand by");
    world.stage.kill("b1")?;
    world.until("b3 stands in", |w| Ok(backend(w, "b3")?["state"] == "active"))?;
    ensure!(who(&world)? == only("b3"), "the lowest number first");
    world.stage.kill("b3")?;
    world.until("b2 stands in", |w| Ok(backend(w, "b2")?["state"] == "active"))?;
    ensure!(who(&world)? == only("b2"), "then the next");
    world.stage.serve("b1")?;
    world.until("b1 is back", |w| Ok(!w.became("b1", "recovering")?.is_empty() && backend(w, "b2")?["state"] == "standby"))?;
    ensure!(who(&world)? == only("b1"), "and the backup stands by again");
    let event = world.became("b3", "active")?.pop().context("no event tells that b3 stood in")?;
    ensure!(event["evidence"].as_str().is_some_and(|e| e.contains("too few of the others")), "{event}");
    Ok(())
}

/// What has to happen, and what a backend's breaker then says of it.
fn opens_by(group: &str, rules: &str, health: &str, value: &str, least: f64, fail: impl Fn(&mut World) -> Result<()>) -> Result<()> {
    let mut world = world(group, &format!("health: {health}, breaker: {{{rules}, open: 1h, max_open: 1h}}"), ["", "", ""])?;
    ensure!(world.ask(90)?.len() == 3, "all three serve");
    fail(&mut world)?;
    ask_until(&world, "b2's breaker is open", |w| Ok(!w.became("b2", "open")?.is_empty()))?;
    let event = &world.became("b2", "open")?[0];
    ensure!(event["values"][value].as_f64() >= Some(least), "{event}");
    ensure!(!world.ask(60)?.contains_key("b2"), "new flows go to the others");
    Ok(())
}

#[test]
fn the_share_of_flows_that_fail_opens() -> Result<()> {
    let rules = "failures: 50, volume: 20, consecutive: 0, window: 5s";
    opens_by("mesh-brk-share", rules, "none", "failures", 0.5, |world| world.stage.kill("b2"))
}

#[test]
fn latency_without_load_left_far_behind_opens() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let slow = folder.path().join("slow");
    let script = format!("test $MESH_ADDRESS != 10.77.0.12 -o ! -e {} || exec sleep 0.8", slow.display());
    let health = format!("{{type: exec, command: [/bin/sh, -c, '{script}'], interval: 200ms, timeout: 5s, detector: rise_fall}}");
    let rules = "failures: 0, consecutive: 0, latency: 4, window: 6s";
    opens_by("mesh-brk-slow", rules, &health, "latency", 4.0, |_| Ok(std::fs::write(&slow, "")?))
}

#[test]
fn a_trial_lets_its_share_through() -> Result<()> {
    let rules = "health: none, breaker: {consecutive: 3, open: 1s, max_open: 1s, trial: 1h, trial_share: 10}";
    let mut world = world("mesh-brk-trial", rules, ["", "", ""])?;
    world.stage.kill("b2")?;
    ask_until(&world, "b2's breaker is open", |w| Ok(!w.became("b2", "open")?.is_empty()))?;
    world.stage.serve("b2")?;
    // What began before it was served may still fail a trial or two.
    ask_until(&world, "b2 is on trial and answers", |w| Ok(backend(w, "b2")?["state"] == "trial" && w.ask(60)?.contains_key("b2")))?;
    let counts = world.ask(600)?;
    // A tenth of its weight is one flow of 21.
    let tried = counts.get("b2").copied().unwrap_or(0);
    ensure!((6..=75).contains(&tried) && counts["b1"] > 180 && counts["b3"] > 180, "{counts:?}");
    Ok(())
}
