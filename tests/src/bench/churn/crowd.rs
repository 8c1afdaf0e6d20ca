//! Clients of every patience: short connections all the time, long ones that are asked often, and some that are silent for nearly as long as they may be;
//! and flows of datagrams, or connections of QUIC, of the latter two kinds.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    Churn, Options,
    world::{PATIENCE, Protocol},
};
use crate::peer::{Answer, Held, HeldReport, Load, QuicHeld};

/// Silence of a connection that is asked often.
const BUSY: Duration = Duration::from_millis(200);
/// The same of QUIC, where both ends are in this process and much dearer than the kernel's.
const BUSY_QUIC: Duration = Duration::from_secs(1);

/// All connections of one world.
pub struct Crowd {
    generations: Vec<Generation>,
    /// Those that begin all the time; and, for a while, those of a rush.
    short: Vec<Load>,
    /// The backend that does not live, and since when nobody else is to be broken by its death.
    dead: Option<(&'static str, Option<Instant>)>,
}

/// What a step has done to them.
#[derive(Debug, Default)]
pub struct Tally {
    pub connections: u64,
    pub broken: u64,
    pub killed: u64,
    pub because: Vec<String>,
}

/// Connections that were opened at once.
enum Connections {
    Plain(Held),
    Quic(QuicHeld),
}

impl Connections {
    fn open(churn: &Churn, protocol: Protocol, count: usize, pause: Duration) -> Result<Self> {
        Ok(match protocol {
            Protocol::Tcp | Protocol::Udp => Self::Plain(churn.hold_by(protocol, count, pause)?),
            Protocol::Quic => Self::Quic(QuicHeld::open(&churn.stage.client.ns, churn.at(protocol), count, pause, PATIENCE)?),
        })
    }

    fn move_on(&self, churn: &Churn) -> Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Quic(held) => held.rebind(&churn.stage.client.ns, None),
        }
    }

    fn turns(&self) -> u64 {
        match self {
            Self::Plain(held) => held.turns(),
            Self::Quic(held) => held.turns(),
        }
    }

    fn so_far(&self) -> Vec<HeldReport> {
        match self {
            Self::Plain(held) => held.so_far(),
            Self::Quic(held) => held.so_far(),
        }
    }
}

struct Generation {
    protocol: Protocol,
    held: Connections,
    pause: Duration,
    opened: usize,
    /// Broken ones that have been counted.
    counted: Vec<bool>,
}

impl Crowd {
    pub fn new(churn: &Churn, options: &Options) -> Result<Self> {
        let short = Load::start(&churn.stage.client.ns, churn.vip, 2, Duration::from_millis(20), PATIENCE)?;
        let mut crowd = Self { generations: Vec::new(), short: vec![short], dead: None };
        crowd.open(churn, options)?;
        Ok(crowd)
    }

    /// Opens connections and flows of each patience, to be held until the end.
    pub fn open(&mut self, churn: &Churn, options: &Options) -> Result<()> {
        // What a busy machine may be late by is left of the silence that is promised.
        let silent = options.idle.mul_f64(0.8);
        for &protocol in churn.protocols() {
            let busy = if protocol == Protocol::Quic { BUSY_QUIC } else { BUSY };
            for pause in [busy, silent] {
                let held = Connections::open(churn, protocol, options.each, pause)?;
                self.generations.push(Generation { protocol, held, pause, opened: options.each, counted: vec![false; options.each] });
            }
        }
        Ok(())
    }

    /// Those of QUIC go on from other ports: only their ids say whose they are.
    pub fn move_on(&self, churn: &Churn) -> Result<()> {
        self.generations.iter().try_for_each(|generation| generation.held.move_on(churn))
    }

    /// Many more short connections, one right after the other, until [`Self::calm`].
    pub fn rush(&mut self, churn: &Churn) -> Result<()> {
        self.short.push(Load::start(&churn.stage.client.ns, churn.vip, 4, Duration::ZERO, PATIENCE)?);
        Ok(())
    }

    /// Ends them, once they have been counted.
    pub fn calm(&mut self) {
        self.short.truncate(1);
    }

    /// From now on this backend's connections may break.
    pub fn bury(&mut self, name: &'static str) {
        self.dead = Some((name, None));
    }

    /// Nothing new is sent to the dead one any more.
    pub fn mourned(&mut self) {
        if let Some((_, until)) = &mut self.dead {
            *until = Some(Instant::now());
        }
    }

    /// Waits until each has been asked, from now on.
    pub fn ask_all(&self) -> Result<()> {
        let before: Vec<u64> = self.generations.iter().map(|g| g.held.turns()).collect();
        let longest = self.generations.iter().map(|g| g.pause).max().unwrap_or_default();
        let end = Instant::now() + longest + 3 * PATIENCE;
        // The turn that is under way may have begun before.
        while self.generations.iter().zip(&before).any(|(g, before)| g.held.turns() < before + 2) {
            ensure!(Instant::now() < end, "connections were not asked in time");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What has happened since the last call to those of one protocol.
    pub fn tally(&mut self, protocol: Protocol) -> Tally {
        let mut tally = Tally::default();
        let dead = self.dead;
        for generation in self.generations.iter_mut().filter(|generation| generation.protocol == protocol) {
            generation.tally(dead.map(|(name, _)| name), &mut tally);
        }
        if protocol != Protocol::Tcp {
            return tally;
        }
        for answer in self.short.iter().flat_map(Load::drain) {
            tally.connections += 1;
            if let Err(error) = &answer.from {
                let fault = dead.is_some_and(|(_, until)| until.is_none_or(|until| answer.at <= until)) && answered(&answer);
                let since = dead.and_then(|(_, until)| until).map_or_else(String::new, |until| {
                    format!(", begun {:?} after the last to who is dead", answer.at.saturating_duration_since(until))
                });
                tally.add(fault, || format!("a short one after {:?}{since}: {error}", answer.took));
            }
        }
        tally
    }

    /// Has those that are held end, each after its pause.
    pub fn leave(&mut self) {
        self.generations.clear();
    }

    /// It answers again.
    pub fn revived(&mut self) {
        self.dead = None;
    }
}

impl Generation {
    fn tally(&mut self, dead: Option<&str>, tally: &mut Tally) {
        tally.connections += std::mem::take(&mut self.opened) as u64;
        for (report, counted) in self.held.so_far().iter().zip(&mut self.counted) {
            let Some(why) = report.broken.as_ref().filter(|_| !*counted) else { continue };
            *counted = true;
            let name = &report.owner;
            tally.add(dead == Some(name.as_str()), || {
                format!("one of {name}, silent for {:?} at a time, after {} answers: {why}", self.pause, report.requests)
            });
        }
        // Those that live count in the next step too.
        self.opened = self.counted.iter().filter(|broken| !**broken).count();
    }
}

impl Tally {
    fn add(&mut self, killed: bool, why: impl FnOnce() -> String) {
        if killed {
            self.killed += 1;
            return;
        }
        self.broken += 1;
        if self.because.len() < 5 {
            self.because.push(why());
        }
    }
}

/// A dead process is answered for by its kernel, at once; who waited in vain was not sent there.
fn answered(answer: &Answer) -> bool {
    answer.took < PATIENCE
}
