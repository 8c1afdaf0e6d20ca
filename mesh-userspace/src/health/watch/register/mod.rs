//! All targets by their names, and what is known of each.

mod trials;
mod votes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    TargetId, Traffic, Waited,
    target::{Target, Trial},
    vantage::Vantage,
};
use crate::{
    health::{
        Check, Health, HealthEvent, Reported, Sample, TargetKey, Verdict,
        ballot::Ballot,
        breaker::{Course, excess},
        detector::{Budget, Guard, Pulse},
        judge::Beat,
    },
    model::ServiceName,
};

/// All targets, and what is to be done about them.
#[derive(Debug, Default)]
pub struct Register {
    pub(super) targets: BTreeMap<TargetKey, Target>,
    pub(super) by_id: HashMap<TargetId, TargetKey>,
    next_id: TargetId,
    seeds: BTreeMap<TargetKey, Health>,
    arrivals: Vec<TargetId>,
    /// Targets with an event that was not delivered yet, oldest first. A later event of the same target takes the earlier one's place.
    news: VecDeque<TargetId>,
    /// Targets that are worth a check at once, and the last one that got it.
    doubted: BTreeSet<TargetId>,
    tried: TargetId,
    guard: Guard,
    vantage: Vantage,
    ballot: Ballot,
    /// What this node thinks of a target has changed.
    pub(super) word_changed: Arc<Notify>,
    pub closed: bool,
}

impl Register {
    pub fn set_targets(&mut self, wanted: BTreeMap<TargetKey, Check>, now: Instant) {
        let (by_id, doubted) = (&mut self.by_id, &mut self.doubted);
        self.targets.retain(|key, t| {
            let stays = wanted.contains_key(key);
            if !stays {
                by_id.remove(&t.id);
                doubted.remove(&t.id);
            }
            stays
        });
        for (key, check) in wanted {
            match self.targets.get_mut(&key).filter(|t| t.check.is_like(&check)) {
                Some(known) if known.check.weight == check.weight => {}
                Some(known) => known.check = Arc::new(check),
                None => self.place(key, Arc::new(check), now),
            }
        }
    }

    /// A target that is new, or has a new check.
    fn place(&mut self, key: TargetKey, check: Arc<Check>, now: Instant) {
        let id = self.next_id;
        self.next_id += 1;
        let seeds = &mut self.seeds;
        let target = self.targets.entry(key.clone()).or_insert_with(|| {
            let health = seeds.remove(&key).unwrap_or_default();
            Target::new(id, Arc::clone(&check), health, now)
        });
        if target.id != id {
            self.by_id.remove(&target.id);
            self.doubted.remove(&target.id);
            target.judge.retune(check.thresholds(), check.detection);
            target.trial = Trial::From(now);
            target.id = id;
            target.check = check;
        }
        if target.unsent.is_some() {
            self.news.push_back(id);
        }
        self.by_id.insert(id, key);
        self.arrivals.push(id);
    }

    pub fn seed(&mut self, known: BTreeMap<TargetKey, Health>, now: Instant) {
        self.seeds = known;
        for (key, target) in self.targets.iter_mut().filter(|(_, t)| !t.was_checked()) {
            if let Some(health) = self.seeds.remove(key) {
                *target = Target::new(target.id, Arc::clone(&target.check), health, now);
            }
        }
    }

    /// Targets that have not been scheduled yet.
    pub fn take_arrivals(&mut self) -> Vec<TargetId> {
        std::mem::take(&mut self.arrivals)
    }

    /// The check to run, if the target is still wanted.
    pub fn check(&self, id: TargetId) -> Option<Arc<Check>> {
        self.target(id).map(|t| Arc::clone(&t.check))
    }

    /// Checks of the target that were excused right before: those made in doubt, or the others.
    pub fn excused_in_row(&self, id: TargetId, in_doubt: bool) -> u32 {
        self.target(id).map_or(0, |t| if in_doubt { t.trials_excused } else { t.excused_in_row })
    }

    /// Whether its pulses are not answered.
    pub fn is_silent(&self, id: TargetId) -> bool {
        self.target(id).is_some_and(|t| t.judge.silent())
    }

    fn target(&self, id: TargetId) -> Option<&Target> {
        self.targets.get(self.by_id.get(&id)?)
    }

    /// Shortest timeout of all targets.
    pub fn shortest_timeout(&self) -> Option<Duration> {
        self.targets.values().map(|t| t.check.timeout).min()
    }

    /// The pulses of all targets that have one.
    pub fn pulses(&self) -> Vec<(TargetId, Pulse)> {
        let pulse = |t: &Target| Some((t.id, t.check.detection.phi()?.pulse?));
        self.targets.values().filter_map(pulse).collect()
    }

