use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Traffic, register::Register, target::Target};
use crate::{
    health::{
        Check, CheckKind, Health, Sample, TargetKey, Verdict, Word,
        breaker::Counted,
        detector::{Detection, PhiRules, Pulse, PulseKind},
        judge::Beat,
    },
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

/// Targets on hosts of their own, up, that several channels speak of.
fn doubtful(hosts: &[u8], now: Instant) -> (Register, Vec<u64>) {
    let mut r = Register::default();
    let target = |host: &u8| {
        let address = ([127, 0, 0, *host], 80).into();
        let pulse = Pulse { kind: PulseKind::Syn, address, source: None, tag: 0, interval: Duration::from_millis(10) };
        let detection = Detection::Phi(PhiRules { pulse: Some(pulse), ..PhiRules::default() });
        let check = Check { rise: 1, fall: 1, detection, ..Check::new(CheckKind::Tcp, address) };
        (TargetKey { service: "web".parse().unwrap(), backend: BackendId(address) }, check)
    };
    r.set_targets(hosts.iter().map(target).collect(), now);
    let ids = r.take_arrivals();
    ids.iter().for_each(|id| assert!(r.record(*id, passed(), false, now)));
    (r, ids)
}

#[test]
fn flows_that_fail_with_one_alone_speak_against_it() {
    let (service, now) = ("web".parse().unwrap(), Instant::now());
    let hints = |courses: [Counted; 3]| {
        let (mut r, _) = doubtful(&[1, 2, 3], now);
        let rows = |courses: [Counted; 3]| {
            let row = |(i, course): (usize, Counted)| Traffic {
                backend: BackendId(([127, 0, 0, i as u8 + 1], 80).into()),
                sent: 0,
                replied: 0,
                flows: 0,
                course,
            };
            courses.into_iter().enumerate().map(row).collect::<Vec<_>>()
        };
        r.traffic(&service, &rows([Counted::default(); 3]), now);
        r.traffic(&service, &rows(courses), now + Duration::from_secs(1));
        // A handshake has a second to end well.
        r.traffic(&service, &rows(courses), now + Duration::from_millis(2500));
        let hint = |t: &Target| t.judge.signals(now).hints > 0.0;
        r.targets.values().map(hint).collect::<Vec<_>>()
    };
    let good = Counted { flows: 100, replies: 500, drawn: 10, done: 10, ..Counted::default() };
    let resets = Counted { resets: 90, ..good };
    let lost = Counted { done: 1, ..good };
    assert_eq!(hints([good; 3]), [false; 3]);
    assert_eq!(hints([good, resets, good]), [false, true, false]);
    assert_eq!(hints([lost, good, good]), [true, false, false]);
    assert_eq!(hints([lost; 3]), [false; 3], "clients that never end a handshake do so with all");
    assert_eq!(hints([resets; 3]), [false; 3]);
    assert_eq!(hints([Counted { flows: 19, resets: 19, ..good }, good, good]), [false; 3], "too few to tell");
}

#[test]
fn who_hears_nobody_takes_nobody_out_for_a_while() {
    let now = Instant::now();
    let (mut r, ids) = doubtful(&[1, 2, 3, 4], now);
    let lost = || Sample::Failed { error: "no answer".into() };
    let down = |r: &Register| r.targets.values().filter(|t| t.judge.health() == Health::Down).count();
    ids.iter().for_each(|id| r.pulsed(*id, Beat::Lost, None, now));
    assert!(r.is_blind(now));
    ids.iter().for_each(|id| assert!(r.record(*id, lost(), false, now)));
    assert_eq!(down(&r), 0);
    // One answer, and what the others do counts again: at once what they say, and in a while that they say nothing.
    r.record(ids[0], passed(), false, now);
    r.record(ids[1], lost(), false, now);
    assert_eq!((r.is_blind(now), down(&r)), (false, 0));
    r.record(ids[1], lost(), true, now);
    r.spoke(ids[3], true);
    r.record(ids[3], lost(), false, now);
    assert_eq!(down(&r), 2);
    r.record(ids[0], lost(), false, now);
    r.record(ids[2], lost(), false, now);
    assert_eq!(down(&r), 3, "who answered since is known to be reached");
    let later = now + Duration::from_secs(2);
    r.record(ids[0], passed(), false, later);
    r.record(ids[2], lost(), false, later);
    assert_eq!(down(&r), 4);
    // In the end it is they after all.
    let (mut r, ids) = doubtful(&[1, 2, 3, 4], now);
    ids.iter().for_each(|id| r.pulsed(*id, Beat::Lost, None, now));
    let later = now + Duration::from_secs(11);
    ids.iter().for_each(|id| assert!(r.record(*id, lost(), false, later)));
    assert_eq!(down(&r), 4);
}

#[test]
fn the_first_to_be_missed_is_out_once_another_is_heard() {
    let t0 = Instant::now();
    let at = |ms| t0 + Duration::from_millis(ms);
    let (mut r, ids) = doubtful(&[1, 2, 3, 4, 5], t0);
    ids.iter().for_each(|id| (0..3).for_each(|_| r.pulsed(*id, Beat::Answered, None, t0)));
    let down = |r: &Register| r.targets.values().filter(|t| t.judge.health() == Health::Down).count();
    (1..4).for_each(|n| r.pulsed(ids[0], Beat::Lost, None, at(20 + 5 * n)));
    r.tried(ids[0], Sample::Failed { error: "no answer".into() }, false, at(80));
    assert_eq!(down(&r), 0, "the others may only be asked later");
    r.pulsed(ids[1], Beat::Answered, None, at(85));
    r.pulsed(ids[0], Beat::Lost, None, at(90));
    assert_eq!(down(&r), 1);
}

#[test]
fn silence_needs_votes_and_a_wrong_answer_needs_none() {
    let (mut r, t0) = (Register::default(), Instant::now());
    let peer: std::net::SocketAddr = ([192, 0, 2, 1], 7946).into();
    r.set_peers(2, Duration::from_millis(100), &[peer]);
    let check = |n: u8| Check { rise: 1, fall: 1, ..Check::new(CheckKind::Tcp, ([10, 0, 0, n], 80).into()) };
    let key = |n: u8| TargetKey { service: "web".parse().unwrap(), backend: BackendId(([10, 0, 0, n], 80).into()) };
    r.set_targets((1..=2).map(|n| (key(n), check(n))).collect(), t0);
    let ids = r.take_arrivals();
    let word = |n: u8, verdict| Word { service: "web".parse().unwrap(), backend: key(n).backend, verdict };
    for id in &ids {
        r.record(*id, Sample::Passed { rtt: Duration::ZERO }, false, t0);
    }
    let health = |r: &Register, n: u8| r.targets[&key(n)].judge.health();
    r.peer_said(peer, vec![word(1, Verdict::Up)], t0);
    assert!(r.words(t0).is_empty(), "nobody doubts anything");
    r.spoke(ids[0], false);
    r.record(ids[0], Sample::Failed { error: "no answer".into() }, false, t0);
    assert_eq!(health(&r, 1), Health::Up, "the other node sees it");
    assert_eq!(r.words(t0), [word(1, Verdict::Down)]);
    r.peer_said(peer, vec![word(1, Verdict::Soft), word(2, Verdict::Down), word(9, Verdict::Down)], t0);
    assert_eq!(health(&r, 1), Health::Down, "both are against it");
    assert_eq!(r.words(t0), [word(1, Verdict::Down), word(2, Verdict::Up)], "an answer to what the peer wants to know");
    assert_eq!(r.peers(t0)[0].doubts, 2, "what is no target of ours is not kept");
    r.peer_said(peer, vec![word(2, Verdict::Up)], t0);
    r.spoke(ids[1], true);
    r.record(ids[1], Sample::Failed { error: "status 503".into() }, false, t0);
    assert_eq!(health(&r, 2), Health::Down, "it said so itself");
}
