//! Real connections through services that nobody translates, while their tables change: none breaks.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::bench::churn::{Churn, Way, unbroken};

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
    churn.daemon.until("every slot is at rest", || Ok(churn.moving()? == 0))?;
    ensure!(churn.owners(60)?.into_iter().eq(["b1", "b3", "b4"]), "new connections do not reach all there are");
    Ok(())
}

#[test]
fn dsr_keeps_its_connections() -> Result<()> {
    survives("mesh-ledger-dsr", Way::Dsr)
}

#[test]
fn a_tunnel_keeps_its_connections() -> Result<()> {
    survives("mesh-ledger-tun", Way::Tunnel)
}
