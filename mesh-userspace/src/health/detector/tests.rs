use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{budget::Share, *};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

#[test]
fn the_logistic_and_its_deadline() {
    let l = Logistic::of(10.0, 2.0);
    assert!(close(l.phi(10.0), 2f64.log10()), "even odds at the mean");
    for phi in [0.5, 1.0, 3.0, 8.0, 12.0, 40.0] {
        assert!(close(l.phi(l.deadline(phi)), phi), "{phi}");
    }
    // mu + 1.27 phi sigma, nearly.
    assert!((l.deadline(8.0) - (10.0 + 10.2 * 2.0)).abs() < 0.1, "{}", l.deadline(8.0));
    assert!(l.phi(-1e9) >= 0.0 && l.phi(1e9).is_finite());
}

#[test]
fn gaps_are_learned() {
    let mut gaps = Gaps::default();
    assert_eq!(gaps.logistic(0.1), None);
    for i in 0..2000 {
        gaps.learn(if i % 2 == 0 { 9.0 } else { 11.0 });
    }
    for no_time in [f64::NAN, f64::INFINITY, -1.0] {
        gaps.learn(no_time);
    }
    let learned = gaps.logistic(0.1).unwrap();
    let expected = Logistic::of(10.0, 1.0);
    assert!((learned.mu - expected.mu).abs() < 0.05 && (learned.k / expected.k - 1.0).abs() < 0.05, "{learned:?}");
    assert_eq!(gaps.logistic(5.0).unwrap().k, Logistic::of(0.0, 5.0).k, "no steeper than the least spread allows");
}

#[test]
fn unanswered_probes_add_suspicion_up_to_the_cap() {
    let mut probes = Unanswered::default();
    for _ in 0..100 {
        probes.answered();
    }
    let phis: Vec<f64> = (0..6)
        .map(|_| {
            let phi = probes.phi();
            probes.unanswered();
            phi
        })
        .collect();
    assert!(phis.is_sorted() && phis[0] == 0.0 && phis[1] < 1.0 && phis[2] > 3.0 && phis[3] == PROBE_CAP, "{phis:?}");
    probes.answered();
    assert_eq!((probes.phi(), probes.in_row()), (0.0, 0));
    // On a path that loses every second probe, two in a row are nothing.
    let mut lossy = Unanswered::default();
    for i in 0..400 {
        if i % 2 == 0 { lossy.unanswered() } else { lossy.answered() }
    }
    lossy.answered();
    lossy.unanswered();
    assert!(lossy.phi() < 1.0, "{}", lossy.phi());
}

#[test]
fn the_fleets_clock_matches_its_meaning() {
    // Nine of ten signs are others': after n of them a live backend is silent by chance with 0.9^n.
    assert!(close(fleet_silence(100, 0.1), -(0.9f64.powi(100)).log10()));
    assert_eq!((fleet_silence(0, 0.5), fleet_silence(1000, 0.0), fleet_silence(1000, 1.0)), (0.0, 0.0, 0.0));
}

/// Signals in short: passive, probes, hints, application.
fn signals(passive: f64, probes: f64, hints: f64, app: App) -> Signals {
    Signals { passive, probes, hints, app, ..Signals::default() }
}

fn at(phase: Phase, t0: Instant) -> Detector {
    let mut d = Detector::default();
    let (dead, good) = (signals(0.0, 0.0, 0.0, App::Fallen), signals(0.0, 0.0, 0.0, App::Risen));
    let path: &[(Signals, u32)] = match phase {
        Phase::Up => &[(good, 0)],
        Phase::Soft => &[(dead, 0)],
        Phase::Down => &[(dead, 0), (dead, 0)],
        Phase::Recovering => &[(dead, 0), (dead, 0), (good, 0), (good, 1)],
    };
    for (s, after) in path {
        d.step(t0 + S * *after, s, Permit::FREE);
    }
    assert_eq!(d.phase(), phase);
    d
}

