//! Real connections through services that nobody translates, while their tables change: none breaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bench::churn::{Churn, Flood, Setting, Way, unbroken};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Generous where a busy machine is slow, short where a slot has to come to rest.
const IDLE: Duration = Duration::from_secs(10);
const HELD: usize = 24;
/// A connection is asked at least so often: it is never idle for as long as it is promised it may be.
const PAUSE: Duration = Duration::from_millis(20);

/// Drain, remove, add and two weights, one upon the other, with flows of before and of in between.
fn survives(group: &str, way: Way) -> Result<()> {
    let churn = Churn::new(group, way, IDLE)?;
    let before = churn.hold(HELD, PAUSE)?;
    churn.daemon.ok(&["backend", "drain", "web", "b2"])?;
    churn.until_new_reach("b2", false)?;
    let between = churn.hold(HELD, PAUSE)?;
    churn.daemon.ok(&["backend", "rm", "web", "b2"])?;
    churn.daemon.ok(&["backend", "add", "web", "10.77.0.14", "--name", "b4"])?;
    churn.until_new_reach("b4", true)?;
    churn.daemon.ok(&["backend", "weight", "web", "b1", "0"])?;
    churn.until_new_reach("b1", false)?;
    churn.daemon.ok(&["backend", "weight", "web", "b1", "2"])?;
    churn.until_new_reach("b1", true)?;
    let ledger = churn.ledger()?;
    ensure!(ledger["entries"]["used"].as_u64() > Some(0) && ledger["elsewhere"].as_u64() > Some(0), "nothing was remembered: {ledger}");
    // Longer than anything takes that is done behind the back of flows that live.
    let end = Instant::now() + Duration::from_secs(15);
    while Instant::now() < end {
        churn.owners(10)?;
    }
    let (before, between) = (before.finish(), between.finish());
    unbroken(&before)?;
    unbroken(&between)?;
    ensure!(before.iter().any(|r| r.owner == "b2") && before.iter().any(|r| r.owner == "b1"), "the flows are with too few: {before:?}");
    churn.rest()?;
    // A step that is due when the maps are compared is none of somebody else's doing.
    let events = churn.daemon.ok(&["events"])?;
    ensure!(!events.contains("differences in the kernel's maps"), "{events}");
    ensure!(churn.owners(60)?.into_iter().eq(["b1", "b3", "b4"]), "new connections do not reach all there are");
    Ok(())
}

/// Nothing counts the flows of such a service: a drain is over when the ledger knows that there are none, and not when they say nothing for a while.
#[test]
fn a_drain_waits_for_connections_that_say_nothing() -> Result<()> {
    let churn = Churn::new("mesh-drain-dsr", Way::Dsr, IDLE)?;
    let held = churn.hold(HELD, IDLE / 2)?;
    let drain = || -> Result<Value> {
        let drains = churn.daemon.json(&["backend", "drains", "web"])?;
        drains.get(0).cloned().with_context(|| format!("one drain was ordered: {drains}"))
    };
    churn.daemon.ok(&["backend", "drain", "web", "b2"])?;
    let end = Instant::now() + IDLE + IDLE / 2;
    while Instant::now() < end {
        let drain = drain()?;
        ensure!(drain["state"] == "draining" && drain["flows"].is_null(), "connections are still open: {drain}");
        std::thread::sleep(Duration::from_millis(500));
    }
    ensure!(drain()?["slots"].as_u64() > Some(0), "no slot is said to have flows: {}", drain()?);
    let held = held.finish();
    unbroken(&held)?;
    ensure!(held.iter().any(|r| r.owner == "b2"), "no flow is with b2: {held:?}");
    churn.rest()?;
    churn.daemon.until("the drain is over", || Ok(drain()?["ended"] == "empty"))?;
    ensure!(drain()?["slots"] == 0, "{}", drain()?);
    Ok(())
}

/// Forged SYNs take up all room there is: new flows then stay with who is drained, until the flood is over, and nobody is torn away.
#[test]
fn a_flood_holds_a_drain_up_and_breaks_nothing() -> Result<()> {
    let churn = Churn::with("mesh-ledger-syn", Way::Dsr, IDLE, "limits: {ledger: 8192}\n")?;
    let before = churn.hold(HELD, PAUSE)?;
    let flood = Flood::start(&churn.stage.client.ns, churn.vip, 10_000)?;
    std::thread::sleep(Duration::from_millis(300));
    churn.daemon.ok(&["backend", "drain", "web", "b2"])?;
    let during = churn.hold(HELD, PAUSE)?;
    std::thread::sleep(Duration::from_secs(4));
    let ledger = churn.ledger()?;
    ensure!(ledger["refused"].as_u64() > Some(0), "there was room for all: {ledger}");
    ensure!(flood.finish()? > 1000, "there was no flood");
    churn.until_new_reach("b2", false)?;
    let (before, during) = (before.finish(), during.finish());
    unbroken(&before)?;
    unbroken(&during)?;
    ensure!(before.iter().any(|r| r.owner == "b2"), "no flow is with b2: {before:?}");
    churn.rest()
}

/// A daemon that is killed amidst a change leaves it to the next one, which begins to count anew.
#[test]
fn a_killed_daemon_leaves_its_changes_to_the_next() -> Result<()> {
    let mut churn = Churn::new("mesh-ledger-die", Way::Dsr, IDLE)?;
    let before = churn.hold(HELD, PAUSE)?;
    churn.daemon.ok(&["backend", "drain", "web", "b2"])?;
    churn.restart(Signal::SIGKILL)?;
    let between = churn.hold(HELD, PAUSE)?;
    churn.until_new_reach("b2", false)?;
    churn.daemon.ok(&["backend", "add", "web", "10.77.0.14", "--name", "b4"])?;
    churn.restart(Signal::SIGTERM)?;
    churn.until_new_reach("b4", true)?;
    let (before, between) = (before.finish(), between.finish());
    unbroken(&before)?;
    unbroken(&between)?;
    churn.rest()
}

