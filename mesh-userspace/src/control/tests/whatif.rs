//! What a plan says, and what comes of it.

use super::*;
use crate::{control::Intention, plan::KeptBy};

const SHOP: &str = "
services:
  - name: web
    vip: 192.0.2.10:80
    health: none
    backends: [{address: 10.0.0.1, weight: 2, capacity: 60}, 10.0.0.2, 10.0.0.3, {address: 10.0.0.4, capacity: 40}]
  - {name: direct, vip: '192.0.2.10:81', mode: dsr, backends: [10.0.0.1, 10.0.0.2, 10.0.0.3], health: none}
";

fn intention(json: &str) -> Intention<BackendId> {
    spec(json)
}

fn bench() -> Bench {
    let mut bench = Bench::new(SHOP, State::default());
    let vip = bench.core.services()[&name("web")].spec.vip;
    let flows = [("10.0.0.1:80", 50), ("10.0.0.2:80", 25), ("10.0.0.3:80", 25), ("10.0.0.4:80", 20)];
    bench.core.set_live(flows.map(|(b, n)| ((vip, id(b)), n)).into());
    bench
}

/// Plans, then does it: both must tell the same numbers.
fn compared(bench: &mut Bench, json: &str) -> crate::control::PlanView {
    let planned = bench.core.what_if(intention(json), 1, bench.now).unwrap();
    match intention(json) {
        Intention::Add { service, backend } => drop(bench.core.add_backend(&service, &backend).unwrap()),
        Intention::Rm { service, backend } => bench.core.remove_backend(&service, backend).unwrap(),
        Intention::Drain { service, backend } => drop(bench.core.set_admin(&service, backend, Admin::Drain).unwrap()),
        Intention::Undrain { service, backend } => drop(bench.core.set_admin(&service, backend, Admin::In).unwrap()),
        Intention::Weight { service, backend, weight } => bench.core.set_weight(&service, backend, weight).unwrap(),
        Intention::Apply { text, .. } => drop(bench.core.reload(config(&text)).unwrap()),
    }
    let told: Vec<_> = bench.core.replan(1, bench.now).into_iter().filter(|e| matches!(e, What::SlotsMoved { .. })).collect();
    let expected: Vec<_> = planned.services.iter().filter(|p| !p.is_still()).cloned().map(What::moved).collect();
    assert_eq!(told, expected, "{json}");
    assert!(!told.is_empty(), "{json}");
    planned
}

#[test]
fn every_plan_is_what_comes_of_it() {
    let mut bench = bench();
    for json in [
        r#"{"change": "drain", "service": "web", "backend": "10.0.0.2:80"}"#,
        r#"{"change": "undrain", "service": "web", "backend": "10.0.0.2:80"}"#,
        r#"{"change": "add", "service": "web", "backend": {"address": "10.0.0.9", "weight": 3}}"#,
        r#"{"change": "weight", "service": "web", "backend": "10.0.0.1:80", "weight": 1}"#,
        r#"{"change": "rm", "service": "direct", "backend": "10.0.0.2:81"}"#,
        r#"{"change": "rm", "service": "web", "backend": "10.0.0.3:80"}"#,
        r#"{"change": "weight", "service": "web", "backend": "10.0.0.4:80", "weight": 0}"#,
    ] {
        compared(&mut bench, json);
    }
    let text = SHOP.replace("10.0.0.2, 10.0.0.3], health", "10.0.0.2], health").replace("- {name: direct", "- {name: other");
    let apply = serde_json::json!({ "change": "apply", "file": "/lb.yaml", "text": text }).to_string();
    let planned = compared(&mut bench, &apply);
    let names: Vec<_> = planned.services.iter().map(|s| s.service.as_str()).collect();
    assert_eq!(names, ["direct", "other"]);
}

