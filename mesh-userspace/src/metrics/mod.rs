//! What a snapshot says, in Prometheus' text format. Nothing is counted here: the kernel's counters and the daemon's are read at each scrape.

mod names;
mod page;
mod peers;

use std::collections::BTreeMap;

use mesh_common::abi::{self, Action, Reason};

use self::{
    names::{COUNTERS, GAUGES},
    page::{Labels, Page},
    peers::peers,
};
use crate::control::view::{BackendView, InterfaceView, ServiceView, Snapshot, SourceStateWord, SourceView, Status, Traffic};

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot as text.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::new(GAUGES, COUNTERS);
    node(&mut page, &snapshot.status);
    publications(&mut page, snapshot);
    snapshot.status.interfaces.iter().for_each(|i| interface(&mut page, i));
    snapshot.services.iter().for_each(|s| service(&mut page, s));
    snapshot.backends.iter().for_each(|b| backend(&mut page, b));
    snapshot.sources.iter().for_each(|s| source(&mut page, s));
    page.text()
}

fn node(page: &mut Page, status: &Status) {
    let none = &Labels::default();
    let abi = abi::VERSION.to_string();
    let info = Labels::of(&[("version", &status.version), ("abi", &abi), ("instance_name", &status.instance)]);
    page.gauge("mesh_build_info", &info, 1);
    page.gauge("mesh_start_time_seconds", none, seconds(status.started_ms, 1e3));
    page.gauge("mesh_ready", none, flag(status.readiness.ready));
    page.gauge("mesh_table_epoch", none, status.epoch.0 as f64);
    page.gauge("mesh_config_load_time_seconds", none, seconds(status.config.loaded_ms, 1e3));
    page.gauge("mesh_config_last_reload_successful", none, flag(status.config.error.is_none()));
    page.gauge("mesh_nat_flows", none, status.nat.flows.used as f64);
    page.gauge("mesh_nat_flows_limit", none, status.nat.flows.limit as f64);
    page.gauge("mesh_nat_half_open_flows", none, status.nat.half_open as f64);
    page.gauge("mesh_ledger_slots_moving", none, status.ledger.moving as f64);
    page.gauge("mesh_ledger_entries", none, status.ledger.entries.used as f64);
    page.gauge("mesh_ledger_entries_limit", none, status.ledger.entries.limit as f64);
    page.gauge("mesh_ledger_pending_entries", none, status.ledger.pending as f64);
    page.gauge("mesh_ledger_oldest_seconds", none, seconds(status.ledger.oldest_ms, 1e3));
    page.gauge("mesh_ledger_settle_longest_seconds", none, seconds(status.ledger.settle_longest_ms, 1e3));
    page.counter("mesh_ledger_settled_slots_total", none, status.ledger.settled);
    page.counter("mesh_ledger_settle_seconds_total", none, status.ledger.settle_ms / 1000);
    page.counter("mesh_ledger_remembered_total", none, status.ledger.remembered);
    page.counter("mesh_ledger_refused_total", none, status.ledger.refused);
    page.counter("mesh_ledger_elsewhere_packets_total", none, status.ledger.elsewhere);
    let scheduling = &status.scheduling;
    page.gauge("mesh_remembered_flows", none, scheduling.remembered.used as f64);
    page.gauge("mesh_remembered_flows_limit", none, scheduling.remembered.limit as f64);
    page.counter("mesh_scheduled_flows_total", none, scheduling.chosen);
    page.counter("mesh_affine_flows_total", none, scheduling.affine);
    page.counter("mesh_unremembered_flows_total", none, scheduling.full);
    page.counter("mesh_lost_flows_total", none, scheduling.lost);
    status.peers.iter().for_each(|p| peers(page, p));
    page.gauge("mesh_slots_used", none, status.slots.used as f64);
    page.gauge("mesh_slots_limit", none, status.slots.limit as f64);
    for (map, fill) in &status.maps {
        let labels = Labels::of(&[("map", map)]);
        page.gauge("mesh_map_entries", &labels, fill.used as f64);
        page.gauge("mesh_map_entries_limit", &labels, fill.limit as f64);
    }
    page.counter("mesh_received_packets_total", none, status.rx.packets);
    page.counter("mesh_received_bytes_total", none, status.rx.bytes);
    for reason in Reason::ALL {
        let labels = Labels::of(&[("reason", reason.name()), ("action", action(reason.action()))]);
        let traffic = status.reasons.get(reason.name()).copied().unwrap_or_default();
        count(page, "mesh_packets_total", "mesh_bytes_total", &labels, traffic);
    }
}