/// Every phase x kind of signals x permit, a minute after the phase began with nothing said meanwhile.
#[test]
fn transition_table() {
    use {App::*, Phase::*};
    #[rustfmt::skip]
    let kinds = [
        // what is said                            up    soft    down        recovering
        (signals(0.0, 0.0, 0.0, Risen),            [Up,   Up,    Recovering, Up]),
        (signals(0.0, 0.0, 0.0, Unchecked),        [Up,   Up,    Recovering, Up]),
        (signals(0.0, 0.0, 0.0, Undecided),        [Up,   Up,    Down,       Up]),
        (signals(0.9, 0.9, 0.9, Risen),            [Up,   Up,    Recovering, Up]),
        (signals(3.0, 0.0, 0.0, Risen),            [Up,   Soft,  Down,       Recovering]),
        (signals(0.0, 6.0, 0.0, Risen),            [Up,   Soft,  Down,       Recovering]),
        (signals(8.9, 0.0, 0.0, Risen),            [Up,   Soft,  Down,       Recovering]),
        (signals(9.0, 0.0, 0.0, Risen),            [Soft, Soft,  Down,       Soft]),
        (signals(50.0, 0.0, 0.0, Risen),           [Soft, Soft,  Down,       Soft]),
        (signals(1.0, 2.9, 0.0, Risen),            [Up,   Soft,  Down,       Recovering]),
        (signals(1.0, 3.0, 0.0, Risen),            [Soft, Soft,  Down,       Soft]),
        (signals(0.0, 3.0, 4.0, Undecided),        [Soft, Soft,  Down,       Soft]),
        (signals(3.0, 6.0, 0.0, Risen),            [Soft, Down,  Down,       Soft]),
        (signals(0.0, 6.0, 4.0, Unchecked),        [Soft, Down,  Down,       Soft]),
        (signals(0.0, 0.0, 0.0, Fallen),           [Soft, Down,  Down,       Soft]),
    ];
    let t0 = Instant::now();
    for (s, expected) in kinds {
        for (phase, expected) in [Up, Soft, Down, Recovering].into_iter().zip(expected) {
            for (frozen, soft, down) in [(false, true, true), (false, false, true), (false, true, false), (true, true, true)] {
                let mut d = at(phase, t0);
                // Who says the same for a minute is held by nothing but the permit.
                d.step(t0 + 2 * S, &s, Permit { frozen: true, soft: true, down: true });
                let change = d.step(t0 + 60 * S, &s, Permit { frozen, soft, down });
                let barred = frozen || expected == Soft && !soft || expected == Down && !down;
                let expected = if barred { phase } else { expected };
                assert_eq!(d.phase(), expected, "{phase:?} {s:?} frozen {frozen} soft {soft} down {down}");
                assert_eq!(change.map(|c| (c.from, c.to)), (phase != expected).then_some((phase, expected)));
            }
        }
    }
}

#[test]
fn trust_comes_back_after_the_hold_only() {
    let t0 = Instant::now();
    let good = signals(0.0, 0.0, 0.0, App::Risen);
    let mut d = at(Phase::Soft, t0);
    assert_eq!(d.step(t0 + S, &good, Permit::FREE), None, "the doubt has just ended");
    assert_eq!(d.step(t0 + S + 999 * MS, &good, Permit::FREE), None);
    assert_eq!(d.step(t0 + S + 1500 * MS, &signals(5.0, 0.0, 0.0, App::Risen), Permit::FREE), None, "a new doubt");
    assert_eq!(d.step(t0 + 3 * S, &good, Permit::FREE), None);
    assert_eq!(d.step(t0 + 4 * S, &good, Permit::FREE).map(|c| c.to), Some(Phase::Up));
    // Who comes back from being down has its reduced share for a while.
    let mut d = at(Phase::Recovering, t0);
    assert_eq!(d.step(t0 + 10 * S, &good, Permit::FREE), None);
    assert_eq!(d.step(t0 + 11 * S, &good, Permit::FREE).map(|c| c.to), Some(Phase::Up));
}

#[test]
fn flaps_are_damped_and_forgiven() {
    let t0 = Instant::now();
    let mut damping = Damping::default();
    damping.suspected(t0);
    assert_eq!(damping.hold(t0), S, "the first time is no flap");
    damping.cleared(t0 + S);
    damping.suspected(t0 + 2 * S);
    assert_eq!(damping.hold(t0 + 2 * S), 2 * S);
    assert!(close(damping.penalty(t0 + 62 * S), 0.5));
    damping.cleared(t0 + 62 * S);
    damping.suspected(t0 + 123 * S);
    assert!(damping.penalty(t0 + 123 * S) < 0.5, "after more than a minute it is no flap");
    let mut wild = Damping::default();
    for i in 0..100 {
        wild.suspected(t0 + i * S);
        wild.cleared(t0 + i * S);
    }
    assert_eq!(wild.hold(t0 + 99 * S), 300 * S);
}

#[test]
fn who_is_late_all_the_time_still_sees_who_is_dead() {
    let t0 = Instant::now();
    let mut guard = Guard::default();
    let mut frozen = 0;
    for ms in 0..1000 {
        if ms % 10 == 0 {
            guard.woke(t0 + MS * ms, 5 * MS);
        }
        frozen += u32::from(guard.frozen(t0 + MS * ms));
    }
    assert!((400..=600).contains(&frozen), "half of the time, not all of it: {frozen}");
    guard.woke(t0 + MS * 1001, 20 * MS);
    assert!(guard.frozen(t0 + MS * 1050), "what is worse than before counts at once");
}

