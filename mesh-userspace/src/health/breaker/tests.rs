use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::model::ConnectionLimits;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

pub(super) fn rules() -> Rules {
    Rules {
        failures: Some(0.5),
        volume: 20,
        consecutive: Some(5),
        latency: Some(4.0),
        window: 10 * S,
        open: S,
        most: 8 * S,
        share: 0.1,
        trial: 2 * S,
        most_open: 1.0,
    }
}

const GOOD: Reading = Reading { flows: 50, failures: Some(0.1), in_row: 1, latency: Some(1.2) };
const FAILING: Reading = Reading { failures: Some(0.5), ..GOOD };
const IN_ROW: Reading = Reading { in_row: 5, ..GOOD };
const SLOW: Reading = Reading { latency: Some(4.0), ..GOOD };
const NOTHING: Reading = Reading { flows: 0, failures: None, in_row: 0, latency: None };

/// A breaker brought to `circuit` at `now`, which has failed `failed` trials.
fn at(circuit: Circuit, failed: u32, now: Instant) -> Breaker {
    let (mut b, r, free) = (Breaker::default(), Rules { open: MS, most: MS, trial: MS, ..rules() }, Permit { open: true });
    let early = now - 20 * S;
    let mut step = |ms: u32, reading: &Reading| b.step(early + ms * MS, reading, &r, free);
    if circuit != Circuit::Closed {
        step(0, &FAILING);
        for i in 0..failed {
            step(2 * i + 1, &NOTHING);
            step(2 * i + 2, &FAILING);
        }
        if circuit == Circuit::HalfOpen {
            step(2 * failed + 1, &NOTHING);
        }
    }
    assert_eq!(b.circuit(), circuit);
    // The times are those of the rules above; what follows counts from `now`.
    b.since_for_tests(now);
    b
}

#[test]
fn every_transition() {
    use Circuit::*;
    let now = Instant::now();
    let (yes, no) = (true, false);
    #[rustfmt::skip]
    let rows = [
        // circuit  failed  after    reading  permit  to                cause
        (Closed,    0,      S,       GOOD,    yes,    None),
        (Closed,    0,      S,       NOTHING, yes,    None),
        (Closed,    0,      S,       FAILING, yes,    Some((Open,       Some(Cause::Failures)))),
        (Closed,    0,      S,       IN_ROW,  yes,    Some((Open,       Some(Cause::Consecutive)))),
        (Closed,    0,      S,       SLOW,    yes,    Some((Open,       Some(Cause::Latency)))),
        (Closed,    0,      S,       FAILING, no,     None),
        (Closed,    0,      S,       SLOW,    no,     None),
        (Open,      0,      999*MS,  GOOD,    yes,    None),
        (Open,      0,      999*MS,  FAILING, yes,    None),
        (Open,      0,      S,       FAILING, yes,    Some((HalfOpen,   None))),
        (Open,      0,      S,       GOOD,    no,     Some((HalfOpen,   None))),
        (Open,      1,      1999*MS, NOTHING, yes,    None),
        (Open,      1,      2*S,     NOTHING, yes,    Some((HalfOpen,   None))),
        (Open,      2,      4*S,     NOTHING, yes,    Some((HalfOpen,   None))),
        (Open,      3,      8*S,     NOTHING, yes,    Some((HalfOpen,   None))),
        (Open,      9,      7999*MS, NOTHING, yes,    None),
        (Open,      9,      8*S,     NOTHING, yes,    Some((HalfOpen,   None))),
        (HalfOpen,  0,      1999*MS, GOOD,    yes,    None),
        (HalfOpen,  0,      1999*MS, NOTHING, yes,    None),
        (HalfOpen,  0,      2*S,     GOOD,    yes,    Some((Closed,     None))),
        (HalfOpen,  0,      2*S,     NOTHING, yes,    Some((Closed,     None))),
        (HalfOpen,  0,      MS,      FAILING, yes,    Some((Open,       Some(Cause::Failures)))),
        (HalfOpen,  0,      MS,      IN_ROW,  no,     Some((Open,       Some(Cause::Consecutive)))),
        (HalfOpen,  0,      3*S,     SLOW,    yes,    Some((Open,       Some(Cause::Latency)))),
    ];
    for (i, (circuit, failed, after, reading, open, to)) in rows.into_iter().enumerate() {
        let mut b = at(circuit, failed, now);
        let change = b.step(now + after, &reading, &rules(), Permit { open });
        assert_eq!(change.map(|c| (c.from, c.to, c.cause)), to.map(|(to, cause)| (circuit, to, cause)), "row {i}");
        assert_eq!(b.circuit(), to.map_or(circuit, |(to, _)| to), "row {i}");
        assert_eq!(b.since(), Some(if to.is_some() { now + after } else { now }), "row {i}");
    }
}