fn publications(page: &mut Page, snapshot: &Snapshot) {
    let (p, none) = (&snapshot.publications, &Labels::default());
    page.counter("mesh_publications_total", none, p.count);
    page.counter("mesh_publication_failures_total", none, p.failures);
    page.counter("mesh_map_repairs_total", none, p.repairs);
    page.counter("mesh_config_reloads_total", none, p.reloads);
    page.counter("mesh_config_reload_failures_total", none, p.reload_failures);
    page.counter("mesh_flow_log_lines_total", none, p.flows_logged);
    page.counter("mesh_flow_log_dropped_total", none, p.flows_dropped);
    page.counter("mesh_flow_log_lost_total", none, p.flows_lost);
    page.gauge("mesh_plan_duration_seconds", none, seconds(p.last_plan_us, 1e6));
    page.gauge("mesh_publish_duration_seconds", none, seconds(p.last_apply_us, 1e6));
}

fn interface(page: &mut Page, interface: &InterfaceView) {
    let labels = Labels::of(&[("interface", &interface.name), ("hook", &interface.hook)]);
    page.gauge("mesh_interface_attached", &labels, flag(!interface.hook.is_empty()));
}

fn service(page: &mut Page, service: &ServiceView) {
    let labels = Labels::of(&[("service", service.name.as_str())]);
    page.gauge("mesh_service_slots", &labels, service.slots);
    page.gauge("mesh_service_backends", &labels, service.backends);
    page.gauge("mesh_service_backends_taking", &labels, service.taking);
    page.gauge("mesh_service_live_flows", &labels, service.live_flows as f64);
    page.counter("mesh_service_flows_total", &labels, service.flows);
    let mut reasons: BTreeMap<&str, Traffic> = service.reasons.iter().map(|(name, t)| (name.as_str(), *t)).collect();
    reasons.insert(Reason::Forwarded.name(), service.forwarded);
    reasons.insert(Reason::Replied.name(), service.replied);
    for (reason, traffic) in reasons {
        count(page, "mesh_service_packets_total", "mesh_service_bytes_total", &labels.and("reason", reason), traffic);
    }
}

fn backend(page: &mut Page, backend: &BackendView) {
    let labels = Labels::of(&[("service", backend.service.as_str()), ("backend", &backend.id.to_string())]);
    let info = labels.and("name", backend.name.as_deref().unwrap_or_default());
    page.gauge("mesh_backend_info", &info.and("origin", &backend.origin.to_string()), 1);
    // Of ten thousand backends the states that they are not in would be a third of the page.
    page.gauge("mesh_backend_state", &labels.and("state", backend.state.name()), 1.0);
    page.gauge("mesh_backend_weight", &labels, backend.weight);
    page.gauge("mesh_backend_effective_weight", &labels, backend.effective_weight);
    page.gauge("mesh_backend_slots", &labels, backend.slots);
    page.gauge("mesh_backend_live_flows", &labels, backend.live_flows as f64);
    page.gauge("mesh_backend_next_hop_ready", &labels, flag(backend.next_hop.ready));
    page.counter("mesh_backend_flows_total", &labels, backend.flows);
    handshakes(page, backend, &labels);
    for (direction, traffic) in [("forwarded", backend.forwarded), ("replied", backend.replied)] {
        count(page, "mesh_backend_packets_total", "mesh_backend_bytes_total", &labels.and("direction", direction), traffic);
    }
    heartbeat(page, backend, &labels);
    guard(page, backend, &labels);
}

