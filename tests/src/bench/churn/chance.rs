//! What becomes of connections when a balancer loses its ledger in the middle of a change, and again and again: backends pass on what they do not know. One
//! change: of a third owner that a slot had before, its word does not tell.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_common::abi::{LedgerBucket, Table};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Churn, steps::Play};
use crate::{daemon::wait_for, mapped::pinned};

/// The ledger remembers nothing for so long.
const LOST: Duration = Duration::from_secs(5);

/// Room that is emptied fast enough.
pub const LIMIT: &str = "limits: {ledger: 8192}\n";

/// Goes through all steps.
pub fn run(play: &mut Play<'_>) -> Result<()> {
    play.step("ledger lost: drain", |play| {
        play.order(&["drain", "web", "b2"])?;
        play.until_reach("b2", false)?;
        lose(&play.churn)?;
        play.opened()
    })?;
    play.step_then(
        "ledger lost: hold",
        |play| lose(&play.churn),
        |churn| {
            let caught = told(churn)?;
            ensure!(caught > 0, "the ledger was lost, and nothing was passed on");
            Ok(Some(caught))
        },
    )
}

/// Ends the agents; how many packets they have passed on.
fn told(churn: &Churn) -> Result<u64> {
    let mut sum = 0;
    for (agent, path) in churn.agents() {
        kill(Pid::from_raw(agent.id().context("the agent runs")? as i32), Signal::SIGTERM)?;
        wait_for("the agent tells what it did", || Ok(fs::read_to_string(&path)?.contains("SYN-ACKs clamped")))?;
        let text = fs::read_to_string(&path)?;
        let number = text.split(" passed on").next().and_then(|text| text.split(' ').next_back()?.parse::<u64>().ok());
        sum += number.with_context(|| format!("the agent does not tell what it passed on: {text}"))?;
    }
    Ok(sum)
}

/// Empties the ledger again and again.
fn lose(churn: &Churn) -> Result<()> {
    let ledger = pinned(&churn.daemon.pins(), Table::Ledger)?;
    let end = Instant::now() + LOST;
    while Instant::now() < end {
        (0..ledger.len()).for_each(|index| ledger.set(index, &LedgerBucket::default()));
        // Others need the core.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