#[test]
fn a_trial_that_fails_doubles_the_time_and_a_long_peace_ends_that() {
    let (start, r, free) = (Instant::now(), rules(), Permit { open: true });
    let mut b = Breaker::default();
    b.step(start, &FAILING, &r, free);
    let mut now = start;
    for open in [1, 2, 4, 8, 8] {
        assert_eq!(b.until(&r), Some(now + open * S));
        now += open * S;
        assert_eq!(b.step(now, &NOTHING, &r, free).map(|c| c.to), Some(Circuit::HalfOpen));
        assert_eq!(b.step(now, &FAILING, &r, free).map(|c| c.to), Some(Circuit::Open));
    }
    now += 8 * S;
    b.step(now, &NOTHING, &r, free);
    b.step(now + 2 * S, &GOOD, &r, free);
    assert_eq!(b.circuit(), Circuit::Closed);
    let mut soon = b;
    soon.step(now + 9 * S, &FAILING, &r, free);
    assert_eq!(soon.until(&r), Some(now + 17 * S), "a relapse");
    b.step(now + 11 * S, &FAILING, &r, free);
    assert_eq!(b.until(&r), Some(now + 12 * S), "begun anew");
}

#[test]
fn what_is_not_asked_for_does_not_open() {
    let none = Rules { failures: None, consecutive: None, latency: None, ..rules() };
    let all = Reading { flows: 100, failures: Some(1.0), in_row: 100, latency: Some(100.0) };
    assert_eq!(none.cause(&all), None);
    assert_eq!(rules().cause(&Reading { failures: None, latency: None, ..GOOD }), None);
}

#[test]
fn fewer_flows_are_enough_in_a_trial() {
    assert_eq!(rules().volume(Circuit::Closed), 20);
    assert_eq!(rules().volume(Circuit::HalfOpen), 3);
    assert_eq!(Rules { volume: 100, ..rules() }.volume(Circuit::HalfOpen), 10);
    assert_eq!(Rules { volume: 1, ..rules() }.volume(Circuit::HalfOpen), 3);
}

#[test]
fn a_meter_counts_over_its_window() {
    let (start, mut m) = (Instant::now(), Meter::new(10 * S));
    let counted = |i: u64| Counted { flows: 16 * i, replies: 160 * i, drawn: i, done: i.saturating_sub(1), ..Counted::default() };
    for i in 0..400u64 {
        m.count(start + 100 * MS * i as u32, counted(i));
    }
    let now = start + 39_900 * MS;
    let course = m.course(now);
    assert!((98..=102).contains(&course.drawn) && course.flows == 16 * course.drawn, "{course:?}");
    assert_eq!((course.done, course.resets, m.failed_in_row(now)), (course.drawn, 0, 0));
    assert!((86..=92).contains(&course.ripe), "{course:?}");
    assert_eq!((course.lost_share(20), course.lost_share(200), course.reset_share(20)), (Some(0.0), None, Some(0.0)));
}

#[test]
fn silence_fails_only_after_a_second_and_refusals_at_once() {
    let (start, mut m) = (Instant::now(), Meter::new(10 * S));
    let mut silent = Counted { flows: 100, replies: 100, drawn: 10, done: 10, ..Counted::default() };
    m.count(start, silent);
    for i in 1..=20u32 {
        silent = Counted { flows: silent.flows + 16, drawn: silent.drawn + 1, ..silent };
        m.count(start + 100 * MS * i, silent);
    }
    assert_eq!(m.failed_in_row(start + 900 * MS), 0);
    assert_eq!(m.failed_in_row(start + 2000 * MS), 10);
    assert_eq!(m.course(start + 2000 * MS).lost_share(10), Some(1.0));
    let refusing = Counted { flows: silent.flows + 7, replies: 107, resets: 7, ..silent };
    m.count(start + 2100 * MS, refusing);
    assert_eq!(m.failed_in_row(start + 2100 * MS), 10);
    let mut r = Meter::new(10 * S);
    r.count(start, silent);
    r.count(start + 10 * MS, refusing);
    assert_eq!(r.failed_in_row(start + 10 * MS), 7);
    r.count(start + 20 * MS, Counted { replies: 110, resets: 8, ..refusing });
    assert_eq!(r.failed_in_row(start + 20 * MS), 0, "an answer that is no refusal");
}

#[test]
fn cleared_counters_begin_anew_and_resets_wrap() {
    let (start, mut m) = (Instant::now(), Meter::new(10 * S));
    m.count(start, Counted { flows: 1000, resets: u32::MAX, drawn: 60, ..Counted::default() });
    m.count(start + S, Counted { flows: 1010, replies: 3, resets: 2, drawn: 61, ..Counted::default() });
    assert_eq!(m.course(start + S).resets, 3);
    m.count(start + 2 * S, Counted { flows: 5, ..Counted::default() });
    assert_eq!((m.course(start + 2 * S), m.failed_in_row(start + 2 * S)), (Course::default(), 0));
}