    /// Takes in what a check brought; false if nobody wants to know any more.
    pub fn record(&mut self, id: TargetId, sample: Sample, refused: bool, now: Instant) -> bool {
        let sample = self.seen(id, sample, refused, now);
        self.update(id, now, |t| t.checked(sample, refused, now))
    }

    /// A check has waited so long for its answer, or for nothing; the answer may report a load.
    pub fn waited(&mut self, id: TargetId, time: Duration, load: Option<Reported>) {
        if let Some(target) = self.by_id.get(&id).and_then(|key| self.targets.get_mut(key)) {
            target.waited = Waited { time: target.waited.time + time, checks: target.waited.checks + 1 };
            target.load = load.or_else(|| target.load.take());
        }
    }

    /// Takes in what a trial brought.
    pub fn tried(&mut self, id: TargetId, sample: Sample, refused: bool, now: Instant) {
        let sample = self.seen(id, sample, refused, now);
        self.update(id, now, |t| t.tried(sample, refused, now));
    }

    /// Takes in what became of a pulse; `rtt` of one that was answered.
    pub fn pulsed(&mut self, id: TargetId, beat: Beat, rtt: Option<Duration>, now: Instant) {
        match beat {
            Beat::Answered | Beat::Refused => self.heard(now),
            Beat::Lost | Beat::Unreachable => self.unheard(id, now),
            Beat::Unsent => {}
        }
        let mut silent = false;
        self.update(id, now, |t| {
            let before = t.judge.silent();
            t.judge.pulsed(now, beat);
            t.pulse_rtt = rtt.or(t.pulse_rtt);
            silent = t.judge.silent() && !before;
        });
        if silent && beat == Beat::Lost {
            let armed = self.targets.values().filter(|t| t.judge.armed()).count();
            self.guard.fell_silent(now, armed);
        }
    }

    /// A target said something, be it right or wrong.
    pub fn heard(&mut self, now: Instant) {
        if self.vantage.heard(now) {
            self.targets.values_mut().for_each(|t| t.judge.way_was_gone(now));
        }
    }

    /// Nobody answers any more.
    pub fn is_blind(&self, now: Instant) -> bool {
        self.vantage.blind(now)
    }

    fn unheard(&mut self, id: TargetId, now: Instant) {
        let trusted = self.targets.iter().filter(|(_, t)| t.is_trusted());
        self.vantage.unheard(now, id, self.targets.len(), trusted.map(|(key, t)| (t.id, key.backend.0.ip())));
    }

    /// A sample as it counts: while nobody answers, or our way to the target was just gone, the fault is ours.
    fn seen(&mut self, id: TargetId, sample: Sample, refused: bool, now: Instant) -> Sample {
        match sample {
            Sample::Passed { .. } => self.heard(now),
            Sample::Failed { .. } if refused => self.heard(now),
            Sample::Failed { .. } => self.unheard(id, now),
            Sample::Excused { .. } => {}
        }
        let unsure = !refused && self.target(id).is_some_and(|t| t.judge.unsure(now) && !t.judge.has_spoken());
        match sample {
            Sample::Failed { error } if self.vantage.blind(now) => {
                Sample::Excused { error: format!("{error}; no backend answers, so it may be this node's fault") }
            }
            Sample::Failed { error } if unsure => {
                Sample::Excused { error: format!("{error}; this node's own way there was just gone, so it may be this node's fault") }
            }
            other => other,
        }
    }

    /// What this node's own evidence says of a target; `None` also while it may be blind itself.
    fn verdict(&self, target: &Target, now: Instant) -> Option<Verdict> {
        let unsure = !target.judge.is_fact() && (target.judge.unsure(now) || self.deaf(target, now));
        target.judge.verdict(now).filter(|_| !unsure && !self.vantage.blind(now))
    }

    /// Nobody was heard since the target is silent: that may be our own deafness.
    fn deaf(&self, target: &Target, now: Instant) -> bool {
        let asked = || self.targets.values().filter(|t| t.is_trusted() && t.judge.armed()).map(|t| t.check.address.ip());
        target.judge.silent_since().is_some_and(|then| self.vantage.deaf(now, then, asked()))
    }

    /// Whether what was wrong with a check was said by the target itself. To be told before the check.
    pub fn spoke(&mut self, id: TargetId, spoke: bool) {
        if let Some(target) = self.by_id.get(&id).and_then(|key| self.targets.get_mut(key)) {
            target.judge.spoke(spoke);
        }
    }

    /// A timer of the pulses was `late`.
    pub fn woke(&mut self, now: Instant, late: Duration) {
        self.guard.woke(now, late);
    }

