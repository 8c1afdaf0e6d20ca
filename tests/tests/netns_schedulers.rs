//! Schedulers that choose for each flow: who gets how much, and what becomes of connections while they are switched. The real daemon and real TCP.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::bench::churn::{Churn, Way, unbroken};
use serde_json::Value;

const IDLE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
const SCHEDULERS: [&str; 6] = ["random", "round-robin", "least-connections", "least-response-time", "two-choices", "hash-unless-crowded"];

fn choose(churn: &Churn, scheduler: &str, keys: &str) -> Result<()> {
    churn.configure(&format!("scheduler: {scheduler}, {keys}"))?;
    let shown = churn.daemon.json(&["service", "show", "web"])?;
    ensure!(shown["scheduler"] == scheduler, "{shown}");
    Ok(())
}

fn scheduling(churn: &Churn, what: &str) -> Result<u64> {
    churn.daemon.json(&["status"])?["scheduling"][what].as_u64().with_context(|| format!("the status does not tell {what}"))
}

/// Each scheduler after the other, with connections of each: all of them go on, while the table moves beneath.
fn switched(group: &str, way: Way) -> Result<()> {
    let churn = Churn::new(group, way, IDLE)?;
    let mut held = vec![churn.hold(12, PAUSE)?];
    for scheduler in SCHEDULERS {
        let before = scheduling(&churn, "chosen")?;
        choose(&churn, scheduler, "")?;
        held.push(churn.hold(6, PAUSE)?);
        ensure!(scheduling(&churn, "chosen")? >= before, "{scheduler}");
        churn.daemon.until("the scheduler has chosen", || Ok(scheduling(&churn, "chosen")? >= before + 6))?;
    }
    // What was chosen is where it was though slots lead elsewhere, and the hash alone says again where new ones go.
    churn.daemon.ok(&["backend", "weight", "web", "b1", "7"])?;
    churn.configure("")?;
    let chosen = scheduling(&churn, "chosen")?;
    held.push(churn.hold(6, PAUSE)?);
    churn.owners(30)?;
    let turns: Vec<u64> = held.iter().map(|h| h.turns()).collect();
    churn.daemon.until("all are asked again", || Ok(held.iter().zip(&turns).all(|(h, t)| h.turns() > t + 50)))?;
    ensure!(scheduling(&churn, "chosen")? == chosen, "nobody is to choose any more");
    if way != Way::Nat {
        ensure!(scheduling(&churn, "full")? == 0, "there was room for all");
        let used = churn.daemon.json(&["status"])?["scheduling"]["remembered"]["used"].as_u64();
        ensure!(used >= Some(36), "flows are remembered: {used:?}");
    }
    for held in held {
        unbroken(&held.finish())?;
    }
    Ok(())
}

#[test]
fn switching_breaks_nothing_in_nat() -> Result<()> {
    switched("mesh-sch-nat", Way::Nat)
}

#[test]
fn switching_breaks_nothing_in_dsr() -> Result<()> {
    switched("mesh-sch-dsr", Way::Dsr)
}

#[test]
fn switching_breaks_nothing_in_tunnel() -> Result<()> {
    switched("mesh-sch-tun", Way::Tunnel)
}

fn share(counts: &BTreeMap<String, usize>, name: &str) -> usize {
    counts.get(name).copied().unwrap_or(0)
}

/// Weights of 1, 1 and 2. What is drawn is held against six standard deviations, which chance goes beyond once in 500 million runs.
#[test]
fn weights_say_how_much() -> Result<()> {
    let churn = Churn::new("mesh-sch-share", Way::Dsr, IDLE)?;
    choose(&churn, "round-robin", "")?;
    churn.daemon.ok(&["backend", "weight", "web", "b3", "2"])?;
    let counts = churn.asked(40)?;
    let exact = |name: &str, wanted: usize| share(&counts, name).abs_diff(wanted) <= 1;
    ensure!(exact("b1", 10) && exact("b2", 10) && exact("b3", 20), "in turn: {counts:?}");
    choose(&churn, "random", "")?;
    // Slots come to rest with their new owners first; the status tells of that a second late.
    churn.daemon.until("no slot is on its way", || Ok(churn.daemon.json(&["ledger", "ls"])?.as_array().is_some_and(Vec::is_empty)))?;
    let counts = churn.asked(400)?;
    let near = |name: &str, wanted: usize, far: usize| share(&counts, name).abs_diff(wanted) <= far;
    ensure!(near("b1", 100, 54) && near("b2", 100, 54) && near("b3", 200, 62), "at random: {counts:?}");
    Ok(())
}