#[test]
fn latency_is_compared_with_latency_without_load() {
    let (start, mut m) = (Instant::now(), Meter::new(10 * S));
    for i in 0..20 {
        m.latency(start + S * i, 0.010);
    }
    assert!((m.inflation(start + 19 * S).unwrap() - 1.0).abs() < 1e-9);
    for i in 20..31 {
        m.latency(start + S * i, 0.050);
    }
    assert!((m.inflation(start + 30 * S).unwrap() - 5.0).abs() < 1e-9);
    assert_eq!(m.inflation(start + 60 * S), None, "nothing was heard of late");
    let mut quick = Meter::new(10 * S);
    (0..9).for_each(|i| quick.latency(start + S * i, if i == 0 { 1e-5 } else { 4e-4 }));
    assert_eq!(quick.inflation(start + 8 * S), Some(1.0), "below a millisecond all is noise");
}

#[test]
fn what_all_have_alike_is_nobodys_fault() {
    for (own, others, expected) in [(0.5, 0.0, 0.5), (0.5, 0.5, 0.0), (1.0, 0.5, 1.0), (0.3, 0.6, 0.0), (1.0, 1.0, 0.0), (0.75, 0.5, 0.5)] {
        assert!((excess(own, others) - expected).abs() < 1e-9, "{own} {others}");
    }
}

#[test]
fn limits_are_reached_and_left() {
    let (start, mut l) = (Instant::now(), Limiter::default());
    let limits = ConnectionLimits { connections: Some(100), rate: None };
    let mut at = |ms: u32, open: u64| l.step(start + ms * MS, limits, Some(open), 0);
    assert_eq!(at(0, 99), None);
    assert_eq!(at(10, 100), Some(Full::Connections { open: 100, limit: 100 }));
    assert_eq!(at(20, 10), Some(Full::Connections { open: 100, limit: 100 }), "held for a while");
    assert_eq!(at(600, 96), Some(Full::Connections { open: 96, limit: 100 }), "some room first");
    assert_eq!(at(700, 94), None);
    assert_eq!(at(710, 120), Some(Full::Connections { open: 120, limit: 100 }));
    assert_eq!(l.step(start + 720 * MS, ConnectionLimits::default(), Some(120), 0), None, "no limit any more");
}

#[test]
fn rates_are_those_of_the_last_second() {
    let (start, mut l) = (Instant::now(), Limiter::default());
    let limits = ConnectionLimits { connections: None, rate: Some(50) };
    let full: Vec<_> = (0..300u32).map(|i| l.step(start + 10 * MS * i, limits, None, u64::from(i.min(60)))).collect();
    let first = full.iter().position(Option::is_some).unwrap();
    assert_eq!(full[first], Some(Full::Rate { begun: 50, limit: 50 }));
    let last = full.iter().rposition(Option::is_some).unwrap();
    assert!((100..=125).contains(&last), "{last}");
    assert_eq!(l.step(start + 4 * S, limits, None, 3), None, "counters that begin anew");
}

proptest! {
    /// Whatever is read: the ways between states are the three that there are, each takes its time, and who may not be opened stays closed.
    #[test]
    fn a_breaker_goes_only_the_ways_that_there_are(steps in proptest::collection::vec((0u32..3000, 0u8..5, any::<bool>()), 1..200)) {
        let (mut now, r) = (Instant::now(), rules());
        let mut b = Breaker::default();
        let mut since = now;
        for (ms, which, open) in steps {
            now += ms * MS;
            let reading = [GOOD, FAILING, IN_ROW, SLOW, NOTHING][usize::from(which)];
            let before = b;
            let bad = r.cause(&reading).is_some();
            match b.step(now, &reading, &r, Permit { open }) {
                None => {
                    prop_assert_eq!(b, before);
                    prop_assert!(before.circuit() != Circuit::Closed || !bad || !open);
                }
                Some(change) => {
                    prop_assert_eq!((change.from, change.to), (before.circuit(), b.circuit()));
                    match (change.from, change.to) {
                        (Circuit::Closed, Circuit::Open) => prop_assert!(bad && open),
                        (Circuit::Open, Circuit::HalfOpen) => prop_assert!(now - since >= r.open),
                        (Circuit::HalfOpen, Circuit::Open) => prop_assert!(bad),
                        (Circuit::HalfOpen, Circuit::Closed) => prop_assert!(!bad && now - since >= r.trial),
                        other => prop_assert!(false, "{:?}", other),
                    }
                    since = now;
                }
            }
            if let Some(until) = b.until(&r) {
                prop_assert!(until <= since + r.most);
            }
        }
    }

    /// Who is not full has room, and nobody is full without having been at the limit.
    #[test]
    fn a_limiter_lets_in_only_below_its_limit(steps in proptest::collection::vec((0u32..700, 0u64..200), 1..100), limit in 1u32..100) {
        let (mut now, mut l) = (Instant::now(), Limiter::default());
        let limits = ConnectionLimits { connections: Some(limit), rate: None };
        let mut reached = false;
        for (ms, open) in steps {
            now += ms * MS;
            reached |= open >= u64::from(limit);
            match l.step(now, limits, Some(open), 0) {
                None => prop_assert!(open < u64::from(limit)),
                Some(_) => prop_assert!(reached),
            }
        }
    }
}
