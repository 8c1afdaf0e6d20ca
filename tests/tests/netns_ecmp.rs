//! Two balancers that know each other's flows: connections outlive every change of the way that they take.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bench::churn::{BALANCERS, Churn, Way, unbroken},
    daemon::LIMIT,
    peer::Held,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Generous where a busy machine is slow, short where a slot has to come to rest.
const IDLE: Duration = Duration::from_secs(6);
/// So many that some are with a backend that has an eighth of the slots yet. Of 24, one run in dozens found none.
const HELD: usize = 64;
const PAUSE: Duration = Duration::from_millis(50);

/// Longer than slots take whose owner changes behind the back of flows that live: these are waited for, then learnt, then named.
const FLIP: Duration = Duration::from_secs(9);

const FIRST: &str = BALANCERS[0];
const SECOND: &str = BALANCERS[1];

fn flows(churn: &Churn) -> Result<Value> {
    Ok(churn.daemon.json(&["status"])?["peers"]["nodes"][0]["flows"].clone())
}

/// Waits until the other balancer knows of the flows that have begun: what changes its way within that time is not promised anything.
fn told(churn: &Churn) -> Result<()> {
    std::thread::sleep(Duration::from_millis(500));
    churn.daemon.until("all flows are told of", || {
        let (here, there) = (flows(churn)?, churn.other.as_ref().map(|other| other.json(&["status"])).transpose()?);
        Ok(here["waiting"] == 0 && there.is_some_and(|status| status["peers"]["nodes"][0]["flows"]["waiting"] == 0))
    })
}

