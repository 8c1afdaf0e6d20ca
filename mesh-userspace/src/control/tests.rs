//! The core by itself: inputs in, what is wanted and planned out.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    ControlError, Core,
    view::{Admin, StateWord},
};
use crate::{
    config::{self, Config, placed::Syntax},
    discovery::Update,
    events::What,
    health::{Evidence, Health, HealthEvent, TargetKey},
    model::{BackendId, BackendState, Endpoint, ServiceName, Weight},
    plan::Standing,
    state::State,
};

const TWO: &str = "
services:
  - {name: web, vip: '192.0.2.10:80', announce: {address: eth0}, backends: [10.0.0.1, 10.0.0.2]}
  - {name: dns, vip: '192.0.2.10:53', protocol: udp, health: none, backends_file: /b.yaml}
";

fn config(text: &str) -> Config {
    config::parse(text, Syntax::Yaml, Path::new("/lb.yaml")).unwrap_or_else(|e| panic!("{e}")).config
}

fn name(s: &str) -> ServiceName {
    s.parse().unwrap()
}

fn id(s: &str) -> BackendId {
    BackendId(s.parse().unwrap())
}

fn spec<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap()
}

struct Bench {
    core: Core,
    now: Instant,
}

impl Bench {
    fn new(text: &str, state: State) -> Self {
        let (core, events) = Core::new(config(text), state);
        assert_eq!(events, []);
        let mut bench = Self { core, now: Instant::now() };
        bench.replan();
        bench
    }

    /// What happened, but for how many slots moved.
    fn replan(&mut self) -> Vec<What> {
        let events = self.core.replan(1, self.now).into_iter();
        events.filter(|e| !matches!(e, What::SlotsMoved { .. })).collect()
    }

    fn health(&mut self, service: &str, backend: &str, health: Health) -> bool {
        let evidence = Evidence {
            consecutive: 3,
            passed: health != Health::Down,
            rtt: None,
            error: (health == Health::Down).then(|| "refused".into()),
            signals: None,
            votes: None,
        };
        let key = TargetKey { service: name(service), backend: id(backend) };
        self.core.health(HealthEvent { key, health, evidence }, self.now)
    }

    /// Standing and slots of each backend of a service, by the current plan.
    fn standing(&self, service: &str) -> Vec<(String, Standing, bool)> {
        let Some(plan) = self.core.plan().services.iter().find(|s| s.name == name(service)) else { return Vec::new() };
        let counts = plan.table.counts(plan.members.len());
        plan.members.iter().zip(counts).map(|(m, slots)| (m.id.to_string(), m.standing, slots > 0)).collect()
    }
}

fn expect(bench: &Bench, service: &str, rows: &[(&str, Standing, bool)]) {
    let rows: Vec<_> = rows.iter().map(|(id, standing, slots)| ((*id).to_owned(), *standing, *slots)).collect();
    assert_eq!(bench.standing(service), rows);
}

#[test]
fn who_was_never_checked_gets_nothing() {
    let mut bench = Bench::new(TWO, State::default());
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Unchecked, false), ("10.0.0.2:80", Standing::Unchecked, false)]);
    assert!(bench.health("web", "10.0.0.1:80", Health::Up));
    let events = bench.replan();
    let up = |e: &What| matches!(e, What::BackendState { from: StateWord::Unknown, to: StateWord::Active, evidence, .. } if evidence == "3 in a row");
    assert!(events.iter().any(up), "{events:?}");
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Serving, true), ("10.0.0.2:80", Standing::Unchecked, false)]);
}

#[test]
fn who_fails_leaves_and_who_recovers_comes_back() {
    let mut bench = Bench::new(TWO, State::default());
    for backend in ["10.0.0.1:80", "10.0.0.2:80"] {
        bench.health("web", backend, Health::Up);
    }
    bench.replan();
    bench.health("web", "10.0.0.1:80", Health::Down);
    let events = bench.replan();
    assert!(
        matches!(&events[..], [What::BackendState { to: StateWord::Down, evidence, .. }] if evidence.contains("refused")),
        "{events:?}"
    );
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Unhealthy, false), ("10.0.0.2:80", Standing::Serving, true)]);

    bench.health("web", "10.0.0.2:80", Health::Down);
    assert!(bench.replan().contains(&What::ServiceWithoutBackends { service: name("web") }));

    bench.health("web", "10.0.0.1:80", Health::Up);
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Recovering, true), ("10.0.0.2:80", Standing::Unhealthy, false)]);
    assert!(bench.core.plan().replan_at.is_some());
    bench.now += Duration::from_secs(60);
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Serving, true), ("10.0.0.2:80", Standing::Unhealthy, false)]);
}

