//! The board that the driver writes and everyone else reads: which targets there are, and what is known of each.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{Check, Evidence, Health, Machine, Sample, TargetKey};

/// A target's health has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthEvent {
    pub key: TargetKey,
    pub health: Health,
    pub evidence: Evidence,
}

/// What is known of one target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetStatus {
    pub health: Health,
    /// When the health last changed, or the target was first set.
    pub since: Instant,
    /// When the last check ended.
    pub last_check: Option<Instant>,
    /// Round trip of the last check that passed.
    pub last_rtt: Option<Duration>,
    /// Error of the last check; `None` if it passed.
    pub last_error: Option<String>,
    /// Equal answers in a row.
    pub consecutive: u32,
    /// Checks that were finished, excused ones included; 0 = what is said is from before a restart.
    pub checks_done: u64,
    pub checks_failed: u64,
    /// Checks that did not count because the fault was ours.
    pub checks_excused: u64,
}

/// Says what to check and tells what is known. Clones share one monitor; it stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct MonitorHandle {
    lease: Arc<Lease>,
}

impl MonitorHandle {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self { lease: Arc::new(Lease(board)) }
    }

    /// Makes `wanted` the targets. Who is new is checked at once, who is not named is forgotten, who is unchanged goes on as it was.
    /// Where only the check changed, the health stays and the evidence starts over.
    pub fn set_targets(&self, wanted: BTreeMap<TargetKey, Check>) {
        self.lease.0.lock().set_targets(wanted, Instant::now());
        self.lease.0.changed.notify_one();
    }

    /// What was last known before a restart: holds for targets that are or will be set, until their own checks say otherwise.
    /// Replaces what an earlier call left unclaimed.
    pub fn seed(&self, known: BTreeMap<TargetKey, Health>) {
        self.lease.0.lock().seed(known, Instant::now());
    }

    /// Status of every target, as of now.
    pub fn snapshot(&self) -> BTreeMap<TargetKey, TargetStatus> {
        self.lease.0.lock().targets.iter().map(|(key, t)| (key.clone(), t.status())).collect()
    }

    /// Status of one target.
    pub fn status(&self, key: &TargetKey) -> Option<TargetStatus> {
        self.lease.0.lock().targets.get(key).map(Target::status)
    }

    /// Every target has been checked at least once.
    pub fn first_round_done(&self) -> bool {
        self.lease.0.lock().targets.values().all(|t| t.done > 0)
    }
}