    pub fn traffic(&mut self, service: &ServiceName, rows: &[Traffic], now: Instant) {
        let key = |row: &Traffic| TargetKey { service: service.clone(), backend: row.backend };
        let count = |row| {
            let target = self.targets.get_mut(&key(row))?;
            target.meter.count(now, row.course);
            Some((target.id, target.count(row), target.meter.course(now)))
        };
        let counted: Vec<_> = rows.iter().filter_map(count).collect();
        let all: u64 = counted.iter().map(|(_, counts, _)| counts.signs).sum();
        let flows = counted.iter().fold(Course::default(), |sum, (.., course)| sum.and(course));
        for (id, counts, course) in counted {
            let failing = fails(&course, &flows.without(&course));
            self.update(id, now, |t| {
                t.judge.replied(now, counts.replies);
                t.judge.traffic(counts.signs, all, counts.sent);
                t.judge.flows_fail(failing);
            });
        }
    }

    pub fn failed_neighbours(&mut self, failed: &BTreeSet<IpAddr>, now: Instant) {
        let all: Vec<_> = self.by_id.iter().map(|(id, key)| (*id, failed.contains(&key.backend.0.ip()))).collect();
        for (id, failed) in all {
            self.update(id, now, |t| t.judge.neighbour(failed));
        }
    }

    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// The oldest event that was not delivered yet.
    pub fn take_news(&mut self) -> Option<HealthEvent> {
        while let Some(id) = self.news.pop_front() {
            let target = self.by_id.get(&id).and_then(|key| self.targets.get_mut(key));
            if let Some(event) = target.and_then(|t| t.unsent.take()) {
                return Some(event);
            }
        }
        None
    }

    /// Changes what is known of a target, and judges it anew; false if it is not wanted any more.
    fn update(&mut self, id: TargetId, now: Instant, change: impl FnOnce(&mut Target)) -> bool {
        let Some(key) = self.by_id.get(&id) else { return false };
        let Some(target) = self.targets.get_mut(key) else { return false };
        change(target);
        let Some(target) = self.targets.get(key) else { return false };
        let (verdict, blind) = (self.verdict(target, now), self.vantage.blind(now));
        let frozen = self.guard.frozen(now) || self.deaf(target, now);
        let budget = if target.judge.is_doubtful(now) { Some(self.budget(key)) } else { None };
        let Some(target) = self.targets.get_mut(key) else { return false };
        let weight = u64::from(target.check.weight);
        target.judge.blind(blind);
        if self.ballot.in_use() {
            if verdict == Some(Verdict::Down) {
                target.judge.vote(Some(self.ballot.poll(key, now)));
            } else {
                self.ballot.clear(key);
                target.judge.vote(None);
            }
            if std::mem::replace(&mut target.said, verdict) != verdict {
                self.word_changed.notify_one();
            }
        }
        if let Some(transition) = target.judge.review(now, frozen, weight, &budget.unwrap_or_default()) {
            let event = HealthEvent { key: key.clone(), health: transition.to, evidence: transition.evidence };
            if target.unsent.replace(event).is_none() {
                self.news.push_back(id);
            }
        }
        if target.trial != Trial::UnderWay && !target.check.kind.starts_processes() && target.judge.wants_trial(now) {
            self.doubted.insert(id);
        }
        true
    }

    /// What is taken out of the service that this target is of.
    fn budget(&self, key: &TargetKey) -> Budget {
        let limits = self.targets.get(key).and_then(|t| Some(t.check.detection.phi()?.limits)).unwrap_or_default();
        let mut budget = Budget { limits, ..Budget::default() };
        let first = TargetKey { service: key.service.clone(), backend: crate::model::BackendId(([0, 0, 0, 0], 0).into()) };
        for (_, target) in self.targets.range(first..).take_while(|(k, _)| k.service == key.service) {
            let weight = u64::from(target.check.weight);
            let taken = match target.judge.health() {
                // It never was in.
                Health::Unknown => continue,
                Health::Up => None,
                Health::Soft => Some(&mut budget.soft),
                Health::Down => Some(&mut budget.down),
            };
            budget.total += weight;
            if let Some(taken) = taken {
                *taken += weight;
                budget.ejected += 1;
            }
        }
        budget
    }
}

/// Flows of which half go wrong with it, and not with the others.
const HALF: f64 = 0.5;
/// So many have to be known: RSTs of all flows, handshakes of one in 16.
const RESETS: u64 = 20;
const DRAWN: u64 = 5;

/// Whether its flows fail, and not because of the clients: the others' would as well.
fn fails(own: &Course, others: &Course) -> bool {
    let resets = own.reset_share(RESETS).zip(others.reset_share(RESETS));
    let lost = own.lost_share(DRAWN).zip(others.lost_share(DRAWN));
    [resets, lost].into_iter().flatten().any(|(own, others)| excess(own, others) > HALF)
}