#[test]
fn what_was_published_holds_after_a_restart() {
    let mut bench = Bench::new(TWO, State::default());
    let vip = bench.core.services()[&name("web")].spec.vip;
    bench.core.adopt(&[(
        vip,
        vec![(id("10.0.0.1:80"), BackendState::Active), (id("10.0.0.2:80"), BackendState::Down), (id("10.0.0.9:80"), BackendState::Active)],
    )]);
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Serving, true), ("10.0.0.2:80", Standing::Unhealthy, false)]);
    let seeds = bench.core.wanted().seeds;
    assert_eq!(seeds.values().copied().collect::<Vec<_>>(), [Health::Up, Health::Down]);
    assert!(bench.core.wanted().seeds.is_empty(), "seeds are told once");
}

#[test]
fn the_rest_of_the_system_is_told_what_to_do() {
    let mut bench = Bench::new(TWO, State::default());
    bench.core.discovered(&name("dns"), Update::Reset(vec![Endpoint::new(id("10.0.0.3:53"), Weight::ONE)]));
    let wanted = bench.core.wanted();
    assert_eq!(wanted.checks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["web 10.0.0.1:80", "web 10.0.0.2:80"]);
    let addrs: Vec<IpAddr> = [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n])).to_vec();
    assert_eq!(wanted.next_hops.into_iter().collect::<Vec<_>>(), addrs);
    assert_eq!(wanted.announce, [("192.0.2.10".parse().unwrap(), "eth0".to_owned())].into());
    assert_eq!(wanted.files, BTreeMap::from([(name("dns"), "/b.yaml".into())]));
}

#[test]
fn files_add_and_take_backends() {
    let mut bench = Bench::new(TWO, State::default());
    let endpoint = |s: &str| Endpoint::new(id(s), Weight::ONE);
    assert!(bench.core.discovered(&name("dns"), Update::Reset(vec![endpoint("10.0.0.3:53"), endpoint("10.0.0.4:53")])));
    assert!(!bench.core.discovered(&name("dns"), Update::Remove(vec![id("10.0.0.9:53")])));
    bench.replan();
    expect(&bench, "dns", &[("10.0.0.3:53", Standing::Serving, true), ("10.0.0.4:53", Standing::Serving, true)]);
    assert!(bench.core.discovered(&name("dns"), Update::Gone));
    let events = bench.replan();
    assert!(events.contains(&What::ServiceWithoutBackends { service: name("dns") }), "{events:?}");
}

#[test]
fn a_drained_backend_keeps_old_flows_only() {
    let mut bench = Bench::new(TWO, State::default());
    for backend in ["10.0.0.1:80", "10.0.0.2:80"] {
        bench.health("web", backend, Health::Up);
    }
    bench.replan();
    assert!(bench.core.set_admin(&name("web"), id("10.0.0.1:80"), Admin::Drain).unwrap().is_some());
    assert!(bench.core.set_admin(&name("web"), id("10.0.0.1:80"), Admin::Drain).unwrap().is_none(), "no news");
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Draining, false), ("10.0.0.2:80", Standing::Serving, true)]);
    bench.core.set_admin(&name("web"), id("10.0.0.1:80"), Admin::In).unwrap();
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Serving, true), ("10.0.0.2:80", Standing::Serving, true)]);
    assert_eq!(bench.core.state(), &State::default(), "nothing is left to remember");
}

