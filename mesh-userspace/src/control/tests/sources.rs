//! Services whose backends are found by sources.

use super::*;
use crate::{discovery::SourceKey, state::Presence};

const FOUND: &str = "
services:
  - name: web
    vip: 192.0.2.10:80
    backends: [10.0.0.1]
    sources: [{type: dns, name: a.test}, {type: etcd, prefix: /web/}]
";

fn key(source: &str) -> SourceKey {
    SourceKey { service: name("web"), source: source.to_owned() }
}

fn endpoint(s: &str, weight: u16, drain: bool) -> Endpoint {
    Endpoint { drain, ..Endpoint::new(id(s), Weight(weight)) }
}

fn backends(bench: &Bench) -> Vec<(String, u16)> {
    bench.core.services()[&name("web")].endpoints.iter().map(|e| (e.id.to_string(), e.weight.0)).collect()
}

#[test]
fn one_service_mixes_sources() {
    let mut bench = Bench::new(FOUND, State::default());
    assert_eq!(bench.core.wanted().sources.into_keys().collect::<Vec<_>>(), [key("dns a.test"), key("etcd /web/")]);
    let changed = bench.core.found(vec![
        (key("dns a.test"), Update::Reset(vec![endpoint("10.0.0.1:80", 9, false), endpoint("10.0.0.2:80", 2, false)])),
        (key("etcd /web/"), Update::Reset(vec![endpoint("10.0.0.3:80", 3, true), endpoint("[2001:db8::1]:80", 1, false)])),
    ]);
    assert!(changed);
    // The configuration's own word goes first, and what does not fit the service stays out.
    let row = |id: &str, weight| (id.to_owned(), weight);
    assert_eq!(backends(&bench), [row("10.0.0.1:80", 1), row("10.0.0.2:80", 2), row("10.0.0.3:80", 3)]);
    assert_eq!(bench.core.services()[&name("web")].admin(&id("10.0.0.3:80")), Admin::Drain);
    // A source that goes takes only what it alone named.
    assert!(bench.core.found(vec![(key("dns a.test"), Update::Gone)]));
    assert_eq!(backends(&bench), [row("10.0.0.1:80", 1), row("10.0.0.3:80", 3)]);
    let other = FOUND.replace(", {type: etcd, prefix: /web/}", "");
    bench.core.reload(config(&other)).unwrap();
    assert_eq!(backends(&bench), [row("10.0.0.1:80", 1)]);
    assert_eq!(bench.core.endpoints_found().len(), 1, "what nobody asks for is forgotten");
}

#[test]
fn what_the_operator_removed_stays_removed_and_what_was_published_holds() {
    let mut bench = Bench::new(FOUND, State::default());
    let vip = bench.core.services()[&name("web")].spec.vip;
    bench.core.adopt(&[(vip, vec![(id("10.0.0.2:80"), BackendState::Active), (id("10.0.0.3:80"), BackendState::Down)])]);
    let all = vec![endpoint("10.0.0.2:80", 1, false), endpoint("10.0.0.3:80", 1, false), endpoint("10.0.0.4:80", 1, false)];
    bench.core.found(vec![(key("dns a.test"), Update::Reset(all.clone()))]);
    bench.replan();
    expect(
        &bench,
        "web",
        &[
            ("10.0.0.1:80", Standing::Unchecked, false),
            ("10.0.0.2:80", Standing::Serving, true),
            ("10.0.0.3:80", Standing::Unhealthy, false),
            ("10.0.0.4:80", Standing::Unchecked, false),
        ],
    );
    bench.core.remove_backend(&name("web"), id("10.0.0.2:80")).unwrap();
    bench.core.found(vec![(key("dns a.test"), Update::Reset(all[1..].to_vec())), (key("dns a.test"), Update::Reset(all))]);
    assert!(!bench.core.services()[&name("web")].has(&id("10.0.0.2:80")));
    assert_eq!(bench.core.state().backends[&name("web")][&id("10.0.0.2:80")].presence, Presence::Removed);
}
