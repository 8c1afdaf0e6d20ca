use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::health::detector::{Limits, Pulse, PulseKind};

const MS: Duration = Duration::from_millis(1);
const RULES: Thresholds = Thresholds { rise: 2, fall: 3 };

fn phi() -> Detection {
    let pulse = Pulse { kind: PulseKind::Syn, address: ([10, 0, 0, 1], 80).into(), source: None, tag: 0, interval: 10 * MS };
    Detection::Phi(PhiRules { pulse: Some(pulse), passive: true, limits: Limits::default() })
}

/// A target and its clock; what is said is a letter.
struct Case {
    judge: Judge,
    now: Instant,
    budget: Budget,
    frozen: bool,
}

impl Case {
    fn new(detection: Detection, health: Health) -> Self {
        let now = Instant::now();
        let budget = Budget { total: 10, ..Budget::default() };
        Self { judge: Judge::new(RULES, detection, health, now), now, budget, frozen: false }
    }

    /// An up target whose pulses and traffic are known.
    fn known() -> Self {
        let mut case = Self::new(phi(), Health::Up);
        case.say("aaaaaaaaaa++");
        for _ in 0..100 {
            case.judge.traffic(1, 10, 1);
        }
        case
    }

    /// `+` `-` `R` a check passes, times out, is refused; `p` `f` `r` a trial; `a` `l` `n` `u` `x` a pulse is answered, lost, refused, unreachable, not sent;
    /// `s` silence of 30 signs of life; `v` a packet of its flows, `w` none; `N` the neighbour fails; `.` ten milliseconds; `_` two seconds; `?` an excused check.
    fn say(&mut self, what: &str) -> Health {
        for c in what.chars() {
            let (now, passed) = (self.now, Sample::Passed { rtt: MS });
            let failed = || Sample::Failed { error: "timeout".into() };
            match c {
                '+' => self.judge.checked(now, passed, false),
                '-' => self.judge.checked(now, failed(), false),
                'R' => self.judge.checked(now, failed(), true),
                '?' => self.judge.checked(now, Sample::Excused { error: "late".into() }, false),
                'p' => self.judge.tried(now, passed, false),
                'f' => self.judge.tried(now, failed(), false),
                'r' => self.judge.tried(now, failed(), true),
                'a' => self.judge.pulsed(now, Beat::Answered),
                'l' => self.judge.pulsed(now, Beat::Lost),
                'n' => self.judge.pulsed(now, Beat::Refused),
                'u' => self.judge.pulsed(now, Beat::Unreachable),
                'x' => self.judge.pulsed(now, Beat::Unsent),
                's' => (0..3).for_each(|_| self.judge.traffic(0, 10, 1)),
                'v' => self.judge.replied(now, 1),
                'w' => self.judge.replied(now, 0),
                'N' => self.judge.neighbour(true),
                '.' => self.now += 10 * MS,
                '_' => self.now += 2000 * MS,
                _ => panic!("{c}"),
            }
            self.judge.review(self.now, self.frozen, 1, &self.budget);
        }
        self.judge.health()
    }
}

/// What is said of a target that is up, and what it is then.
#[test]
fn courses() {
    use Health::{Down, Soft, Up};
    #[rustfmt::skip]
    let rows = [
        // Its process was killed: two refusals are enough, one is not.
        ("n",            Up),
        ("na",           Up),
        ("nn",           Down),
        // Its host is cut off, and nothing else is known: silence alone decides nothing, a trial confirms it.
        ("llllllll",     Up),
        ("llf",          Soft),
        ("lllf",         Down),
        ("llff",         Down),
        ("lllla",        Up),
        ("llllp",        Up),
        // With traffic there are two channels.
        ("ssll",         Soft),
        ("sssslll",      Down),
        // Silence of traffic alone: new flows elsewhere, until it is seen to live.
        ("sssssssss",    Soft),
        ("ssssssssssss", Soft),
        // Its kernel answers: a trial that fails is no word, only its check's fall is.
        ("ssssssssssssfff", Soft),
        ("ssssssssssss---", Down),
        ("ssssssssssssp",  Soft),
        ("ssssssssssssp_", Up),
        // Its flows go on while nobody else hears from it: too busy for new ones, or our questions are lost.
        ("lw.v.llf",     Soft),
        ("lw.v.llfffff", Soft),
        ("lw.v.llf---",  Down),
        ("lw.v.llfnn",   Down),
        // Whether what was counted last came before it fell silent shows with the next counters, or does not matter any more.
        ("w.l.v.llf",    Soft),
        ("w.l.v.llf_f",  Down),
        // Packets that may have been on their way when it died, and those of long ago, do not count.
        ("w.l.v.w.llf",  Down),
        ("lw.w.llf",     Down),
        ("lw.v.llf_f",   Down),
        // Hints of the network.
        ("N",            Up),
        ("Nll",          Soft),
        ("Nlll",         Down),
        ("uu",           Soft),
        ("uuu",          Down),
        // We had no way there: silence counts anew, and in a while, or once we have heard it; a refusal counts at once.
        ("llxlllf",      Up),
        ("sssxsssslll",  Up),
        ("lxlllf_l",     Down),
        ("lxalllf",      Down),
        ("xnn",          Down),
        ("x_x_x_x_xlllf", Up),
        ("x_x_x_x_x_x_xlllf", Down),
        // The check alone, too.
        ("--",           Up),
        ("---",          Down),
        ("--?-",         Down),
        ("--+-",         Up),
        ("R",            Up),
        // Back again: not before it has risen, and stayed so for a while.
        ("nn+",          Down),
        ("nn++a",        Down),
        ("nn++a_a",      Up),
        ("nna_a_a_a",    Down),
        ("nna++_nn",     Down),
        ("---++a_a",     Up),
    ];
    for (said, expected) in rows {
        assert_eq!(Case::known().say(said), expected, "{said}");
    }
}

