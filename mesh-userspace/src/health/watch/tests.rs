use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::register::Register;
use crate::{
    health::{Check, CheckKind, Health, Sample, TargetKey},
    model::BackendId,
};

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
    assert!(r.record(first[0], passed(), false, now) && r.record(first[1], passed(), false, now));

    let mut next = wanted(&[1, 2, 3]);
    next.get_mut(&key(2)).unwrap().fall = 5;
    r.set_targets(next, now);
    let second = r.take_arrivals();
    assert_eq!(second.len(), 2, "one changed, one new");
    assert!(r.record(first[0], failed(), false, now), "an unchanged target is still known by its id");
    assert!(!r.record(first[1], failed(), false, now), "the old check of a changed target is void");
    assert_eq!(r.targets[&key(2)].status(now).health, Health::Up);
    assert_eq!(r.targets[&key(3)].status(now).health, Health::Unknown);

    r.set_targets(wanted(&[3]), now);
    assert!(r.targets.len() == 1 && r.by_id.len() == 1);
    assert!(!r.record(first[0], passed(), false, now), "a target that went is forgotten");
}

#[test]
fn news_are_the_latest_of_each_target_in_order() {
    let (mut r, now) = (Register::default(), Instant::now());
    r.set_targets(wanted(&[1, 2, 3]), now);
    let ids = r.take_arrivals();
    for (i, sample) in [(1, passed()), (0, passed()), (2, passed()), (1, failed())] {
        r.record(ids[i], sample, false, now);
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
    r.record(ids[0], passed(), false, now);
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
    r.record(ids[1], failed(), false, now);
    r.seed([1, 2, 3].map(|p| (key(p), Health::Up)).into(), now);
    r.set_targets(wanted(&[1, 2, 3, 4]), now);
    let health = |p| r.targets[&key(p)].status(now).health;
    assert_eq!([1, 2, 3, 4].map(health), [Health::Up, Health::Down, Health::Up, Health::Unknown]);
}