fn guard(page: &mut Page, backend: &BackendView, labels: &Labels) {
    if let Some(failures) = backend.breaker.as_ref().and_then(|b| b.reading.failures) {
        page.gauge("mesh_backend_failed_flows_ratio", labels, failures);
    }
    if let Some(limits) = &backend.limits {
        let all =
            [("mesh_backend_max_connections", limits.max_connections), ("mesh_backend_max_connection_rate", limits.max_connection_rate)];
        all.into_iter().for_each(|(name, limit)| limit.into_iter().for_each(|limit| page.gauge(name, labels, limit)));
    }
}

fn handshakes(page: &mut Page, backend: &BackendView, labels: &Labels) {
    for (from, resets) in [("client", backend.resets.client), ("backend", backend.resets.backend)] {
        page.counter("mesh_backend_resets_total", &labels.and("from", from), u64::from(resets));
    }
    let seen = &backend.handshakes;
    page.counter("mesh_backend_sampled_flows_total", labels, seen.sampled);
    page.counter("mesh_backend_syn_retransmits_total", labels, seen.syn_retransmits);
    for (step, times) in [("answer", &seen.answers), ("accept", &seen.accepts)] {
        page.counter("mesh_backend_handshakes_total", &labels.and("step", step), times.count);
        page.time("mesh_backend_handshake_seconds_total", &labels.and("step", step), times.total_us);
    }
}

fn source(page: &mut Page, source: &SourceView) {
    let labels = Labels::of(&[("service", source.service.as_str()), ("source", &source.source)]);
    page.gauge("mesh_source_live", &labels, flag(source.state == SourceStateWord::Live));
    page.gauge("mesh_source_backends", &labels, source.endpoints);
    if let Some(answered) = source.answered_ms {
        page.gauge("mesh_source_answer_time_seconds", &labels, seconds(answered, 1e3));
    }
    page.counter("mesh_source_updates_total", &labels, source.updates);
    page.counter("mesh_source_failures_total", &labels, source.failures);
}

fn heartbeat(page: &mut Page, backend: &BackendView, labels: &Labels) {
    let health = &backend.health;
    if health.health == "up" || health.health == "down" {
        page.gauge("mesh_backend_up", labels, flag(health.health == "up"));
    }
    if let Some(rtt) = health.rtt_us {
        page.gauge("mesh_backend_probe_rtt_seconds", labels, seconds(rtt, 1e6));
    }
    page.counter("mesh_backend_probes_total", labels, health.probes);
    page.counter("mesh_backend_probe_failures_total", labels, health.failures);
}

fn count(page: &mut Page, packets: &'static str, bytes: &'static str, labels: &Labels, traffic: Traffic) {
    page.counter(packets, labels, traffic.packets);
    page.counter(bytes, labels, traffic.bytes);
}

const fn action(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Forward => "forward",
        Action::Answer => "answer",
    }
}

fn seconds(value: u64, per_second: f64) -> f64 {
    value as f64 / per_second
}

fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::api::tests::sample;

    /// The text's samples by name and labels, with names checked against their HELP and TYPE lines.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let declared = |what: &str| -> BTreeSet<String> {
            let words = text.lines().filter_map(|l| l.strip_prefix(what)?.split(' ').next());
            words.map(str::to_owned).collect()
        };
        let (helps, types) = (declared("# HELP "), declared("# TYPE "));
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let name = series.split('{').next().unwrap_or_default().to_owned();
            assert!(helps.contains(&name) && types.contains(&name), "{name} is not described");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} comes twice");
        }
        samples
    }

    #[test]
    fn a_snapshot_in_numbers() {
        let text = render(&sample::snapshot());
        let samples = samples(&text);
        let build = format!(r#"mesh_build_info{{version="0.1.0",abi="{}",instance_name="default"}}"#, abi::VERSION);
        #[rustfmt::skip]
        let expected = [
            (build.as_str(), 1.0),
            ("mesh_ready", 0.0),
            ("mesh_table_epoch", 7.0),
            ("mesh_start_time_seconds", 1_767_225_599.001),
            ("mesh_received_packets_total", 1000.0),
            ("mesh_received_bytes_total", 100_000.0),
            (r#"mesh_packets_total{reason="forwarded",action="forward"}"#, 900.0),
            (r#"mesh_packets_total{reason="not_for_vip",action="pass"}"#, 100.0),
            (r#"mesh_packets_total{reason="nat_full",action="drop"}"#, 0.0),
            (r#"mesh_service_packets_total{service="shop/api",reason="replied"}"#, 800.0),
            (r#"mesh_service_bytes_total{service="web",reason="no_flow"}"#, 300.0),
            (r#"mesh_backend_state{service="web",backend="10.0.0.1:8080",state="active"}"#, 1.0),
            (r#"mesh_backend_state{service="web",backend="10.0.0.2:8080",state="down"}"#, 1.0),
            (r#"mesh_backend_up{service="web",backend="10.0.0.2:8080"}"#, 0.0),
            (r#"mesh_backend_probe_rtt_seconds{service="web",backend="10.0.0.1:8080"}"#, 0.0015),
            (r#"mesh_backend_effective_weight{service="web",backend="10.0.0.1:8080"}"#, 2.5),
            (r#"mesh_backend_packets_total{service="web",backend="10.0.0.1:8080",direction="replied"}"#, 400.0),
            (r#"mesh_backend_resets_total{service="web",backend="10.0.0.1:8080",from="backend"}"#, 5.0),
            (r#"mesh_backend_sampled_flows_total{service="web",backend="10.0.0.1:8080"}"#, 3.0),
            (r#"mesh_backend_handshake_seconds_total{service="web",backend="10.0.0.1:8080",step="answer"}"#, 0.0009),
            (r#"mesh_interface_attached{interface="eth1",hook=""}"#, 0.0),
            ("mesh_plan_duration_seconds", 0.0015),
            ("mesh_nat_flows_limit", 1024.0),
            (r#"mesh_map_entries{map="backends"}"#, 3.0),
            (r#"mesh_map_entries_limit{map="backends"}"#, 16_384.0),
            (r#"mesh_source_live{service="web",source="dns web.test"}"#, 0.0),
            (r#"mesh_source_backends{service="web",source="dns web.test"}"#, 2.0),
            (r#"mesh_source_failures_total{service="web",source="dns web.test"}"#, 3.0),
        ];
        for (series, value) in expected {
            assert_eq!(samples.get(series), Some(&value), "{series} in\n{text}");
        }
        assert!(!samples.contains_key(r#"mesh_backend_probe_rtt_seconds{service="web",backend="10.0.0.2:8080"}"#));
    }

    #[test]
    fn everything_described_is_told_and_named_by_the_rules() {
        let text = render(&sample::snapshot());
        for (names, kind) in [(GAUGES, "gauge"), (COUNTERS, "counter")] {
            for (name, _) in names {
                assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is not told as a {kind}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            }
        }
    }

    #[test]
    fn each_reason_has_its_series_and_each_backend_its_state() {
        let samples = samples(&render(&sample::snapshot()));
        let count = |prefix: &str| samples.keys().filter(|k| k.starts_with(prefix)).count();
        assert_eq!(count("mesh_packets_total{"), Reason::ALL.len());
        assert_eq!(count("mesh_backend_state{"), 3);
    }

    #[test]
    fn names_that_people_chose_cannot_break_the_format() {
        let mut snapshot = sample::snapshot();
        snapshot.backends[0].name = Some("a\"b\\c\nd".into());
        let text = render(&snapshot);
        assert!(text.contains(r#"name="a\"b\\c\nd""#), "{text}");
        samples(&text);
    }

    #[test]
    fn a_backend_is_told_in_little() {
        let mut snapshot = sample::snapshot();
        let one = snapshot.backends[0].clone();
        let id = |n: u32| crate::model::BackendId((std::net::Ipv4Addr::from(0x0a00_0000 + n), 8080).into());
        snapshot.backends = (0..10_000).map(|n| BackendView { id: id(n), ..one.clone() }).collect();
        let text = render(&snapshot);
        assert_eq!(text.lines().filter(|l| l.starts_with("mesh_backend_info{")).count(), 10_000);
        // Each backend costs what one does: a page of ten thousand is read in the time that Prometheus allows because it stays this small.
        let each = text.len() / 10_000;
        assert!(each < 2500, "{each} bytes a backend");
    }
}