#[test]
fn the_guard_doubts_ourselves() {
    let t0 = Instant::now();
    let mut guard = Guard::default();
    guard.woke(t0, 2 * MS);
    assert!(!guard.frozen(t0));
    guard.woke(t0, 3 * MS);
    assert!(guard.frozen(t0 + 11 * MS) && !guard.frozen(t0 + 12 * MS), "four times as long as it was late");
    guard.woke(t0, 300 * MS);
    assert!(guard.frozen(t0 + 49 * MS) && !guard.frozen(t0 + 50 * MS));
    let t1 = t0 + S;
    for i in 0..3 {
        guard.fell_silent(t1 + MS * i, 10);
    }
    assert!(!guard.frozen(t1 + 3 * MS), "three of ten are no more than 30 %");
    guard.fell_silent(t1 + 3 * MS, 10);
    assert!(guard.frozen(t1 + 3 * MS));
    let mut slow = Guard::default();
    for i in 0..10 {
        slow.fell_silent(t1 + 6 * MS * i, 10);
    }
    assert!(!slow.frozen(t1 + 54 * MS), "one after the other is another matter");
    let mut alone = Guard::default();
    alone.fell_silent(t1, 1);
    assert!(!alone.frozen(t1));
}

#[test]
fn budgets() {
    let of = |soft, down, ejected| Budget { total: 100, soft, down, ejected, limits: Limits::default() };
    for (budget, share, weight, allowed) in [
        (of(0, 0, 0), Share::Soft, 10, true),
        (of(0, 0, 0), Share::Soft, 50, true),
        (of(0, 0, 0), Share::Soft, 100, false),
        (of(20, 0, 2), Share::Soft, 10, true),
        (of(20, 0, 2), Share::Soft, 11, false),
        (of(10, 20, 3), Share::Soft, 1, false),
        (of(10, 40, 5), Share::Hard, 10, true),
        (of(10, 45, 5), Share::Hard, 10, false),
        (of(60, 0, 1), Share::Hard, 60, true),
        (of(100, 0, 1), Share::Hard, 100, false),
    ] {
        assert_eq!(budget.allows(share, weight), allowed, "{budget:?} {share:?} {weight}");
    }
    assert!(of(30, 21, 5).panics() && !of(30, 20, 5).panics() && !Budget::default().panics());
}

fn any_signals() -> impl Strategy<Value = Signals> {
    let phi = || prop_oneof![Just(0.0), 0.0..12.0f64];
    let app = prop_oneof![Just(App::Unchecked), Just(App::Undecided), Just(App::Risen), Just(App::Fallen)];
    (phi(), phi(), phi(), app).prop_map(|(a, b, d, c)| signals(a, b, d, c))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is said: phases follow each other as drawn, nothing happens while frozen or beyond the budget, nobody is given up without
    /// two channels or the application, and nobody is trusted within a second of a doubt.
    #[test]
    fn histories_keep_the_rules(
        history in prop::collection::vec((1u64..20_000, any_signals(), any::<(bool, bool, bool)>()), 1..120)
    ) {
        let (t0, mut ms) = (Instant::now(), 0);
        let (mut d, mut clean_since) = (Detector::default(), None);
        for (wait, s, (frozen, soft, down)) in history {
            ms += wait;
            let loud = [s.passive, s.probes, s.hints].into_iter().filter(|p| *p >= 1.0).count();
            let clean = loud == 0 && s.app != App::Fallen;
            clean_since = if clean { clean_since.or(Some(ms)) } else { None };
            let before = d.phase();
            let change = d.step(t0 + MS * u32::try_from(ms).unwrap(), &s, Permit { frozen, soft, down });
            let Some(change) = change else {
                prop_assert_eq!(d.phase(), before);
                continue;
            };
            prop_assert!(!frozen && change.from == before && change.to == d.phase() && change.from != change.to);
            let sum = s.passive + s.probes + s.hints;
            match (change.from, change.to) {
                (Phase::Up | Phase::Recovering, Phase::Soft) => {
                    prop_assert!(soft);
                    prop_assert!(s.app == App::Fallen || s.passive.max(s.probes).max(s.hints) >= 9.0 || loud >= 2 && sum >= 4.0);
                }
                (Phase::Soft, Phase::Down) => prop_assert!(down && (s.app == App::Fallen || loud >= 2 && sum >= 9.0)),
                (Phase::Soft, Phase::Up) | (Phase::Down, Phase::Recovering) => {
                    prop_assert!(clean && clean_since.is_some_and(|since| ms - since >= 1000));
                }
                (Phase::Recovering, Phase::Up) => prop_assert!(clean),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