#[derive(Debug)]
struct Lease(Arc<Board>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

/// Shared by driver and handles; each holds the lock for a moment only.
#[derive(Debug, Default)]
pub(super) struct Board {
    register: Mutex<Register>,
    /// Wakes the driver: there are arrivals, or it is over.
    pub changed: Notify,
}

impl Board {
    pub fn lock(&self) -> MutexGuard<'_, Register> {
        // A holder that panicked left whole targets behind: every change is of one target, and each field can stand alone.
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Scheduling name of a target with one certain check: a changed check has a new one, and what the old one brings is void.
pub(super) type TargetId = u64;

#[derive(Debug, Default)]
pub(super) struct Register {
    targets: BTreeMap<TargetKey, Target>,
    by_id: HashMap<TargetId, TargetKey>,
    next_id: TargetId,
    seeds: BTreeMap<TargetKey, Health>,
    arrivals: Vec<TargetId>,
    /// Targets with an event that was not delivered yet, oldest first. A later event of the same target takes the earlier one's place.
    news: VecDeque<TargetId>,
    pub closed: bool,
}

#[derive(Debug)]
struct Target {
    id: TargetId,
    check: Arc<Check>,
    machine: Machine,
    last_check: Option<Instant>,
    last_rtt: Option<Duration>,
    last_error: Option<String>,
    done: u64,
    failed: u64,
    excused: u64,
    excused_in_row: u32,
    unsent: Option<HealthEvent>,
}

impl Register {
    fn set_targets(&mut self, wanted: BTreeMap<TargetKey, Check>, now: Instant) {
        let by_id = &mut self.by_id;
        self.targets.retain(|key, t| {
            let stays = wanted.contains_key(key);
            if !stays {
                by_id.remove(&t.id);
            }
            stays
        });
        for (key, check) in wanted {
            if self.targets.get(&key).is_none_or(|t| *t.check != check) {
                self.place(key, Arc::new(check), now);
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
            target.machine.retune(check.thresholds());
            target.id = id;
            target.check = check;
        }
        if target.unsent.is_some() {
            self.news.push_back(id);
        }
        self.by_id.insert(id, key);
        self.arrivals.push(id);
    }

    fn seed(&mut self, known: BTreeMap<TargetKey, Health>, now: Instant) {
        self.seeds = known;
        for (key, target) in self.targets.iter_mut().filter(|(_, t)| t.done == 0) {
            if let Some(health) = self.seeds.remove(key) {
                target.machine = Machine::new(target.check.thresholds(), health, now);
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

    /// Checks of the target that were excused right before.
    pub fn excused_in_row(&self, id: TargetId) -> u32 {
        self.target(id).map_or(0, |t| t.excused_in_row)
    }

    fn target(&self, id: TargetId) -> Option<&Target> {
        self.targets.get(self.by_id.get(&id)?)
    }

    /// Shortest timeout of all targets.
    pub fn shortest_timeout(&self) -> Option<Duration> {
        self.targets.values().map(|t| t.check.timeout).min()
    }

    /// Takes in what a check brought; false if nobody wants to know any more.
    pub fn record(&mut self, id: TargetId, sample: Sample, now: Instant) -> bool {
        let Some((key, target)) = self.by_id.get(&id).and_then(|key| Some((key, self.targets.get_mut(key)?))) else {
            return false;
        };
        if let Some(transition) = target.record(sample, now) {
            let event = HealthEvent { key: key.clone(), health: transition.to, evidence: transition.evidence };
            if target.unsent.replace(event).is_none() {
                self.news.push_back(id);
            }
        }
        true
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
}

impl Target {
    fn new(id: TargetId, check: Arc<Check>, health: Health, now: Instant) -> Self {
        let machine = Machine::new(check.thresholds(), health, now);
        let (last_check, last_rtt, last_error, unsent) = (None, None, None, None);
        Self { id, check, machine, last_check, last_rtt, last_error, done: 0, failed: 0, excused: 0, excused_in_row: 0, unsent }
    }

    fn record(&mut self, sample: Sample, now: Instant) -> Option<super::Transition> {
        let transition = self.machine.step(now, &sample);
        self.done += 1;
        self.last_check = Some(now);
        self.excused_in_row = if matches!(sample, Sample::Excused { .. }) { self.excused_in_row + 1 } else { 0 };
        match sample {
            Sample::Passed { rtt } => (self.last_rtt, self.last_error) = (Some(rtt), None),
            Sample::Failed { error } => (self.failed, self.last_error) = (self.failed + 1, Some(error)),
            Sample::Excused { error } => (self.excused, self.last_error) = (self.excused + 1, Some(error)),
        }
        transition
    }

    fn status(&self) -> TargetStatus {
        TargetStatus {
            health: self.machine.health(),
            since: self.machine.since(),
            last_check: self.last_check,
            last_rtt: self.last_rtt,
            last_error: self.last_error.clone(),
            consecutive: self.machine.consecutive(),
            checks_done: self.done,
            checks_failed: self.failed,
            checks_excused: self.excused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{health::CheckKind, model::BackendId};

    fn key(port: u16) -> TargetKey {
        TargetKey { service: "web".parse().unwrap(), backend: BackendId(([127, 0, 0, 1], port).into()) }
    }

    fn check(port: u16) -> Check {
        Check { rise: 1, fall: 1, ..Check::new(CheckKind::Tcp, ([127, 0, 0, 1], port).into()) }
    }

    fn wanted(ports: &[u16]) -> BTreeMap<TargetKey, Check> {
        ports.iter().map(|&p| (key(p), check(p))).collect()
    }

    fn passed() -> Sample {
        Sample::Passed { rtt: Duration::from_millis(1) }
    }

    fn failed() -> Sample {
        Sample::Failed { error: "refused".into() }
    }

    #[test]
    fn unchanged_targets_go_on_and_changed_ones_keep_their_health() {
        let (mut r, now) = (Register::default(), Instant::now());
        r.set_targets(wanted(&[1, 2]), now);
        let first = r.take_arrivals();
        assert_eq!(first.len(), 2);
        assert!(r.record(first[0], passed(), now) && r.record(first[1], passed(), now));

        let mut next = wanted(&[1, 2, 3]);
        next.get_mut(&key(2)).unwrap().fall = 5;
        r.set_targets(next, now);
        let second = r.take_arrivals();
        assert_eq!(second.len(), 2, "one changed, one new");
        assert!(r.record(first[0], failed(), now), "an unchanged target is still known by its id");
        assert!(!r.record(first[1], failed(), now), "the old check of a changed target is void");
        assert_eq!(r.targets[&key(2)].status().health, Health::Up);
        assert_eq!(r.targets[&key(3)].status().health, Health::Unknown);

        r.set_targets(wanted(&[3]), now);
        assert!(r.targets.len() == 1 && r.by_id.len() == 1);
        assert!(!r.record(first[0], passed(), now), "a target that went is forgotten");
    }

    #[test]
    fn news_are_the_latest_of_each_target_in_order() {
        let (mut r, now) = (Register::default(), Instant::now());
        r.set_targets(wanted(&[1, 2, 3]), now);
        let ids = r.take_arrivals();
        for (i, sample) in [(1, passed()), (0, passed()), (2, passed()), (1, failed())] {
            r.record(ids[i], sample, now);
        }
        r.set_targets(wanted(&[1, 2]), now);
        let news: Vec<_> = std::iter::from_fn(|| r.take_news()).map(|e| (e.key, e.health)).collect();
        assert_eq!(news, [(key(2), Health::Down), (key(1), Health::Up)]);
        assert!(!r.has_news());
    }

    #[test]
    fn a_changed_check_does_not_lose_what_was_not_delivered() {
        let (mut r, now) = (Register::default(), Instant::now());
        r.set_targets(wanted(&[1]), now);
        let ids = r.take_arrivals();
        r.record(ids[0], passed(), now);
        let mut next = wanted(&[1]);
        next.get_mut(&key(1)).unwrap().fall = 5;
        r.set_targets(next, now);
        assert_eq!(r.take_news().map(|e| e.health), Some(Health::Up));
        assert_eq!(r.take_news(), None);
    }

    #[test]
    fn seeds_hold_until_the_first_checks() {
        let (mut r, now) = (Register::default(), Instant::now());
        r.set_targets(wanted(&[1, 2]), now);
        let ids = r.take_arrivals();
        r.record(ids[1], failed(), now);
        r.seed([1, 2, 3].map(|p| (key(p), Health::Up)).into(), now);
        r.set_targets(wanted(&[1, 2, 3, 4]), now);
        let health = |p| r.targets[&key(p)].status().health;
        assert_eq!([1, 2, 3, 4].map(health), [Health::Up, Health::Down, Health::Up, Health::Unknown]);
    }
}
