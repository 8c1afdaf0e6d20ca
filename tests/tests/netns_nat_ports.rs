//! Several ranges of source ports: translated connections come from ports of all of them and from no other, and live on when others are configured.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bench::churn::unbroken,
    daemon::{Daemon, LIMIT, Logged},
    peer::{self, Held},
    stage::Stage,
};
use nix::sys::signal::Signal;

type Ranges<'a> = &'a [RangeInclusive<u16>];

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const VIPS: [&str; 2] = ["10.77.0.100:80", "[fd77::100]:80"];
const PATIENCE: Duration = Duration::from_secs(20);
const THREE: Ranges<'_> = &[10_240..=10_999, 20_000..=20_499, 61_000..=62_999];

fn stage(group: &str) -> Result<Stage> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    Ok(stage)
}

/// Nobody but clients connects to the backends.
fn config(stage: &Stage, hook: &str, ranges: Ranges<'_>) -> Result<String> {
    let ports: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nnat: {{ports: [{}]}}\nservices:\n", ports.join(", "));
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let backends = BACKENDS.iter().map(|(name, _)| Ok(format!("\"{}\"", stage.address(name, v6)?))).collect::<Result<Vec<_>>>()?;
        text += &format!(
            "  - {{name: web{}, vip: \"{vip}\", mode: nat, announce: {{address: eth0}}, health: none, backends: [{}]}}\n",
            if v6 { 6 } else { 4 },
            backends.join(", ")
        );
    }
    Ok(text)
}

fn hold(stage: &Stage, vip: &str, count: usize) -> Result<Held> {
    Held::open(&stage.client.ns, vip.parse()?, count, Duration::from_millis(10), PATIENCE)
}

/// Source ports of all connections that the backends have, of this family.
fn ports(stage: &Stage, v6: bool) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for (name, _) in BACKENDS {
        ports.extend(stage.peers_of(name)?.iter().filter(|peer| peer.is_ipv6() == v6).map(SocketAddr::port));
    }
    Ok(ports)
}

/// Each port is of one of these ranges, and each range has some.
fn come_from(ports: &[u16], ranges: Ranges<'_>) -> Result<()> {
    let stray = ports.iter().find(|port| !ranges.iter().any(|range| range.contains(port)));
    ensure!(stray.is_none(), "{stray:?} is none of {ranges:?}");
    let unused = ranges.iter().find(|range| !ports.iter().any(|port| range.contains(port)));
    ensure!(unused.is_none(), "of {} connections none comes from {unused:?}", ports.len());
    Ok(())
}

/// A hundred connections go on, and large answers come whole.
fn are_used(group: &str, hook: &str) -> Result<()> {
    const COUNT: usize = 100;
    let stage = stage(group)?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, THREE)?)?;
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let held = hold(&stage, vip, COUNT)?;
        let ports = ports(&stage, v6)?;
        ensure!(ports.len() == COUNT, "{} connections at the backends", ports.len());
        come_from(&ports, THREE).context(vip).logged(&daemon)?;
        let body = stage.client.ns.enter(|| peer::get(vip.parse()?, "/bytes/500000", PATIENCE).map_err(anyhow::Error::from))??;
        ensure!(body.len() == 500_000, "{} bytes of 500,000", body.len());
        daemon.until("each connection was asked again", || Ok(held.turns() > 3))?;
        unbroken(&held.finish())?;
    }
    Ok(())
}

#[test]
fn all_ranges_are_used_by_xdp() -> Result<()> {
    are_used("mesh-nprx", "xdp")
}

#[test]
fn all_ranges_are_used_by_tc() -> Result<()> {
    are_used("mesh-nprt", "tc")
}

/// A restart with other ports: connections keep theirs, and new ones have the new ones.
#[test]
fn connections_outlive_a_change_of_ports() -> Result<()> {
    const BEFORE: Ranges<'_> = &[20_000..=20_999];
    const AFTER: Ranges<'_> = &[10_000..=10_499, 12_000..=12_499];
    let stage = stage("mesh-nprc")?;
    let mut daemon = Daemon::start(&stage.balancer.ns, &config(&stage, "xdp", BEFORE)?)?;
    let held = VIPS.iter().map(|vip| hold(&stage, vip, 30)).collect::<Result<Vec<_>>>()?;
    let before = [ports(&stage, false)?, ports(&stage, true)?];
    before.iter().try_for_each(|ports| come_from(ports, BEFORE))?;
    daemon.write_config(&config(&stage, "xdp", AFTER)?)?;
    daemon.stop(Signal::SIGTERM)?;
    daemon.launch()?;
    daemon.wait_ready(LIMIT)?;
    let more = VIPS.iter().map(|vip| hold(&stage, vip, 60)).collect::<Result<Vec<_>>>()?;
    for (old, v6) in before.iter().zip([false, true]) {
        let (kept, new): (Vec<u16>, Vec<u16>) = ports(&stage, v6)?.into_iter().partition(|port| old.contains(port));
        ensure!((kept.len(), new.len()) == (30, 60), "{} connections of before and {} new ones", kept.len(), new.len());
        come_from(&new, AFTER)?;
    }
    // So long that flows have been swept.
    let turns: Vec<u64> = held.iter().map(Held::turns).collect();
    daemon.until("each was asked often", || Ok(held.iter().zip(&turns).all(|(held, then)| held.turns() > then + 200)))?;
    for held in held.into_iter().chain(more) {
        unbroken(&held.finish()).logged(&daemon)?;
    }
    Ok(())
}