fn reshuffle(churn: &Churn) -> Result<()> {
    for order in [[SECOND, FIRST], [FIRST, SECOND]] {
        churn.route(&order)?;
        churn.owners(5)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Lets all flows change their balancer again and again until new connections do (or do not) reach this backend.
fn reshuffled_until(churn: &Churn, name: &str, reached: bool) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while churn.owners(40)?.contains(name) != reached {
        ensure!(Instant::now() < end, "{name}: {}", churn.daemon.ok(&["ledger", "ls"])?);
        reshuffle(churn)?;
    }
    Ok(())
}

/// All of them live, and some are with the backend whose slots went to others.
fn lived(churn: &Churn, held: Held, with: &str) -> Result<()> {
    let reports = held.finish();
    unbroken(&reports).with_context(|| {
        let said = |order: &[&str]| churn.daemon.ok(order).unwrap_or_default();
        let there = churn.other.as_ref().and_then(|other| other.ok(&["events"]).ok()).unwrap_or_default();
        format!("{}\n{}\n{}\nthe other: {there}", flows(churn).unwrap_or_default(), said(&["ledger", "ls"]), said(&["events"]))
    })?;
    ensure!(reports.iter().any(|report| report.owner == with), "no flow is with {with}: {reports:?}");
    Ok(())
}

/// A drain and an addition while flows are led from one balancer to the other, and one of the two leaves.
#[test]
fn connections_outlive_changes_while_they_change_their_balancer() -> Result<()> {
    let churn = Churn::pair("mesh-ecmp", Way::Tunnel, IDLE)?;
    churn.daemon.until("the other is counted on", || Ok(flows(&churn)?["state"] == "here"))?;
    let before = churn.hold(HELD, PAUSE)?;
    churn.order(&["drain", "web", "b2"])?;
    reshuffled_until(&churn, "b2", false)?;
    let between = churn.hold(HELD, PAUSE)?;
    told(&churn)?;
    churn.order(&["add", "web", "10.77.0.14", "--name", "b4"])?;
    churn.route(&[SECOND])?;
    churn.until_new_reach("b4", true)?;
    let end = Instant::now() + FLIP;
    while Instant::now() < end {
        reshuffle(&churn)?;
    }
    lived(&churn, before, "b2")?;
    lived(&churn, between, "b1")?;
    let told = flows(&churn)?;
    ensure!(told["sent"].as_u64() > Some(0) && told["received"].as_u64() > Some(0), "nothing was told: {told}");
    let page = churn.daemon.ok(&["status"])?;
    ensure!(page.contains("here: epoch"), "{page}");
    churn.rest()
}

/// One of the two dies while a change is prepared, which then waits for it no longer than is said; and comes back with nothing, to be told of slots and
/// flows before anybody relies on it.
#[test]
fn a_dead_balancer_holds_nothing_up_and_learns_all_when_it_returns() -> Result<()> {
    let mut churn = Churn::pair("mesh-ecmp-join", Way::Dsr, IDLE)?;
    churn.daemon.until("the other is counted on", || Ok(flows(&churn)?["state"] == "here"))?;
    let before = churn.hold(HELD, PAUSE)?;
    churn.order(&["weight", "web", "b1", "0"])?;
    // It is prepared for the time of a handshake, two seconds.
    std::thread::sleep(Duration::from_millis(700));
    let other = churn.other.as_mut().context("there is no second balancer")?;
    other.leave(Signal::SIGKILL)?;
    churn.route(&[FIRST])?;
    churn.until_new_reach("b1", false)?;
    churn.daemon.until("nobody waits for who is dead", || Ok(flows(&churn)?["state"] == "lost"))?;
    let late = churn.hold(HELD, PAUSE)?;
    let other = churn.other.as_mut().context("there is no second balancer")?;
    other.launch()?;
    other.wait_ready(LIMIT)?;
    let status = other.json(&["status"])?;
    ensure!(status["peers"]["joining"] == false, "it is ready before it knows what others know: {status}");
    let told_it = &status["peers"]["nodes"][0]["flows"];
    ensure!(told_it["received"].as_u64() > Some(0), "it was not told of flows: {status}");
    churn.route(&[SECOND])?;
    let later = churn.hold(HELD, PAUSE)?;
    told(&churn)?;
    let other = churn.other.as_ref().context("there is no second balancer")?;
    other.until("it has slots on their way", || Ok(other.json(&["status"])?["ledger"]["moving"].as_u64() > Some(0)))?;
    let end = Instant::now() + FLIP;
    while Instant::now() < end {
        reshuffle(&churn)?;
    }
    lived(&churn, before, "b1")?;
    lived(&churn, late, "b2")?;
    lived(&churn, later, "b2")
}

/// A balancer comes back with nothing, and finds a backend later than the others tell of its flows: they tell it until it can take them in.
#[test]
fn a_balancer_that_finds_a_backend_late_is_told_of_its_connections() -> Result<()> {
    const ADD: [&str; 5] = ["add", "web", "10.77.0.14", "--name", "b4"];
    // Longer than it takes to find the others well.
    const LATE: Duration = Duration::from_secs(3);
    let mut churn = Churn::pair("mesh-ecmp-late", Way::Tunnel, IDLE)?;
    churn.daemon.until("the other is counted on", || Ok(flows(&churn)?["state"] == "here"))?;
    let before = churn.hold(HELD, PAUSE)?;
    churn.order(&ADD)?;
    churn.daemon.until("b4 takes its share", || Ok(churn.asked(40)?.get("b4").is_some_and(|share| *share >= 8)))?;
    let late = churn.hold(HELD, PAUSE)?;
    told(&churn)?;
    let other = churn.other.as_mut().context("there is no second balancer")?;
    other.leave(Signal::SIGKILL)?;
    // What it was ordered it does not know any more.
    fs::remove_file(other.config_path().with_file_name("state").join(format!("{}.json", other.instance())))?;
    churn.route(&[FIRST])?;
    churn.daemon.until("nobody waits for who is dead", || Ok(flows(&churn)?["state"] == "lost"))?;
    let other = churn.other.as_mut().context("there is no second balancer")?;
    other.launch()?;
    other.until("it is told of flows", || {
        Ok(other.json(&["status"]).is_ok_and(|status| status["peers"]["nodes"][0]["flows"]["state"] == "here"))
    })?;
    std::thread::sleep(LATE);
    other.ok(&[&["backend"], &ADD[..]].concat())?;
    other.wait_ready(LIMIT)?;
    told(&churn)?;
    let end = Instant::now() + FLIP;
    while Instant::now() < end {
        reshuffle(&churn)?;
    }
    lived(&churn, before, "b2")?;
    lived(&churn, late, "b4")
}
