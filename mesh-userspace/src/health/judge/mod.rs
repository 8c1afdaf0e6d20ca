//! What is known of one target, by all channels, and what follows. Pure: takes `now`.

mod beat;
mod voice;
mod way;

use std::time::{Duration, Instant};

pub use beat::Beat;
use voice::Voice;
use way::Way;

use super::{
    Evidence, Health, Machine, Sample, Thresholds, Transition, Verdict, Votes,
    detector::{App, Budget, Detection, Detector, PROBE_CAP, Permit, Phase, PhiRules, Signals, Silence, Unanswered},
};

/// What a hard hint says.
const HINT: f64 = 4.0;
/// What one failed trial says, and the most that they say together.
const TRIAL: f64 = 3.0;
/// So many pulses have to be answered before their absence means something: where they never come through, that is no sign.
const ARMED: u32 = 3;
/// Refusals in a row that are a fact and no chance: nobody listens there.
const REFUSED: u32 = 2;
/// Unanswered pulses that are worth a trial.
const DOUBT: u32 = 2;
/// Silence of traffic that is worth a trial.
const QUIET: f64 = 3.0;
/// A hint from the network on the way holds so long.
const HOLD: Duration = Duration::from_millis(500);

/// One target.
#[derive(Clone, Debug)]
pub struct Judge {
    machine: Machine,
    detection: Detection,
    detector: Detector,
    pulses: Unanswered,
    answered: u32,
    refused: u32,
    silence: Silence,
    voice: Voice,
    trials: u32,
    /// The last check was refused.
    check_refused: bool,
    unreachable: Option<Instant>,
    neighbour_failed: bool,
    flows_fail: bool,
    /// Nobody answers us.
    blind: bool,
    way: Way,
    /// Since when pulses are lost.
    silent_since: Option<Instant>,
    /// The target's last failure was an answer of its own, and no silence.
    spoke: bool,
    /// What other nodes say, where there are any and this one is against it.
    votes: Option<Votes>,
    last: Sample,
    since: Instant,
    health: Health,
}

impl Judge {
    /// A target with the `health` that was last known of it.
    pub fn new(thresholds: Thresholds, detection: Detection, health: Health, now: Instant) -> Self {
        let known = if health == Health::Soft { Health::Up } else { health };
        let mut judge = Self {
            machine: Machine::new(thresholds, known, now),
            detection,
            detector: Detector::default(),
            pulses: Unanswered::default(),
            answered: 0,
            refused: 0,
            silence: Silence::default(),
            voice: Voice::default(),
            trials: 0,
            check_refused: false,
            unreachable: None,
            neighbour_failed: false,
            flows_fail: false,
            blind: false,
            way: Way::default(),
            silent_since: None,
            spoke: false,
            votes: None,
            last: Sample::Excused { error: "not checked since the start".to_owned() },
            since: now,
            health: known,
        };
        if known == Health::Down {
            // Two steps from up to down.
            while judge.detector.step(now, &judge.signals(now), Permit::FREE).is_some() {}
        }
        judge
    }

    /// Judges anew by other rules. The health stays, the evidence starts over.
    pub fn retune(&mut self, thresholds: Thresholds, detection: Detection) {
        self.machine.retune(thresholds);
        if detection.phi().and_then(|p| p.pulse) != self.pulse() {
            (self.pulses, self.answered, self.refused) = (Unanswered::default(), 0, 0);
        }
        self.trials = 0;
        self.detection = detection;
    }

    /// A check ended. `refused`: by the target itself, which said that nobody listens.
    pub fn checked(&mut self, now: Instant, sample: Sample, refused: bool) {
        self.machine.step(now, &sample);
        match sample {
            Sample::Passed { .. } => {
                (self.trials, self.check_refused, self.spoke, self.way) = (0, false, false, Way::default());
                self.silence.forgive();
            }
            Sample::Failed { .. } => self.check_refused = refused,
            Sample::Excused { .. } => {}
        }
        self.last = sample;
    }

    /// A check ended that was made because of a doubt, maybe with less time than usual: if it failed, it is evidence, but no word of the check.
    pub fn tried(&mut self, now: Instant, sample: Sample, refused: bool) {
        match sample {
            Sample::Passed { .. } => self.checked(now, sample, false),
            Sample::Failed { .. } if refused || self.pulses.in_row() >= DOUBT => {
                self.trials = self.trials.saturating_add(1);
                self.last = sample;
            }
            // Its kernel answers: it may be slow, and for that it has the time that its check gives it.
            Sample::Failed { .. } | Sample::Excused { .. } => {}
        }
    }

