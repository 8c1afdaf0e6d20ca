//! The controller on fleets that can be computed.

use super::*;
use crate::table::tests::id;

/// Backends of these speeds under a load that is shared by weight: latency = 1 / (speed - share of the load).
struct Fleet {
    speeds: Vec<f64>,
    load: f64,
    controller: Controller,
    knows_unloaded: bool,
}

impl Fleet {
    fn new(speeds: &[f64], rho: f64) -> Self {
        Self { speeds: speeds.to_vec(), load: rho * speeds.iter().sum::<f64>(), controller: Controller::default(), knows_unloaded: true }
    }

    fn shares(&self) -> Vec<f64> {
        let factors = self.controller.factors();
        let factor = |i| factors.get(&id(i)).map_or(1.0, |f| f.as_f64());
        let all: f64 = (0..self.speeds.len()).map(factor).sum();
        (0..self.speeds.len()).map(|i| factor(i) / all).collect()
    }

    fn advance(&mut self) {
        self.step();
    }

    fn step(&mut self) -> bool {
        let shares = self.shares();
        let seen = self.speeds.iter().zip(&shares).enumerate().map(|(i, (speed, share))| {
            let (arrivals, spare) = (self.load * share, speed - self.load * share);
            let latency = if spare > 0.02 { 1.0 / spare } else { 50.0 };
            let seen = Observation {
                weight: 1.0,
                latency: Some(latency),
                unloaded: self.knows_unloaded.then_some(1.0 / speed),
                ..Observation::default()
            };
            (id(i), Observation { arrivals: Some(arrivals), completions: Some(arrivals.min(*speed)), ..seen })
        });
        let seen = seen.collect();
        self.controller.step(1.0, &seen)
    }
}

#[test]
fn shares_come_to_follow_speed() {
    let mut fleet = Fleet::new(&[1.0, 2.0, 3.0, 4.0], 0.7);
    (0..300).for_each(|_| fleet.advance());
    let shares = fleet.shares();
    for (share, fair) in shares.iter().zip([0.1, 0.2, 0.3, 0.4]) {
        assert!((share / fair - 1.0).abs() < 0.12, "{shares:?}");
    }
    assert!((0..30).filter(|_| fleet.step()).count() <= 3, "it comes to rest");
}

#[test]
fn no_more_slots_move_than_the_budget_allows() {
    let mut fleet = Fleet::new(&[1.0, 2.0, 3.0, 4.0], 0.35);
    for _ in 0..60 {
        let before = fleet.shares();
        fleet.step();
        let moved: f64 = before.iter().zip(fleet.shares()).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
        // A step that was saved up may be published at once.
        assert!(moved < 0.01 + 0.04, "{moved}");
    }
}

#[test]
fn one_that_becomes_slow_is_relieved_within_seconds() {
    let mut fleet = Fleet::new(&[2.0; 8], 0.7);
    (0..60).for_each(|_| fleet.advance());
    fleet.speeds[3] = 0.5;
    (0..20).for_each(|_| fleet.advance());
    let load = fleet.load * fleet.shares()[3];
    assert!(load < 0.5, "{load} for one that can take 0.5");
}

#[test]
fn noise_moves_nothing() {
    let mut controller = Controller::default();
    let mut random = 7u64;
    let mut changes = 0;
    for _ in 0..300 {
        let mut noise = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 40) as f64 / f64::from(1 << 24)
        };
        let seen = (0..10).map(|i| {
            let latency = Some(0.010 * (1.0 + 0.2 * noise()));
            (id(i), Observation { weight: 1.0, latency, ..Observation::default() })
        });
        changes += usize::from(controller.step(1.0, &seen.collect()));
    }
    assert!(changes <= 2, "{changes}");
}