/// One backend has long connections already: new ones go to the others until these have as many.
fn least_connections(group: &str, way: Way) -> Result<()> {
    let churn = Churn::new(group, way, IDLE)?;
    choose(&churn, "least-connections", "")?;
    for name in ["b2", "b3"] {
        churn.daemon.ok(&["backend", "weight", "web", name, "0"])?;
    }
    churn.until_new_reach("b2", false)?;
    churn.until_new_reach("b3", false)?;
    let first = churn.hold(12, PAUSE)?;
    for name in ["b2", "b3"] {
        churn.daemon.ok(&["backend", "weight", "web", name, "1"])?;
    }
    let second = churn.hold(12, PAUSE)?;
    let reports = (first.finish(), second.finish());
    unbroken(&reports.0)?;
    unbroken(&reports.1)?;
    let count = |name: &str| reports.1.iter().filter(|r| r.owner == name).count();
    ensure!(reports.0.iter().all(|r| r.owner == "b1"), "{reports:?}");
    // Sweeps put right what was counted, and connections of before may still be closing.
    ensure!(count("b1") <= 1 && count("b2").abs_diff(count("b3")) <= 3, "{:?}", reports.1);
    Ok(())
}

#[test]
fn who_has_fewest_connections_gets_the_next_in_nat() -> Result<()> {
    least_connections("mesh-sch-lcn", Way::Nat)
}

#[test]
fn who_has_fewest_connections_gets_the_next_in_dsr() -> Result<()> {
    least_connections("mesh-sch-lcd", Way::Dsr)
}

/// What `explain` says of the client's next connection.
fn explained(churn: &Churn) -> Result<Value> {
    churn.daemon.json(&["explain", &format!("{}:4321", churn.stage.client.v4), &churn.vip.to_string()])
}

fn stays(group: &str, way: Way) -> Result<()> {
    let churn = Churn::new(group, way, IDLE)?;
    choose(&churn, "random", "affinity: {timeout: 4s}, ")?;
    let told = explained(&churn)?;
    ensure!(told["by"] == "scheduler", "nobody has connected yet: {told}");
    let owners = churn.owners(20)?;
    ensure!(owners.len() == 1, "one source, one backend: {owners:?}");
    let owner = owners.into_iter().next().context("nobody")?;
    let told = explained(&churn)?;
    // Explaining leaves nothing behind: it neither counts nor keeps the source where it is.
    ensure!(told["by"] == "source", "{told}");
    churn.daemon.ok(&["backend", "weight", "web", &owner, "0"])?;
    churn.until_new_reach(&owner, false)?;
    ensure!(churn.owners(20)?.len() == 1, "another one, and that one alone");
    churn.daemon.until("the source is forgotten", || Ok(explained(&churn)?["by"] == "scheduler"))
}

#[test]
fn a_source_stays_with_its_backend_for_a_time_in_nat() -> Result<()> {
    stays("mesh-sch-afn", Way::Nat)
}

#[test]
fn a_source_stays_with_its_backend_for_a_time_in_dsr() -> Result<()> {
    stays("mesh-sch-afd", Way::Dsr)
}

/// What can't be remembered goes by the hash, lives all the same, and is counted.
#[test]
fn where_there_is_no_room_the_hash_says() -> Result<()> {
    let churn = Churn::with("mesh-sch-full", Way::Dsr, IDLE, "limits: {flows: 64}\n")?;
    choose(&churn, "random", "")?;
    let held = churn.hold(300, Duration::from_millis(100))?;
    ensure!(
        scheduling(&churn, "full")? > 0 || {
            churn.daemon.until("it is counted", || Ok(scheduling(&churn, "full")? > 0))?;
            true
        }
    );
    let turns = held.turns();
    churn.daemon.until("all are asked again", || Ok(held.turns() > turns + 3))?;
    unbroken(&held.finish())
}