/// A client has so few ports that it uses each one again within moments: no new connection goes by what is remembered of an old one, and slots come to
/// rest while it goes on.
#[test]
fn a_client_with_few_ports_is_led_anew_and_holds_nothing_up() -> Result<()> {
    const PORTS: usize = 64;
    let churn = Churn::new("mesh-ledger-few", Way::Dsr, IDLE)?;
    churn.stage.client.ns.sysctl("net/ipv4/ip_local_port_range", "50000 50063")?;
    churn.daemon.ok(&["backend", "drain", "web", "b2"])?;
    churn.daemon.until("slots are on their way", || Ok(churn.moving()? > 0))?;
    churn.daemon.until("no port leads to b2", || Ok(!churn.owners(2 * PORTS)?.contains("b2")))?;
    let mut asked = 0;
    let end = Instant::now() + 6 * IDLE;
    while churn.moving()? > 0 {
        ensure!(Instant::now() < end, "slots are held up: {}", churn.daemon.ok(&["ledger", "ls"])?);
        let who = churn.asked(PORTS)?;
        ensure!(!who.contains_key("b2"), "{who:?}, and b2 is drained");
        asked += PORTS;
    }
    ensure!(asked > 4 * PORTS, "slots were at rest after {asked} connections");
    Ok(())
}

/// A backend whose host is gone says nothing any more: whoever gets its flows' next packets answers them by a RST, so that clients connect anew instead of
/// waiting in vain.
fn resets_the_dead(group: &str, way: Way, v6: bool) -> Result<()> {
    let churn = Churn::of(group, &Setting { v6, ..Setting::plain(way, IDLE) })?;
    let held = churn.hold(HELD, PAUSE)?;
    churn.stage.backends["b2"].unplug()?;
    let of_dead = || held.so_far().into_iter().filter(|r| r.owner == "b2").collect::<Vec<_>>();
    ensure!(!of_dead().is_empty(), "no flow is with b2: {:?}", held.so_far());
    churn.daemon.until("all clients of b2 are told", || Ok(of_dead().iter().all(|r| r.broken.is_some())))?;
    for report in held.finish() {
        let told = report.broken.as_deref().is_some_and(|why| why.contains("Connection reset"));
        ensure!(told == (report.owner == "b2"), "{report:?}");
    }
    Ok(())
}

#[test]
fn a_dead_backends_flows_are_reset_in_dsr() -> Result<()> {
    resets_the_dead("mesh-reset-dsr", Way::Dsr, false)
}

#[test]
fn a_dead_backends_flows_are_reset_in_dsr_by_ipv6() -> Result<()> {
    resets_the_dead("mesh-reset-ds6", Way::Dsr, true)
}

#[test]
fn a_dead_backends_flows_are_reset_in_a_tunnel() -> Result<()> {
    resets_the_dead("mesh-reset-tun", Way::Tunnel, false)
}

#[test]
fn a_dead_backends_flows_are_reset_in_a_tunnel_by_ipv6() -> Result<()> {
    resets_the_dead("mesh-reset-tu6", Way::Tunnel, true)
}

#[test]
fn a_dead_backends_flows_are_reset_in_dnat() -> Result<()> {
    resets_the_dead("mesh-reset-dn4", Way::Dnat, false)
}

#[test]
fn a_dead_backends_flows_are_reset_in_dnat_by_ipv6() -> Result<()> {
    resets_the_dead("mesh-reset-dn6", Way::Dnat, true)
}

/// Ways to fill the table, one upon the other while slots are still on their way.
fn switches(group: &str, way: Way) -> Result<()> {
    let churn = Churn::new(group, way, IDLE)?;
    let held = churn.hold(HELD, PAUSE)?;
    let text = std::fs::read_to_string(churn.daemon.config_path())?;
    let services = text.split_once("ledger:").map(|(_, rest)| format!("interfaces: [{{name: eth0, hook: xdp}}]\nledger:{rest}"));
    let services = services.context("the configuration has no ledger")?;
    let mut moved = 0;
    for scheduler in ["maglev", "ring", "consistent-hash"] {
        churn.daemon.write_config(&services.replace("slots: 256,", &format!("slots: 256, scheduler: {scheduler},")))?;
        churn.daemon.ok(&["reload"])?;
        churn.daemon.until("slots are on their way", || Ok(churn.moving()? > 0))?;
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            churn.owners(10)?;
            moved = moved.max(churn.moving()?);
        }
    }
    ensure!(moved > 32, "of 256 slots only {moved} have moved");
    churn.rest()?;
    unbroken(&held.finish())?;
    ensure!(churn.owners(60)?.len() == 3, "new connections do not reach all there are");
    Ok(())
}

#[test]
fn schedulers_are_switched_in_dsr_and_nothing_breaks() -> Result<()> {
    switches("mesh-sched-dsr", Way::Dsr)
}

#[test]
fn schedulers_are_switched_in_a_tunnel_and_nothing_breaks() -> Result<()> {
    switches("mesh-sched-tun", Way::Tunnel)
}

#[test]
fn dsr_keeps_its_connections() -> Result<()> {
    survives("mesh-ledger-dsr", Way::Dsr)
}

#[test]
fn a_tunnel_keeps_its_connections() -> Result<()> {
    survives("mesh-ledger-tun", Way::Tunnel)
}