#[test]
fn reported_load_goes_before_latency_and_half_a_fleet_in_trouble_holds() {
    let mut controller = Controller::default();
    let seen = |loads: [f64; 3]| -> BTreeMap<BackendId, Observation> {
        let one = |load| Observation { weight: 1.0, load: Some(load), latency: Some(0.001), ..Observation::default() };
        loads.iter().enumerate().map(|(i, load)| (id(i), one(*load))).collect()
    };
    for _ in 0..120 {
        controller.step(1.0, &seen([0.9, 0.5, 0.5]));
    }
    let readings: Vec<_> = controller.readings().map(|(_, r)| r).collect();
    assert!(readings[0].factor.as_f64() < 0.6 && readings[0].act == Act::Lowered, "{readings:?}");
    assert!((readings[0].inflation - 10.0).abs() < 0.1 && readings[1].factor > Factor::ONE);

    let overloaded = |x: f64| Observation {
        latency: Some(x),
        unloaded: Some(0.01),
        arrivals: Some(10.0),
        completions: Some(5.0),
        weight: 1.0,
        ..Observation::default()
    };
    let mut controller = Controller::default();
    let seen: BTreeMap<_, _> = (0..5).map(|i| (id(i), overloaded(if i < 3 { 1.0 } else { 0.011 }))).collect();
    // The median is among the slow ones, so none of them stands out: weights can't help.
    controller.step(1.0, &seen);
    assert!(controller.readings().all(|(_, r)| r.act != Act::Relieved));
}

#[test]
fn strange_numbers_do_no_harm() {
    let mut controller = Controller::default();
    for strange in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        let one = Observation {
            weight: 1.0,
            latency: Some(strange),
            checks: strange,
            unloaded: Some(strange),
            load: Some(strange),
            arrivals: Some(0.0),
            completions: Some(0.0),
            stay: Some(strange),
            stays: strange,
        };
        let good = Observation { weight: 1.0, latency: Some(0.01), ..Observation::default() };
        controller.step(1.0, &[(id(0), one), (id(1), good)].into());
        assert!(controller.factors().values().all(|f| (100..=41_000).contains(&f.0)), "{strange}: {:?}", controller.factors());
    }
}

/// Two of four get more than they can do from the first moment that they are seen on: their luck is that two others say what is usual.
#[test]
fn who_was_never_seen_without_overload_is_relieved() {
    let mut fleet = Fleet::new(&[4.0, 2.0, 1.0, 1.0], 0.7);
    fleet.knows_unloaded = false;
    (0..60).for_each(|_| fleet.advance());
    let shares = fleet.shares();
    assert!(shares[2..].iter().all(|share| fleet.load * share < 1.0), "{shares:?}");
}

#[test]
fn the_factor_of_one_that_takes_no_new_flows_waits_for_it() {
    let mut controller = Controller::default();
    let one = |weight, latency| Observation { weight, latency: Some(latency), unloaded: Some(0.01), ..Observation::default() };
    for _ in 0..60 {
        controller.step(1.0, &[(id(0), one(1.0, 0.08)), (id(1), one(1.0, 0.02)), (id(2), one(1.0, 0.02))].into());
    }
    let slow = |c: &Controller| c.reading(&id(0)).unwrap();
    let before = slow(&controller).factor;
    assert!(before.as_f64() < 0.7, "{:?}", slow(&controller));
    for _ in 0..60 {
        controller.step(1.0, &[(id(0), one(0.0, 0.01)), (id(1), one(1.0, 0.02)), (id(2), one(1.0, 0.02))].into());
    }
    assert_eq!((slow(&controller).act, slow(&controller).factor), (Act::Out, before));
}

/// What waits in a backend's own queue is no matter of a check that goes before it: connections tell.
#[test]
fn connections_count_beside_checks_and_not_those_that_stay_for_long() {
    let factor = |stays: [f64; 3]| {
        let mut controller = Controller::default();
        let one = |stay| Observation { weight: 1.0, latency: Some(0.010), stay: Some(stay), stays: 20.0, ..Observation::default() };
        let step = |controller: &mut Controller, stays: [f64; 3]| {
            controller.step(1.0, &stays.iter().enumerate().map(|(i, stay)| (id(i), one(*stay))).collect());
        };
        (0..30).for_each(|_| step(&mut controller, stays));
        (0..60).for_each(|_| step(&mut controller, [stays[0] * 3.0, stays[1], stays[2]]));
        (controller.reading(&id(0)).unwrap(), controller.factors()[&id(1)])
    };
    let (slow, other) = factor([0.05, 0.02, 0.02]);
    assert!(slow.factor.as_f64() < 0.6 && slow.act == Act::Lowered && other > Factor::ONE, "{slow:?} {other:?}");
    assert!(slow.stay.is_some_and(|stay| (stay - 0.15).abs() < 0.001) && slow.stay_unloaded.is_some_and(|u| u < 0.06), "{slow:?}");
    let (long, other) = factor([50.0, 20.0, 20.0]);
    assert_eq!((long.factor, long.act, long.stay, other), (Factor::ONE, Act::Even, None, Factor::ONE));
}