    /// A pulse ended.
    pub fn pulsed(&mut self, now: Instant, beat: Beat) {
        match beat {
            Beat::Answered => {
                self.pulses.answered();
                self.answered = self.answered.saturating_add(1);
                (self.refused, self.unreachable) = (0, None);
                (self.way, self.silent_since) = (Way::default(), None);
            }
            Beat::Lost => {
                self.pulses.unanswered();
                self.refused = 0;
                self.silent_since.get_or_insert(now);
            }
            Beat::Refused => {
                self.pulses.unanswered();
                self.refused = self.refused.saturating_add(1);
            }
            Beat::Unreachable => {
                self.pulses.unanswered();
                self.unreachable = Some(now);
                self.silent_since.get_or_insert(now);
            }
            // A way that never was is no way that is gone.
            Beat::Unsent if self.armed() => self.way_was_gone(now),
            Beat::Unsent => {}
        }
    }

    /// We had no way to the target until now: that it was silent so far means nothing.
    pub fn way_was_gone(&mut self, now: Instant) {
        self.pulses.forgive();
        self.silence.forgive();
        (self.trials, self.unreachable, self.neighbour_failed, self.silent_since) = (0, None, false, None);
        self.way.was_gone(now);
    }

    /// Whether its silence may still be ours: our way to it was just gone.
    pub fn unsure(&self, now: Instant) -> bool {
        self.way.is_unsure(now)
    }

    /// Since when it has answered no pulse.
    pub fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// A moment of the service's traffic; see [`Silence::moment`].
    pub fn traffic(&mut self, own: u64, all: u64, sent: u64) {
        // Who is spared new flows is quiet because of that.
        self.silence.moment(own, all, if self.detector.phase() == Phase::Soft { 0 } else { sent });
    }

    /// So many packets of its flows have come by since the last time.
    pub fn replied(&mut self, now: Instant, packets: u64) {
        self.voice.read(now, packets);
    }

    /// Its pulses are not answered, but its flows are: it may be too busy for new ones, or our questions are lost, but it is not dead. Also while nobody knows yet.
    fn may_be_heard(&self, now: Instant) -> bool {
        !self.is_fact() && self.silent_since.is_some_and(|then| self.voice.may_be_heard_since(then, now))
    }

    /// Whether the neighbour that leads there does not answer any more.
    pub fn neighbour(&mut self, failed: bool) {
        self.neighbour_failed = failed;
    }

    /// Whether its flows fail more than the others': handshakes that don't end well, RSTs.
    pub fn flows_fail(&mut self, fail: bool) {
        self.flows_fail = fail;
    }

    /// Whether nobody answers us: then nothing follows from anything.
    pub fn blind(&mut self, blind: bool) {
        self.blind = blind;
    }

    /// Whether what was wrong with the last check was said by the target itself.
    pub fn spoke(&mut self, spoke: bool) {
        self.spoke = spoke;
    }

    /// What was wrong with the last check was said by the target itself.
    pub fn has_spoken(&self) -> bool {
        self.spoke
    }

    /// What all nodes say together; `None` = there are no others, or this one is not against it.
    pub fn vote(&mut self, votes: Option<Votes>) {
        self.votes = votes;
    }

    /// What this node thinks by its own evidence, whatever may follow from it; `None` = it can't say.
    pub fn verdict(&self, now: Instant) -> Option<Verdict> {
        let signals = self.signals(now);
        match (self.machine.health(), self.phi()) {
            (Health::Unknown, _) => None,
            (Health::Down, _) => Some(Verdict::Down),
            (_, Some(_)) if self.detector.phase() == Phase::Down || signals.dead() && !self.may_be_heard(now) => Some(Verdict::Down),
            (_, Some(_)) if signals.suspect() => Some(Verdict::Soft),
            _ => Some(Verdict::Up),
        }
    }

    /// Silence alone takes nobody out while too few nodes hear it.
    fn is_outvoted(&self) -> bool {
        let certain = self.spoke || self.check_refused || self.armed() && self.refused >= REFUSED;
        !certain && self.votes.is_some_and(|votes| !votes.agree())
    }

    /// Whether what follows depends on the budget.
    pub fn is_doubtful(&self, now: Instant) -> bool {
        self.phi().is_some() && !self.is_fact() && self.signals(now).suspect()
    }

    /// Judges. `weight` is the target's own; the budget counts only where [`Judge::is_doubtful`].
    pub fn review(&mut self, now: Instant, frozen: bool, weight: u64, budget: &Budget) -> Option<Transition> {
        let asked = self.machine.clone();
        if self.detection.phi().is_some() && self.machine.health() != Health::Unknown {
            self.step(now, frozen, weight, budget);
        }
        let to = self.judged();
        if to == self.health {
            return None;
        }
        let from = std::mem::replace(&mut self.health, to);
        self.since = now;
        // What its check has to do from now on is no evidence: that it passed, maybe, is.
        let next = std::mem::replace(&mut self.machine, asked);
        let evidence = self.evidence(now);
        self.machine = next;
        Some(Transition { from, to, evidence })
    }

