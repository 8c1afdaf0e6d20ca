//! Judges of a whole service against a plain model of what the rules say, which remembers all that was said and counts it anew each time.

use std::time::{Duration, Instant};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};

use super::*;
use crate::health::detector::Limits;

const RULES: Thresholds = Thresholds { rise: 2, fall: 3 };
/// Of 100.
const WEIGHTS: [u64; 4] = [15, 15, 30, 40];
const MINUTE: f64 = 60_000.0;

/// What is said of a target.
#[derive(Clone, Copy, Debug)]
enum Word {
    Check(bool),
    Excused,
    /// A trial that is refused.
    Refused,
    Neighbour(bool),
    Flows(bool),
}

/// After so many milliseconds this is said of that target, maybe while we doubt ourselves.
type Moment = (u64, usize, Word, bool);

/// A rule that a model may have wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    /// One failure more than it takes.
    Fall,
    /// An excused check begins a new row.
    Excuse,
    /// Whoever flaps is trusted again as soon as others.
    Damping,
    /// Flaps are never forgiven.
    Fading,
    /// Any number may be suspected, ...
    Soft,
    /// ... or given up.
    Down,
    /// Doubts about ourselves are no reason to wait.
    Frozen,
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// Checks since it was last given up, with what is excused.
    checks: Vec<Option<bool>>,
    /// What they said when they last said it clearly.
    app: Option<bool>,
    refusals: usize,
    neighbour: bool,
    flows: bool,
    state: Health,
    recovering: bool,
    entered: u64,
    /// Since when nothing speaks against it.
    clean: Option<u64>,
    trusted: Option<u64>,
    relapses: Vec<u64>,
}

impl Model {
    fn hear(&mut self, word: Word, wrong: Wrong) {
        match word {
            Word::Check(passed) => self.checks.push(Some(passed)),
            Word::Excused => self.checks.push(None),
            Word::Refused => self.refusals += 1,
            Word::Neighbour(failed) => self.neighbour = failed,
            Word::Flows(fail) => self.flows = fail,
        }
        let Word::Check(passed) = word else { return };
        let row = self.checks.iter().rev().filter(|c| wrong == Wrong::Excuse || c.is_some()).take_while(|c| **c == Some(passed)).count();
        let needed = if passed { 2 } else { 3 + usize::from(wrong == Wrong::Fall) };
        if row >= needed {
            self.app = Some(passed);
        }
        if passed {
            self.refusals = 0;
        }
    }

    /// Hints and trials.
    fn channels(&self) -> [f64; 2] {
        [if self.neighbour || self.flows { 4.0 } else { 0.0 }, [0.0, 3.0, 6.0][self.refusals.min(2)]]
    }

    fn against(&self, least: f64) -> bool {
        let [hints, trials] = self.channels();
        self.app == Some(false) || hints > 0.0 && trials > 0.0 && hints + trials >= least
    }

    fn hold(&self, now: u64, wrong: Wrong) -> f64 {
        let fade = |then: &u64| if wrong == Wrong::Fading { 1.0 } else { 0.5f64.powf((now - then) as f64 / MINUTE) };
        let penalty: f64 = if wrong == Wrong::Damping { 0.0 } else { self.relapses.iter().map(fade).sum() };
        (1000.0 * penalty.min(16.0).exp2()).min(300_000.0)
    }

    /// One step, if there is one; the weights are those of all that were ever in, by what they are now.
    fn step(&mut self, now: u64, frozen: bool, may: impl Fn(Health) -> bool, wrong: Wrong) -> bool {
        let clean = self.channels() == [0.0; 2] && self.app != Some(false);
        self.clean = if clean { self.clean.or(Some(now)) } else { None };
        if frozen && self.app != Some(false) && wrong != Wrong::Frozen {
            return false;
        }
        let fact = self.app == Some(false);
        let held = self.clean.is_some_and(|since| (now - since) as f64 >= self.hold(now, wrong));
        match self.state {
            Health::Up if self.against(4.0) && (fact || may(Health::Soft)) => {
                if self.trusted.is_some_and(|then| now - then <= 60_000) {
                    self.relapses.push(now);
                }
                (self.state, self.recovering) = (Health::Soft, false);
            }
            Health::Up if self.recovering && clean && now - self.entered >= 10_000 => {
                (self.recovering, self.trusted) = (false, Some(now));
            }
            Health::Soft if self.against(9.0) && (fact || may(Health::Down)) => {
                (self.state, self.app) = (Health::Down, Some(false));
                self.checks.clear();
            }
            Health::Soft if held => (self.state, self.trusted) = (Health::Up, Some(now)),
            Health::Down if held => (self.state, self.recovering) = (Health::Up, true),
            _ => return false,
        }
        self.entered = now;
        true
    }
}