#[test]
fn evidence_against_who_is_called_dead_does_not_blame_a_check_that_passed() {
    for (said, app) in [("sssslll", App::Risen), ("---", App::Fallen)] {
        let mut case = Case::known();
        case.say(&said[..said.len() - 1]);
        match &said[said.len() - 1..] {
            "l" => case.judge.pulsed(case.now, Beat::Lost),
            _ => case.judge.checked(case.now, Sample::Failed { error: "timeout".into() }, false),
        }
        let told = case.judge.review(case.now, false, 1, &case.budget).unwrap();
        assert_eq!((told.to, told.evidence.signals.unwrap().app), (Health::Down, app), "{said}");
    }
}

#[test]
fn pulses_that_never_come_through_mean_nothing() {
    for said in ["llllllllll", "nnnnnnn", "aallllll"] {
        let mut case = Case::new(phi(), Health::Up);
        assert_eq!(case.say(said), Health::Up, "{said}");
        assert!(!case.judge.armed());
    }
    // Then the check's own refusals are a hint, and trials follow at once.
    let mut case = Case::new(phi(), Health::Up);
    assert_eq!(case.say("R"), Health::Up);
    assert!(case.judge.wants_trial(case.now));
    assert_eq!(case.say("r"), Health::Soft);
    assert_eq!(case.say("r"), Health::Down);
}

#[test]
fn rise_and_fall_alone_hear_nothing_else() {
    let mut case = Case::new(Detection::RiseFall, Health::Up);
    assert_eq!(case.say("aaaannnnllllNNuussssrrrff"), Health::Up);
    assert!(!case.judge.wants_trial(case.now) && case.judge.phase().is_none());
    assert_eq!(case.say("--"), Health::Up);
    assert_eq!(case.say("-"), Health::Down);
    assert_eq!(case.say("++"), Health::Up);
}

#[test]
fn nobody_is_trusted_unchecked() {
    let mut case = Case::new(phi(), Health::Unknown);
    assert_eq!(case.say("aaaaaaaaaa"), Health::Unknown);
    assert_eq!(case.say("+"), Health::Unknown);
    assert_eq!(case.say("+"), Health::Up);
    let mut dead = Case::new(phi(), Health::Unknown);
    assert_eq!(dead.say("---"), Health::Down);
    assert_eq!(Case::new(phi(), Health::Down).say("a"), Health::Down);
}

#[test]
fn doubts_about_ourselves_and_the_budget_bar_suspicion_but_no_facts() {
    let spent = Budget { total: 10, soft: 3, down: 3, ejected: 6, limits: Limits::default() };
    for (frozen, budget) in [(true, Budget { total: 10, ..Budget::default() }), (false, spent)] {
        for (said, expected) in [("ssssslllf", Health::Up), ("nn", Health::Down), ("---", Health::Down)] {
            let mut case = Case::known();
            (case.frozen, case.budget) = (frozen, budget);
            assert_eq!(case.say(said), expected, "{said} frozen {frozen}");
        }
    }
}

#[test]
fn trials_are_asked_for_while_there_is_a_doubt() {
    for (said, wanted) in [("", false), ("l", false), ("ll", true), ("lla", false), ("n", true), ("N", true), ("sss", true), ("nn", false)]
    {
        let mut case = Case::known();
        case.say(said);
        assert_eq!(case.judge.wants_trial(case.now), wanted, "{said}");
    }
}

#[test]
fn evidence_names_the_channels() {
    let mut case = Case::known();
    case.say("n");
    case.judge.pulsed(case.now, Beat::Refused);
    let transition = case.judge.review(case.now, false, 1, &case.budget).unwrap();
    assert_eq!((transition.from, transition.to), (Health::Up, Health::Down));
    let text = transition.evidence.to_string();
    assert!(text.contains("pulses 6.0 + hints 4.0") && text.starts_with("phi 10.0"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is said: who is down has been refused twice, failed its check, or was spoken against by two channels; who comes back from there
    /// has risen; and health is always what the phase says.
    #[test]
    fn histories(said in "[-+R?pfralnus._]{1,200}") {
        let mut case = Case::known();
        let mut passed = 0;
        for c in said.chars() {
            let before = case.judge.health();
            let after = case.say(&c.to_string());
            passed += u32::from(matches!(c, '+' | 'p'));
            let signals = case.judge.signals(case.now);
            if before != Health::Down && after == Health::Down {
                passed = 0;
            }
            if before == Health::Down && after != Health::Down {
                prop_assert!(passed >= 2, "{}", said);
                prop_assert_eq!(signals.app, App::Risen);
            }
            if after == Health::Soft {
                prop_assert_eq!(case.judge.phase(), Some(Phase::Soft));
            }
            prop_assert_eq!(after == Health::Down, case.judge.phase() == Some(Phase::Down));
        }
    }
}
