//! Drains on real flows: planned, watched by the kernel's own counts, ended by the last flow, by a deadline or by the operator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::world::{PATIENCE, World};
use serde_json::Value;

fn drain(world: &World, name: &str) -> Result<Value> {
    let all = world.daemon.json(&["backend", "drains", "web"])?;
    all.as_array().and_then(|a| a.iter().find(|d| d["name"] == name)).cloned().with_context(|| format!("no drain of {name}: {all}"))
}

#[test]
fn a_planned_drain_keeps_its_flows_and_ends_with_the_last() -> Result<()> {
    let world = World::new("mesh-drain", "")?;
    let held = world.hold(24, PATIENCE)?;
    world.until("the flows are counted", |w| Ok(w.daemon.json(&["service", "show", "web"])?["live_flows"].as_u64() >= Some(24)))?;

    let planned = world.daemon.json(&["plan", "drain", "web", "b2"])?;
    let web = &planned["services"][0];
    let refused = world.daemon.cli(&["plan", "drain", "web", "b2", "--max-move", "2%"])?;
    ensure!(refused.status.code() == Some(4), "a third of the hash space is more than 2 %: {refused:?}");
    let before = world.events("slots_moved")?.len();

    let output = std::thread::scope(|scope| -> Result<_> {
        let waiting = scope.spawn(|| world.daemon.ok(&["backend", "drain", "web", "b2", "--wait"]));
        world.until("the drain is watched", |w| Ok(drain(w, "b2").is_ok_and(|d| d["flows"].as_u64() > Some(0))))?;
        let told = world.events("slots_moved")?;
        let told = told.get(before).context("no event tells what moved")?;
        for key in ["moved", "slots", "secondaries"] {
            ensure!(told[key] == web[key], "{key} was planned as {}, and came out as {}", web[key], told[key]);
        }
        ensure!(told["flows"]["lost"] == 0 && web["flows"]["lost"] == 0, "translated flows stay: {planned} {told}");
        std::thread::sleep(Duration::from_millis(1500));
        let drain = drain(&world, "b2")?;
        ensure!(drain["state"] == "draining" && drain["new_flows"] == 0 && !waiting.is_finished(), "{drain}");
        let reports = held.finish();
        let broken: Vec<_> = reports.iter().filter(|r| r.broken.is_some()).collect();
        ensure!(broken.is_empty() && reports.iter().any(|r| r.owner == "b2"), "{broken:?}");
        waiting.join().map_err(|_| anyhow::anyhow!("the waiting command panicked"))?
    })?;
    ensure!(output.contains("is drained after") && output.contains("the last flow has ended"), "{output}");
    ensure!(drain(&world, "b2")?["ended"] == "empty");
    ensure!(world.events("drain_ended")?.len() == 1);
    Ok(())
}

#[test]
fn deadlines_cut_and_remove_and_undrain_ends_a_drain() -> Result<()> {
    let world = World::new("mesh-deadline", "")?;
    let held = world.hold(24, PATIENCE)?;
    world.until("the flows are counted", |w| Ok(w.daemon.json(&["service", "show", "web"])?["live_flows"].as_u64() >= Some(24)))?;
    world.daemon.ok(&["backend", "drain", "web", "b1", "--deadline", "1s", "--then", "rst"])?;
    world.daemon.ok(&["backend", "drain", "web", "b2", "--deadline", "1h", "--then", "remove"])?;
    world.until("b1 is cut off", |w| Ok(drain(w, "b1")?["ended"] == "cut"))?;
    let list = world.daemon.json(&["backend", "ls", "web"])?;
    let live =
        |list: &Value, name: &str| list.as_array().and_then(|l| l.iter().find(|b| b["name"] == name)).map(|b| b["live_flows"].clone());
    world.until("its flows are gone", |w| Ok(live(&w.daemon.json(&["backend", "ls", "web"])?, "b1") == Some(0.into())))?;
    ensure!(live(&list, "b2").and_then(|n| n.as_u64()) > Some(0), "b2 keeps its flows: {list}");
    // Who goes on with b1 is told so at once, and not left to wait.
    let broken = |owner: &str| held.so_far().iter().filter(|r| r.owner == owner && r.broken.is_some()).count();
    world.until("the clients of b1 are told", |_| Ok(held.so_far().iter().all(|r| (r.owner == "b1") == r.broken.is_some())))?;
    ensure!(broken("b1") > 0 && broken("b2") + broken("b3") == 0, "{:?}", held.so_far());
    ensure!(held.so_far().iter().filter_map(|r| r.broken.as_ref()).all(|why| why.contains("reset")), "{:?}", held.so_far());

    world.daemon.ok(&["backend", "undrain", "web", "b1"])?;
    held.finish();
    world.until("b2 is removed with its last flow", |w| {
        let list = w.daemon.json(&["backend", "ls", "web"])?;
        Ok(live(&list, "b2").is_none() && drain(w, "b2")?["ended"] == "removed")
    })?;
    world.daemon.ok(&["backend", "drain", "web", "b3"])?;
    world.daemon.ok(&["backend", "undrain", "web", "b3"])?;
    world.until("the operator has taken b3 back", |w| Ok(drain(w, "b3")?["ended"] == "undrained" || drain(w, "b3")?["ended"] == "empty"))
}

/// What `mesh plan` says before a change is what the event log says after it. (One that is added has to be checked first, and is slow at first.)
#[test]
fn what_is_planned_is_what_comes_of_it() -> Result<()> {
    let world = World::new("mesh-planned", "")?;
    for change in [&["drain", "web", "b1"][..], &["undrain", "web", "b1"], &["weight", "web", "b2", "3"], &["rm", "web", "b3"]] {
        // What came of the change before is over: a backend that comes back is slow at first.
        world.until("all serve", |w| {
            let list = w.daemon.json(&["backend", "ls", "web"])?;
            let whole = |b: &Value| b["weighing"]["slow_start"] == 1.0;
            Ok(list.as_array().is_some_and(|all| all.iter().all(whole)))
        })?;
        let planned = world.daemon.json(&[&["plan"], change].concat())?["services"][0].clone();
        let before = world.events("slots_moved")?.len();
        world.daemon.ok(&[&["backend"], change].concat())?;
        world.until("the event tells", |w| Ok(w.events("slots_moved")?.len() > before))?;
        let told = world.events("slots_moved")?;
        let told = told.get(before).context("no event")?;
        for key in ["moved", "slots", "secondaries"] {
            ensure!(told[key] == planned[key], "{change:?}: {key} was planned as {}, and came out as {}: {told}", planned[key], told[key]);
        }
        ensure!(told["flows"]["lost"] == planned["flows"]["lost"], "{change:?}: {planned} {told}");
    }
    Ok(())
}