#[test]
fn what_the_operator_did_survives_restart_and_reload() {
    let mut bench = Bench::new(TWO, State::default());
    let core = &mut bench.core;
    core.remove_backend(&name("web"), id("10.0.0.1:80")).unwrap();
    core.set_weight(&name("web"), id("10.0.0.2:80"), 7).unwrap();
    core.add_backend(&name("web"), &spec(r#"{"address": "10.0.0.3", "weight": 5, "name": "three"}"#)).unwrap();
    core.remove_service(&name("dns")).unwrap();
    core.add_service(spec(r#"{"name": "api", "vip": "192.0.2.11:80", "health": "none", "backends": ["10.0.0.4"]}"#)).unwrap();
    let weights = |core: &Core| {
        let plan = core.plan();
        let all = plan.services.iter().flat_map(|s| s.members.iter().map(move |m| format!("{} {} {}", s.name, m.id, m.configured.0)));
        all.collect::<Vec<_>>()
    };
    let expected = ["api 10.0.0.4:80 1", "web 10.0.0.2:80 7", "web 10.0.0.3:80 5"];
    bench.replan();
    assert_eq!(weights(&bench.core), expected);

    let saved = serde_json::to_string(bench.core.state()).unwrap();
    let restarted = Bench::new(TWO, serde_json::from_str(&saved).unwrap());
    assert_eq!(weights(&restarted.core), expected);

    assert_eq!(bench.core.reload(config(TWO)), Ok(false));
    bench.replan();
    assert_eq!(weights(&bench.core), expected);

    let core = &mut bench.core;
    core.add_backend(&name("web"), &spec(r#"{"address": "10.0.0.1"}"#)).unwrap();
    core.add_service(spec(r#"{"name": "dns", "vip": "192.0.2.10:53", "protocol": "udp", "health": "none"}"#)).unwrap();
    assert!(core.services()[&name("dns")].service.backends_file.is_some(), "as the configuration has it");
}

#[test]
fn orders_that_cannot_be_are_refused_and_change_nothing() {
    let mut bench = Bench::new(&format!("{TWO}limits: {{services: 2, backends: 16}}\n"), State::default());
    let core = &mut bench.core;
    let (web, none) = (name("web"), name("none"));
    let first = id("10.0.0.1:80");
    type Check = fn(&ControlError) -> bool;
    let (missing, conflict, invalid, full): (Check, Check, Check, Check) = (
        |e| matches!(e, ControlError::NotFound(_)),
        |e| matches!(e, ControlError::Conflict(_)),
        |e| matches!(e, ControlError::Invalid(_)),
        |e| matches!(e, ControlError::Unavailable(_)),
    );
    let service = |json: &str| format!(r#"{{"health": "none", {json}}}"#);
    let rows: Vec<(Result<(), ControlError>, Check)> = vec![
        (core.remove_service(&none), missing),
        (core.remove_backend(&none, first), missing),
        (core.remove_backend(&web, id("10.0.0.9:80")), missing),
        (core.set_admin(&web, id("10.0.0.9:80"), Admin::Drain).map(drop), missing),
        (core.set_weight(&none, first, 1), missing),
        (core.add_backend(&none, &spec(r#"{"address": "10.0.0.9"}"#)).map(drop), missing),
        (core.add_backend(&web, &spec(r#"{"address": "10.0.0.1"}"#)).map(drop), conflict),
        (core.add_backend(&web, &spec(r#"{"address": "2001:db8::1"}"#)).map(drop), invalid),
        (core.add_backend(&web, &spec(r#"{"address": "10.0.0.9", "weight": 65536}"#)).map(drop), invalid),
        (core.add_service(spec(&service(r#""name": "web", "vip": "192.0.2.12:80""#))).map(drop), conflict),
        (core.add_service(spec(&service(r#""name": "new", "vip": "192.0.2.10:80""#))).map(drop), conflict),
        (core.add_service(spec(&service(r#""name": "a b", "vip": "192.0.2.12:80""#))).map(drop), invalid),
        (core.add_service(spec(&service(r#""name": "new", "vip": "192.0.2.12:80""#))).map(drop), full),
    ];
    for (i, (result, check)) in rows.into_iter().enumerate() {
        let error = result.expect_err(&format!("row {i}"));
        assert!(check(&error), "row {i}: {error:?}");
    }
    assert_eq!(core.state(), &State::default());
}

#[test]
fn a_reload_that_contradicts_the_operator_is_refused() {
    let mut bench = Bench::new(TWO, State::default());
    bench.core.add_service(spec(r#"{"name": "api", "vip": "192.0.2.11:80", "health": "none", "backends": ["10.0.0.4"]}"#)).unwrap();
    let clash = format!("{TWO}  - {{name: other, vip: '192.0.2.11:80', backends: [10.0.0.5]}}\n");
    let error = bench.core.reload(config(&clash)).unwrap_err();
    assert!(error.contains("`other`") && error.contains("`api`"), "{error}");
    assert!(bench.core.services().contains_key(&name("api")) && !bench.core.services().contains_key(&name("other")));

    // At a start there is nothing to keep: the configuration counts, and the addition waits.
    let (core, events) = Core::new(config(&clash), bench.core.state().clone());
    assert!(core.services().contains_key(&name("other")) && !core.services().contains_key(&name("api")));
    assert!(matches!(&events[..], [What::StateFailed { error }] if error.contains("api")), "{events:?}");
}

#[test]
fn who_is_gone_has_to_show_anew_that_it_lives() {
    let mut bench = Bench::new(TWO, State::default());
    bench.health("web", "10.0.0.1:80", Health::Up);
    bench.core.remove_backend(&name("web"), id("10.0.0.1:80")).unwrap();
    assert!(!bench.health("web", "10.0.0.1:80", Health::Up), "nobody wants to know");
    bench.core.add_backend(&name("web"), &spec(r#"{"address": "10.0.0.1"}"#)).unwrap();
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Unchecked, false), ("10.0.0.2:80", Standing::Unchecked, false)]);
}

#[test]
fn a_first_heartbeat_does_not_empty_the_table() {
    let unchecked = TWO.replace("announce: {address: eth0}", "health: none");
    let mut bench = Bench::new(&unchecked, State::default());
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Serving, true), ("10.0.0.2:80", Standing::Serving, true)]);
    assert_eq!(bench.core.reload(config(TWO)), Ok(true));
    assert!(bench.core.wanted().seeds.values().all(|h| *h == Health::Up));
    bench.replan();
    expect(&bench, "web", &[("10.0.0.1:80", Standing::Serving, true), ("10.0.0.2:80", Standing::Serving, true)]);
}

mod drains;
mod incremental;
mod sources;
mod whatif;