/// Whether one more may be taken out, in percent of all.
fn may(all: &[Model], of: usize, to: Health, wrong: Wrong) -> bool {
    let weight =
        |wanted: &dyn Fn(Health) -> bool| -> u64 { all.iter().zip(WEIGHTS).filter(|(m, _)| wanted(m.state)).map(|(_, w)| w).sum() };
    let out = |state| matches!(state, Health::Soft | Health::Down);
    let others = all.iter().enumerate().filter(|(n, m)| *n != of && out(m.state)).count();
    let (taken, limit, free) = match to {
        Health::Soft => (weight(&out), 30, wrong == Wrong::Soft),
        _ => (weight(&|state| state == Health::Down), 50, wrong == Wrong::Down),
    };
    let panic = 100 - weight(&out) < 50;
    taken + WEIGHTS[of] < 100 && (free || others == 0 || !panic && taken + WEIGHTS[of] <= limit)
}

/// The budget as the register sums it up.
fn budget(judges: &[Judge]) -> Budget {
    let mut budget = Budget { limits: Limits::default(), ..Budget::default() };
    for (judge, weight) in judges.iter().zip(WEIGHTS) {
        budget.total += weight;
        match judge.health() {
            Health::Soft => budget.soft += weight,
            Health::Down => budget.down += weight,
            Health::Unknown | Health::Up => continue,
        }
        budget.ejected += 1;
    }
    budget
}

fn tell(judge: &mut Judge, word: Word, now: Instant) {
    let failed = || Sample::Failed { error: "timeout".into() };
    match word {
        Word::Check(true) => judge.checked(now, Sample::Passed { rtt: Duration::from_millis(1) }, false),
        Word::Check(false) => judge.checked(now, failed(), false),
        Word::Excused => judge.checked(now, Sample::Excused { error: "late".into() }, false),
        Word::Refused => judge.tried(now, failed(), true),
        Word::Neighbour(failed) => judge.neighbour(failed),
        Word::Flows(fail) => judge.flows_fail(fail),
    }
}

/// Goes through a history with both, and compares after each moment.
fn agree(history: &[Moment], wrong: Wrong) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let detection = Detection::Phi(PhiRules { pulse: None, passive: false, limits: Limits::default() });
    let mut judges: Vec<_> = WEIGHTS.iter().map(|_| Judge::new(RULES, detection, Health::Up, start)).collect();
    let mut models: Vec<_> = WEIGHTS.iter().map(|_| Model { app: Some(true), state: Health::Up, ..Model::default() }).collect();
    let mut ms = 0;
    for (n, &(wait, of, word, frozen)) in history.iter().enumerate() {
        ms += wait;
        let now = start + Duration::from_millis(ms);
        tell(&mut judges[of], word, now);
        let budget = budget(&judges);
        judges[of].review(now, frozen, WEIGHTS[of], &budget);
        models[of].hear(word, wrong);
        loop {
            let all = models.clone();
            if !models[of].step(ms, frozen, |to| may(&all, of, to, wrong), wrong) {
                break;
            }
        }
        let (judged, model) = (&judges[of], &models[of]);
        let phase = judged.phase() == Some(Phase::Recovering);
        prop_assert_eq!((judged.health(), phase), (model.state, model.recovering), "moment {} at {} ms of {:?}", n, ms, history);
    }
    Ok(())
}

fn histories() -> impl Strategy<Value = Vec<Moment>> {
    let word = prop_oneof![
        4 => any::<bool>().prop_map(Word::Check),
        4 => Just(Word::Check(true)),
        1 => Just(Word::Excused),
        3 => Just(Word::Refused),
        2 => any::<bool>().prop_map(Word::Neighbour),
        2 => any::<bool>().prop_map(Word::Flows),
    ];
    let wait = prop_oneof![4 => 0u64..700, 4 => 500u64..4000, 1 => 4000u64..90_000];
    prop::collection::vec((wait, 0..WEIGHTS.len(), word, prop::bool::weighted(0.1)), 1..250)
}

fn verdict(wrong: Wrong, cases: u32) -> Result<(), TestError<Vec<Moment>>> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    // Whether a mistake is found must not be chance.
    let fixed = || TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut runner = if wrong == Wrong::Nothing { TestRunner::new(config.clone()) } else { fixed() };
    runner.run(&histories(), |history| agree(&history, wrong))
}

#[test]
fn judges_do_as_the_model_says() {
    if let Err(found) = verdict(Wrong::Nothing, 1000) {
        panic!("{found}");
    }
}

/// Whoever has one rule wrong is found out, so the histories reach all of them.
#[test]
fn a_wrong_model_is_found_out() {
    for wrong in [Wrong::Fall, Wrong::Excuse, Wrong::Damping, Wrong::Fading, Wrong::Soft, Wrong::Down, Wrong::Frozen] {
        assert!(matches!(verdict(wrong, 5000), Err(TestError::Fail(..))), "nobody notices that {wrong:?} is wrong");
    }
}