    fn step(&mut self, now: Instant, frozen: bool, weight: u64, budget: &Budget) {
        let mut budget = *budget;
        loop {
            let signals = self.signals(now);
            let permit = if self.is_fact() || !signals.suspect() { Permit::FREE } else { Permit::of(&budget, weight) };
            let permit = Permit { down: permit.down && !self.is_outvoted() && !self.may_be_heard(now), ..permit };
            let frozen = self.blind || (frozen || self.unsure(now)) && !self.is_fact();
            let Some(change) = self.detector.step(now, &signals, Permit { frozen, ..permit }) else { return };
            match change.to {
                // From now on it has to rise again, however good its last check was.
                Phase::Down => self.machine.fell(now),
                Phase::Recovering => self.silence = Silence::default(),
                // Its next step, at once or not, is that of one among those that are out.
                Phase::Soft => (budget.soft, budget.ejected) = (budget.soft + weight, budget.ejected + 1),
                Phase::Up => {}
            }
        }
    }

    /// What each channel says.
    pub fn signals(&self, now: Instant) -> Signals {
        let Some(rules) = self.detection.phi() else { return Signals { app: self.app(), ..Signals::default() } };
        let armed = self.armed();
        let unreachable = self.unreachable.is_some_and(|at| now.saturating_duration_since(at) < HOLD);
        let hint = armed && self.refused > 0 || !armed && self.check_refused || unreachable || self.neighbour_failed || self.flows_fail;
        let probes = match () {
            () if !armed => 0.0,
            () if self.refused >= REFUSED => PROBE_CAP,
            () => self.pulses.phi(),
        };
        Signals {
            passive: if rules.passive { self.silence.phi() } else { 0.0 },
            probes,
            hints: if hint { HINT } else { 0.0 },
            trial: (TRIAL * f64::from(self.trials)).min(PROBE_CAP),
            app: self.app(),
        }
    }

    /// Worth a check at once: somebody doubts it, and it is not given up yet.
    pub fn wants_trial(&self, now: Instant) -> bool {
        let signals = self.signals(now);
        let doubted = signals.passive >= QUIET || signals.hints > 0.0 || self.silent();
        self.phi().is_some() && matches!(self.health, Health::Up | Health::Soft) && doubted
    }

    /// Its pulses are not answered: a trial need not wait for long.
    pub fn silent(&self) -> bool {
        self.armed() && self.pulses.in_row() >= DOUBT
    }

    /// Pulses without an answer in a row.
    pub fn unanswered(&self) -> u32 {
        self.pulses.in_row()
    }

    /// Pulses come through as a rule.
    pub fn armed(&self) -> bool {
        self.pulse().is_some() && self.answered >= ARMED
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// When the health last changed, or the target was first seen.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Equal checks in a row so far.
    pub fn consecutive(&self) -> u32 {
        self.machine.consecutive()
    }

    /// Where the course of suspicion stands; `None` where the check alone counts.
    pub fn phase(&self) -> Option<Phase> {
        self.phi().map(|_| self.detector.phase())
    }

    pub fn penalty(&self, now: Instant) -> f64 {
        self.detector.penalty(now)
    }

    /// What is known does not rest on anybody's silence: its check fails, or it refuses.
    pub fn is_fact(&self) -> bool {
        self.machine.health() == Health::Down || self.armed() && self.refused >= REFUSED
    }

    fn judged(&self) -> Health {
        match (self.machine.health(), self.phi()) {
            (Health::Down, None) if self.health == Health::Up && self.is_outvoted() => Health::Up,
            (Health::Unknown, _) | (_, None) => self.machine.health(),
            (_, Some(_)) => match self.detector.phase() {
                Phase::Up | Phase::Recovering => Health::Up,
                Phase::Soft => Health::Soft,
                Phase::Down => Health::Down,
            },
        }
    }

    fn app(&self) -> App {
        match self.machine.health() {
            Health::Unknown => App::Undecided,
            Health::Up | Health::Soft => App::Risen,
            Health::Down => App::Fallen,
        }
    }

    fn evidence(&self, now: Instant) -> Evidence {
        let (rtt, error) = match &self.last {
            Sample::Passed { rtt } => (Some(*rtt), None),
            Sample::Failed { error } | Sample::Excused { error } => (None, Some(error.clone())),
        };
        let signals = self.phi().map(|_| self.signals(now));
        Evidence { consecutive: self.machine.consecutive(), passed: self.machine.passed(), rtt, error, signals, votes: self.votes }
    }

    fn phi(&self) -> Option<&PhiRules> {
        self.detection.phi()
    }

    fn pulse(&self) -> Option<super::detector::Pulse> {
        self.phi().and_then(|rules| rules.pulse)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
