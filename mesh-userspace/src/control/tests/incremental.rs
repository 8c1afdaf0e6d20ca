//! What is planned in steps is what is planned at once.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    control::{roll::Roll, stale::Stale},
    weights::Factor,
};

const THREE: &str = "
services:
  - {name: api, vip: '192.0.2.10:81', health: none, backends: [10.0.0.1, 10.0.0.2]}
  - {name: dns, vip: '192.0.2.10:53', protocol: udp, health: none, backends_file: /b.yaml}
  - {name: own, vip: '192.0.2.10:82', health: none, heartbeat: {ttl: 10s, register: true}, backends: [10.0.0.1, 10.0.0.2]}
  - {name: web, vip: '192.0.2.10:80', mode: nat, weights: {by: latency}, backends: [10.0.0.1, 10.0.0.2, 10.0.0.3]}
";

const SERVICES: [&str; 4] = ["api", "dns", "own", "web"];

/// One thing that happens: what, to which service, to which backend, how much.
type Event = (u8, usize, u8, u16);

fn happens(bench: &mut Bench, (what, service, backend, amount): Event) {
    let service = name(SERVICES[service]);
    let port = bench.core.services().get(&service).map_or(80, |m| m.spec.vip.port);
    let id = id(&format!("10.0.0.{backend}:{port}"));
    let health = [Health::Up, Health::Down, Health::Soft][usize::from(amount % 3)];
    let (core, now) = (&mut bench.core, bench.now);
    // What is refused changes nothing; that is part of what is tested.
    match what {
        0 => drop(bench.health(service.as_str(), &id.to_string(), health)),
        1 => drop(core.set_weight(&service, id, amount)),
        2 => drop(core.set_admin(&service, id, if amount % 2 == 0 { Admin::Drain } else { Admin::In })),
        3 => {
            let limit = if amount % 2 == 0 { r#", "max_connection_rate": 9"# } else { "" };
            drop(core.add_backend(&service, &spec(&format!(r#"{{"address": "{}"{limit}}}"#, id.0.ip()))));
        }
        4 => drop(core.remove_backend(&service, id)),
        5 => drop(core.discovered(&name("dns"), Update::Reset(vec![Endpoint::new(id, Weight(amount))]))),
        6 => drop(core.beat(&name("own"), id, &spec("{}"), now)),
        7 => drop(core.leave(&name("own"), id)),
        8 => {
            let factors = [(id, Factor::of(f64::from(amount % 8) / 4.0))];
            core.set_dynamic(&[(service, factors.into())].into());
        }
        9 => drop(core.remove_service(&service)),
        10 => drop(core.add_service(spec(r#"{"name": "api", "vip": "192.0.2.10:81", "health": "none"}"#))),
        11 => {
            bench.now += Duration::from_millis(u64::from(amount));
            bench.core.expire(bench.now);
        }
        _ => drop(bench.replan()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_in_steps_is_the_plan_of_all(events in vec((0u8..14, 0usize..4, 1u8..5, any::<u16>()), 1..40)) {
        let mut bench = Bench::new(THREE, State::default());
        for event in events {
            happens(&mut bench, event);
            if event.0 % 3 == 0 {
                continue;
            }
            bench.replan();
            let (in_steps, now) = (bench.core.plan().clone(), bench.now);
            bench.core.stale = Stale::All;
            bench.core.replan(1, now);
            prop_assert_eq!(&in_steps, bench.core.plan(), "after {:?}", event);
            prop_assert_eq!(bench.core.roll(), &Roll::of(bench.core.services()), "after {:?}", event);
        }
    }
}

#[test]
fn who_has_not_changed_is_the_very_same_in_the_next_plan() {
    let mut bench = Bench::new(THREE, State::default());
    let before = bench.core.plan().clone();
    bench.core.set_weight(&name("api"), id("10.0.0.1:81"), 3).unwrap();
    bench.health("web", "10.0.0.1:80", Health::Up);
    bench.replan();
    let same = before.services.iter().zip(&bench.core.plan().services).map(|(a, b)| std::sync::Arc::ptr_eq(a, b));
    assert_eq!(same.collect::<Vec<_>>(), [false, true, true, false]);
}

#[test]
fn others_are_told_only_what_may_be_news() {
    let mut bench = Bench::new(THREE, State::default());
    assert!(bench.core.news_wanted().is_some() && bench.core.news_wanted().is_none());
    bench.core.set_weight(&name("api"), id("10.0.0.1:81"), 3).unwrap();
    assert!(bench.core.news_wanted().is_none(), "no check has to know of it");
    bench.core.set_weight(&name("web"), id("10.0.0.1:80"), 3).unwrap();
    assert!(bench.core.news_wanted().is_some_and(|wanted| wanted.checks.values().any(|check| check.weight == 3)));
    bench.core.add_backend(&name("api"), &spec(r#"{"address": "10.0.0.9"}"#)).unwrap();
    assert!(bench.core.news_wanted().is_some_and(|wanted| wanted.next_hops.contains(&IpAddr::from([10, 0, 0, 9]))));
}
