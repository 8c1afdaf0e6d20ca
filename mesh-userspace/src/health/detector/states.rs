use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Budget, Damping, budget::Share};

/// Together, at least two channels that say so much make it suspect; ...
const SUSPECT: f64 = 4.0;
/// ... alone, one that says so much. Two together so much make it down.
const CERTAIN: f64 = 9.0;
/// A channel below this says nothing.
const HEARD: f64 = 1.0;
/// Who came back has its reduced share so long.
const RECOVERY: Duration = Duration::from_secs(10);

/// What is done with a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Up,
    /// Suspected: new flows elsewhere, old ones stay.
    Soft,
    /// Nothing is sent to it.
    Down,
    /// Came back: a reduced share.
    Recovering,
}

/// What the application's check says, after rise or fall equal answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum App {
    /// There is none.
    #[default]
    Unchecked,
    Undecided,
    Risen,
    Fallen,
}

/// What is known of one backend at one moment, as phi.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Signals {
    /// A: the fleet-clock silence of its packets.
    pub passive: f64,
    /// B: unanswered probes.
    pub probes: f64,
    /// D: hard hints, 4 if there are any.
    pub hints: f64,
    /// C in a hurry: checks that were made at once because of a doubt and failed. Less than the word of `app`.
    pub trial: f64,
    /// C: it decides alone.
    pub app: App,
}

/// What may be done at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permit {
    /// We doubt ourselves: nothing changes.
    pub frozen: bool,
    /// The budget lets it be suspected.
    pub soft: bool,
    /// The budget lets it be down.
    pub down: bool,
}

impl Permit {
    /// For what rests on a fact, or takes nobody out.
    pub const FREE: Self = Self { frozen: false, soft: true, down: true };

    /// What the budget allows one more backend of `weight`.
    pub fn of(budget: &Budget, weight: u64) -> Self {
        Self { frozen: false, soft: budget.allows(Share::Soft, weight), down: budget.allows(Share::Hard, weight) }
    }
}

/// A change of phase and what it rests on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    pub from: Phase,
    pub to: Phase,
    pub signals: Signals,
}

/// The state of one backend.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Detector {
    phase: Phase,
    since: Option<Instant>,
    /// Since when there is no doubt.
    clean: Option<Instant>,
    damping: Damping,
}

impl Signals {
    /// All channels together.
    pub fn sum(&self) -> f64 {
        self.channels().iter().sum()
    }

    fn channels(&self) -> [f64; 4] {
        [self.passive, self.probes, self.hints, self.trial]
    }

    /// The channels by name, and their sum.
    pub fn named(&self) -> [(&'static str, f64); 5] {
        [("traffic", self.passive), ("pulses", self.probes), ("hints", self.hints), ("trials", self.trial), ("phi", self.sum())]
    }

    fn heard(&self) -> usize {
        self.channels().iter().filter(|phi| **phi >= HEARD).count()
    }

    /// Enough to spare it new flows.
    pub fn suspect(&self) -> bool {
        self.app == App::Fallen || self.channels().iter().any(|phi| *phi >= CERTAIN) || self.heard() >= 2 && self.sum() >= SUSPECT
    }

    /// Enough to give it up.
    pub fn dead(&self) -> bool {
        self.app == App::Fallen || self.heard() >= 2 && self.sum() >= CERTAIN
    }

    /// Nothing speaks against it.
    fn clean(&self) -> bool {
        self.heard() == 0 && self.app != App::Fallen
    }

    fn alive(&self) -> bool {
        self.clean() && self.app != App::Undecided
    }
}

impl Detector {
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How much it has flapped lately.
    pub fn penalty(&self, now: Instant) -> f64 {
        self.damping.penalty(now)
    }

    /// Takes in what is known at `now`; at most one step of the way, so ask again until there is no change.
    pub fn step(&mut self, now: Instant, signals: &Signals, permit: Permit) -> Option<Change> {
        // Doubt is remembered even while nothing may follow from it.
        self.clean = if signals.clean() { self.clean.or(Some(now)) } else { None };
        if permit.frozen {
            return None;
        }
        let to = self.next(now, signals, permit)?;
        let from = std::mem::replace(&mut self.phase, to);
        self.since = Some(now);
        match to {
            Phase::Soft => self.damping.suspected(now),
            Phase::Up => self.damping.cleared(now),
            Phase::Down | Phase::Recovering => {}
        }
        Some(Change { from, to, signals: *signals })
    }

    fn next(&self, now: Instant, signals: &Signals, permit: Permit) -> Option<Phase> {
        let for_ = |since: Option<Instant>| since.map_or(Duration::ZERO, |s| now.saturating_duration_since(s));
        let held = for_(self.clean) >= self.damping.hold(now);
        match self.phase {
            Phase::Up | Phase::Recovering if signals.suspect() && permit.soft => Some(Phase::Soft),
            Phase::Recovering if signals.clean() && for_(self.since) >= RECOVERY => Some(Phase::Up),
            Phase::Soft if signals.dead() && permit.down => Some(Phase::Down),
            Phase::Soft if signals.clean() && held => Some(Phase::Up),
            Phase::Down if signals.alive() && held => Some(Phase::Recovering),
            _ => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} -> {:?}: {}", self.from, self.to, self.signals)
    }
}

impl fmt::Display for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passive, probes, hints, trial, app } = self;
        let app = match app {
            App::Unchecked => "not checked",
            App::Undecided => "undecided",
            App::Risen => "passes",
            App::Fallen => "fails",
        };
        write!(f, "phi {:.1} = traffic {passive:.1} + pulses {probes:.1} + hints {hints:.1} + trials {trial:.1}, check {app}", self.sum())
    }
}