#[test]
fn a_drain_is_told_with_its_flows_and_who_gets_too_many() {
    let mut bench = bench();
    let planned = compared(&mut bench, r#"{"change": "drain", "service": "web", "backend": "10.0.0.2:80"}"#);
    let web = &planned.services[0];
    let gone = web.backends.iter().find(|b| b.id == id("10.0.0.2:80")).unwrap();
    assert_eq!((web.moved, gone.after.unwrap().slots), (gone.before.unwrap().slots, 0));
    assert!(web.secondaries > 0);
    assert_eq!((web.flows.live, web.flows.kept, web.flows.lost, web.flows.lost_share), (Some(120), Some(120), Some(0), 0.0));
    // 120 flows over weights 2, 1 and 1: half of them on a backend that can carry 60, give or take the slack of the table.
    let first = web.backends.iter().find(|b| b.id == id("10.0.0.1:80")).unwrap();
    assert!((58..=62).contains(&first.expected_flows.unwrap()), "{first:?}");
    assert_eq!(web.over_capacity.contains(&first.id), first.expected_flows.unwrap() > 60);

    let removed = bench.core.what_if(intention(r#"{"change": "rm", "service": "web", "backend": "10.0.0.1:80"}"#), 1, bench.now).unwrap();
    assert_eq!((removed.flows_kept, removed.flows_lost), (120, 0), "translated flows stay to their end");
    assert_eq!(removed.services[0].over_capacity, [id("10.0.0.4:80")]);
}

#[test]
fn without_entries_the_ledger_keeps_flows_and_what_it_cannot_keep_is_told() {
    let mut bench = bench();
    let planned = compared(&mut bench, r#"{"change": "drain", "service": "direct", "backend": "10.0.0.2:81"}"#);
    let direct = &planned.services[0];
    assert_eq!((direct.flows.live, direct.flows.lost_share, direct.flows.kept_by), (None, 0.0, Some(KeptBy::Ledger)));
    assert!((0.3..0.4).contains(&direct.moved_share));
    let resized = SHOP.replace("mode: dsr,", "mode: dsr, slots: 4096,");
    let apply = serde_json::json!({ "change": "apply", "file": "/lb.yaml", "text": resized }).to_string();
    let planned = compared(&mut bench, &apply);
    let direct = &planned.services[0];
    assert_eq!((direct.flows.lost_share, direct.flows.kept_by), (direct.moved_share, None));
}

#[test]
fn datagrams_that_a_scheduler_chooses_anew_are_told() {
    let text = SHOP.replace("mode: dsr,", "mode: dsr, protocol: udp,");
    let mut bench = Bench::new(&text, State::default());
    bench.replan();
    let apply = |text: &str| serde_json::json!({ "change": "apply", "file": "/lb.yaml", "text": text }).to_string();
    let lost = |bench: &mut Bench, text: &str| {
        let planned = bench.core.what_if(intention(&apply(text)), 1, bench.now).unwrap();
        planned.services.iter().find(|s| s.service.as_str() == "direct").map(|s| s.flows.lost_share)
    };
    let random = text.replace("mode: dsr,", "mode: dsr, scheduler: random,");
    let share = lost(&mut bench, &random).unwrap();
    assert!((0.66..0.67).contains(&share), "{share}");
    assert_eq!(lost(&mut bench, &text.replace("mode: dsr,", "mode: dsr, scheduler: maglev,")), Some(0.0));
}

#[test]
fn a_service_that_goes_takes_its_flows_along() {
    let mut bench = bench();
    let text = "services:\n  - {name: direct, vip: '192.0.2.10:81', mode: dsr, backends: [10.0.0.1, 10.0.0.2, 10.0.0.3], health: none}\n";
    let apply = serde_json::json!({ "change": "apply", "file": "/lb.yaml", "text": text }).to_string();
    let planned = compared(&mut bench, &apply);
    assert_eq!((planned.flows_lost, planned.moved_share, planned.services[0].no_backends), (120, 1.0, true));
}

#[test]
fn thinking_changes_nothing_and_what_cannot_be_is_refused() {
    let mut bench = bench();
    let (plan, state) = (bench.core.plan().clone(), bench.core.state().clone());
    for (json, code) in [
        (r#"{"change": "drain", "service": "none", "backend": "10.0.0.2:80"}"#, "not_found"),
        (r#"{"change": "add", "service": "web", "backend": {"address": "10.0.0.1"}}"#, "conflict"),
        (r#"{"change": "apply", "file": "/lb.yaml", "text": "services: 7"}"#, "invalid"),
        (r#"{"change": "apply", "file": "/lb.ini", "text": ""}"#, "invalid"),
    ] {
        let error = bench.core.what_if(intention(json), 1, bench.now).unwrap_err();
        assert_eq!(serde_json::to_value(&error).unwrap()["error"], code, "{error}");
    }
    let adds = r#"{"change": "add", "service": "web", "backend": {"address": "10.0.0.7"}}"#;
    bench.core.what_if(intention(adds), 1, bench.now).unwrap();
    assert_eq!((bench.core.plan(), bench.core.state()), (&plan, &state));
    assert_eq!(bench.core.replan(1, bench.now), []);
}

#[test]
fn who_is_new_is_taken_to_be_healthy() {
    let mut bench = Bench::new(TWO, State::default());
    for backend in ["10.0.0.1:80", "10.0.0.2:80"] {
        bench.health("web", backend, Health::Up);
    }
    bench.replan();
    let add = intention(r#"{"change": "add", "service": "web", "backend": {"address": "10.0.0.3"}}"#);
    let planned = bench.core.what_if(add, 1, bench.now).unwrap();
    assert_eq!(planned.assumed, ["web: backend 10.0.0.3:80 is healthy"]);
    assert!((0.3..0.7).contains(&planned.moved_share), "{planned:?}");
}
