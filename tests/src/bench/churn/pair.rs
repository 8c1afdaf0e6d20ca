//! What happens to two balancers between which a router chooses: one leaves and comes back with nothing, each amid a change.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{
    steps::Play,
    world::{BALANCERS, Churn},
};
use crate::daemon::LIMIT;

/// Within that time others hear of a flow: what changes its way sooner is promised nothing.
const TOLD: Duration = Duration::from_millis(500);

/// Goes through all steps.
pub fn run(play: &mut Play<'_>) -> Result<()> {
    play.step("two: drain", |play| {
        play.order(&["drain", "web", "b2"])?;
        reshuffle(&play.churn)?;
        play.until_reach("b2", false)
    })?;
    play.step("two: one leaves", |play| {
        let address = play.churn.address("b4")?;
        play.order(&["add", "web", &address, "--name", "b4"])?;
        sleep(TOLD);
        play.churn.route(&BALANCERS[..1])?;
        play.churn.other.as_mut().context("there is no second balancer")?.leave(Signal::SIGTERM)?;
        play.until_reach("b4", true)
    })?;
    play.step("two: one joins", |play| {
        play.churn.order_at(&play.churn.daemon, &["weight", "web", "b1", "0"])?;
        play.opened()?;
        let other = play.churn.other.as_mut().context("there is no second balancer")?;
        other.launch()?;
        other.wait_ready(LIMIT)?;
        sleep(TOLD);
        let other = play.churn.other.as_ref().context("there is no second balancer")?;
        play.churn.order_at(other, &["weight", "web", "b1", "0"])?;
        play.churn.route(&BALANCERS[1..])?;
        play.until_reach("b1", false)?;
        sleep(TOLD);
        reshuffle(&play.churn)
    })?;
    play.step("two: hold", |play| {
        sleep(2 * play.options.idle);
        reshuffle(&play.churn)
    })?;
    let flows = play.churn.daemon.json(&["status"])?["peers"]["nodes"][0]["flows"].clone();
    ensure!(flows["sent"].as_u64() > Some(0), "nothing was told: {flows}");
    play.step("two: settle", Play::rest)
}

/// All flows take the other balancer, and some of them the first one again.
fn reshuffle(churn: &Churn) -> Result<()> {
    let [first, second] = BALANCERS;
    for order in [&[second][..], &[second, first], &[first, second]] {
        sleep(TOLD);
        churn.route(order)?;
    }
    sleep(TOLD);
    Ok(())
}
