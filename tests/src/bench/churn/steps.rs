//! What happens to the balancer, one thing after the other. A step does not wait until the slots that the one before it moves are at rest.

use std::{iter, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{
    Cell, Churn, Figure, Flood, Options,
    crowd::{Crowd, Tally},
};

/// Goes through all steps.
pub fn run(play: &mut Play<'_>) -> Result<()> {
    play.planned()?;
    play.failure()?;
    play.restarts()?;
    play.storm()?;
    play.flood()?;
    // Whoever is left is remembered, slots change their default, and nobody is to notice.
    play.step("hold", |play| {
        sleep(2 * play.options.idle);
        Ok(())
    })?;
    play.step("settle", |play| play.rest())
}

pub struct Play<'a> {
    // Clients end before the namespaces that they run in.
    crowd: Crowd,
    pub churn: Churn,
    cell: Cell,
    pub options: Options,
    show: &'a dyn Fn(Figure),
    entries: u64,
    moving: u64,
}

impl<'a> Play<'a> {
    pub fn new(churn: Churn, cell: Cell, options: &Options, show: &'a dyn Fn(Figure)) -> Result<Self> {
        let crowd = Crowd::new(&churn, options)?;
        Ok(Self { churn, crowd, cell, options: *options, show, entries: 0, moving: 0 })
    }

    fn planned(&mut self) -> Result<()> {
        self.step("drain", |play| {
            play.order(&["drain", "web", "b2"])?;
            play.until_reach("b2", false)
        })?;
        self.step("add", |play| {
            let address = play.churn.address("b4")?;
            play.order(&["add", "web", &address, "--name", "b4"])?;
            play.until_reach("b4", true)
        })?;
        for (step, backend, weight) in
            [("weight 1", "b1", "4"), ("weight 2", "b3", "2"), ("weight 3", "b1", "1"), ("weight 4", "b4", "3"), ("weight 5", "b4", "1")]
        {
            self.step(step, |play| play.order(&["weight", "web", backend, weight]))?;
        }
        Ok(())
    }

    fn failure(&mut self) -> Result<()> {
        self.fail("failure")?;
        self.come_back("return")
    }

    fn fail(&mut self, step: &'static str) -> Result<()> {
        self.step(step, |play| {
            play.crowd.bury("b3");
            play.churn.kill("b3")?;
            // Until then some are refused.
            play.churn.daemon.until("b3 is not sent anything", || Ok(play.churn.owners(40).is_ok_and(|names| !names.contains("b3"))))?;
            play.crowd.mourned();
            play.opened()
        })
    }

    fn come_back(&mut self, step: &'static str) -> Result<()> {
        self.step(step, |play| {
            play.churn.revive("b3")?;
            play.crowd.revived();
            play.until_reach("b3", true)
        })
    }

    /// Changes upon changes under so many short connections that each change comes between packets of some of them.
    fn storm(&mut self) -> Result<()> {
        self.crowd.rush(&self.churn)?;
        self.step("storm", |play| {
            for (backend, weight) in
                [("b1", "3"), ("b4", "0"), ("b3", "1"), ("b1", "1"), ("b2", "4"), ("b4", "2"), ("b3", "2"), ("b2", "1")]
            {
                play.churn.order(&["weight", "web", backend, weight])?;
                play.look()?;
                sleep(Duration::from_millis(800));
            }
            Ok(())
        })?;
        self.fail("storm failure")?;
        self.come_back("storm return")?;
        self.crowd.calm();
        Ok(())
    }

    /// Each in the middle of a change.
    fn restarts(&mut self) -> Result<()> {
        self.step("restart", |play| {
            play.order(&["undrain", "web", "b2"])?;
            play.churn.restart(Signal::SIGTERM)?;
            play.until_reach("b2", true)
        })?;
        self.step("kill -9", |play| {
            play.order(&["weight", "web", "b1", "0"])?;
            play.churn.restart(Signal::SIGKILL)?;
            play.until_reach("b1", false)
        })?;
        self.step("upgrade", |play| {
            let before = play.churn.program()?;
            play.order(&["weight", "web", "b1", "1"])?;
            play.opened()?;
            play.churn.restart(Signal::SIGTERM)?;
            ensure!(play.churn.program()? != before, "the program behind the link is the same as before");
            play.until_reach("b1", true)
        })
    }

    /// While the flood lasts new flows may stay with who is drained, for there is no room to remember them; none of them may break.
    fn flood(&mut self) -> Result<()> {
        self.step("flood", |play| {
            let flood = Flood::start(&play.churn.stage.client.ns, play.churn.vip, play.options.flood)?;
            sleep(Duration::from_millis(500));
            play.order(&["drain", "web", "b4"])?;
            play.opened()?;
            sleep(Duration::from_secs(5));
            play.opened()?;
            ensure!(flood.finish()? > 1000, "there was no flood");
            play.until_reach("b4", false)
        })
    }

    /// A flow that is not with its slot's target keeps it from rest; when the last of them has gone, nothing stays behind.
    pub fn rest(&mut self) -> Result<()> {
        self.look()?;
        self.crowd.leave();
        self.churn.rest()
    }

    pub fn step(&mut self, step: &'static str, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.step_then(step, act, |_| Ok(None))
    }

    /// The same; when all are counted, `then` tells how many packets backends have passed on to each other.
    pub fn step_then(
        &mut self,
        step: &'static str,
        act: impl FnOnce(&mut Self) -> Result<()>,
        then: impl FnOnce(&Churn) -> Result<Option<u64>>,
    ) -> Result<()> {
        (self.entries, self.moving) = (0, 0);
        act(self)?;
        self.crowd.move_on(&self.churn)?;
        self.look()?;
        self.crowd.ask_all()?;
        self.look()?;
        let tallies: Vec<_> = self.churn.protocols().iter().map(|protocol| (*protocol, self.crowd.tally(*protocol))).collect();
        let caught = then(&self.churn)?;
        if tallies.iter().any(|(_, tally)| tally.broken > 0) {
            self.tell_events(&format!("connections broke in step {step}"));
        }
        for (protocol, Tally { connections, broken, killed, because }) in tallies {
            let Self { cell, entries, moving, .. } = *self;
            (self.show)(Figure { cell, protocol, step, connections, broken, killed, entries, moving, caught, because });
        }
        Ok(())
    }

    /// Whoever looks into what went wrong has to know what happened meanwhile.
    pub fn tell_events(&self, what: &str) {
        for daemon in iter::once(&self.churn.daemon).chain(&self.churn.other) {
            let events = daemon.ok(&["events"]).unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("{}: {what}; {} saw:\n{events}", self.cell, daemon.instance());
        }
    }

    /// `mesh backend ...` on all balancers, and connections that begin right after it.
    pub fn order(&mut self, words: &[&str]) -> Result<()> {
        self.churn.order(words)?;
        self.opened()
    }

    /// Waits until the change has come to new connections, and opens more of them.
    pub fn until_reach(&mut self, name: &str, reached: bool) -> Result<()> {
        self.look()?;
        self.churn.until_new_reach(name, reached)?;
        self.opened()
    }

    pub fn opened(&mut self) -> Result<()> {
        self.look()?;
        self.crowd.open(&self.churn, &self.options)
    }

    pub fn look(&mut self) -> Result<()> {
        let ledger = self.churn.ledger()?;
        self.entries = self.entries.max(ledger["entries"]["used"].as_u64().unwrap_or(0));
        self.moving = self.moving.max(ledger["moving"].as_u64().unwrap_or(0));
        Ok(())
    }
}
