//! What a snapshot says, in Prometheus' text format. Nothing is counted here: the kernel's counters and the daemon's are read at each scrape.

use std::collections::BTreeMap;

use ::metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use mesh_common::abi::{self, Action, Reason};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::control::view::{BackendView, InterfaceView, ServiceView, Snapshot, SourceStateWord, SourceView, StateWord, Status, Traffic};

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot as text.
pub fn render(snapshot: &Snapshot) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe();
        node(&snapshot.status);
        publications(snapshot);
        snapshot.status.interfaces.iter().for_each(interface);
        snapshot.services.iter().for_each(service);
        snapshot.backends.iter().for_each(backend);
        snapshot.sources.iter().for_each(source);
    });
    recorder.handle().render()
}

fn describe() {
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(*name, Unit::Count, *help);
    }
}

#[rustfmt::skip]
const GAUGES: &[(&str, &str)] = &[
    ("mesh_build_info", "What runs; always 1"),
    ("mesh_start_time_seconds", "When the daemon was started, Unix time"),
    ("mesh_ready", "1 if the tables are published and the first round of health checks is done"),
    ("mesh_table_epoch", "Version of the published tables"),
    ("mesh_config_load_time_seconds", "When the running configuration was read, Unix time"),
    ("mesh_config_last_reload_successful", "0 if the last attempt to reload the configuration failed"),
    ("mesh_interface_attached", "1 if the interface's packets are balanced"),
    ("mesh_nat_flows", "Translated flows"),
    ("mesh_nat_flows_limit", "Translated flows there is room for"),
    ("mesh_nat_half_open_flows", "Translated flows that no reply was seen for"),
    ("mesh_slots_used", "Slots of all tables together"),
    ("mesh_slots_limit", "Slots there is room for"),
    ("mesh_plan_duration_seconds", "Time that computing the last plan took"),
    ("mesh_publish_duration_seconds", "Time that writing the last plan to the maps took"),
    ("mesh_service_slots", "Slots of the service's published table; 0 = not published"),
    ("mesh_service_backends", "Backends of the service"),
    ("mesh_service_backends_taking", "Backends of the service that take new flows"),
    ("mesh_service_live_flows", "Translated flows of the service"),
    ("mesh_backend_info", "Who a backend is; always 1"),
    ("mesh_backend_state", "1 for the state that is published of a backend, 0 for the others"),
    ("mesh_backend_up", "What the heartbeat says of a backend; missing where it says nothing yet"),
    ("mesh_backend_weight", "Configured weight"),
    ("mesh_backend_effective_weight", "Weight that the table is built from"),
    ("mesh_backend_slots", "Slots of its service's table that a backend owns"),
    ("mesh_backend_live_flows", "Translated flows of a backend"),
    ("mesh_backend_next_hop_ready", "1 if it is known where packets to a backend go"),
    ("mesh_backend_probe_rtt_seconds", "Time that the last answered probe took"),
    ("mesh_source_live", "1 if a source of backends answers; 0 if what it said last holds, or it has not answered yet"),
    ("mesh_source_backends", "Backends that a source names"),
    ("mesh_source_answer_time_seconds", "When a source last gave a good answer, Unix time"),
];

#[rustfmt::skip]
const COUNTERS: &[(&str, &str)] = &[
    ("mesh_received_packets_total", "Packets that came in by the interfaces"),
    ("mesh_received_bytes_total", "Bytes of the packets that came in by the interfaces"),
    ("mesh_packets_total", "Packets by the reason for what became of them"),
    ("mesh_bytes_total", "Bytes by the reason for what became of their packets"),
    ("mesh_publications_total", "Publications of tables"),
    ("mesh_publication_failures_total", "Publications that failed"),
    ("mesh_map_repairs_total", "Differences found and repaired when the kernel's maps were read again"),
    ("mesh_config_reloads_total", "Attempts to reload the configuration"),
    ("mesh_config_reload_failures_total", "Attempts to reload the configuration that failed"),
    ("mesh_service_packets_total", "Packets for a service, by the reason for what became of them"),
    ("mesh_service_bytes_total", "Bytes for a service, by the reason for what became of their packets"),
    ("mesh_service_flows_total", "New flows of a service"),
    ("mesh_backend_packets_total", "Packets to a backend and back from it"),
    ("mesh_backend_bytes_total", "Bytes to a backend and back from it"),
    ("mesh_backend_flows_total", "New flows of a backend"),
    ("mesh_backend_resets_total", "TCP RSTs that the clients of a backend sent, and that it sent itself"),
    ("mesh_backend_sampled_flows_total", "New TCP flows of a backend whose handshakes were drawn to be watched"),
    ("mesh_backend_syn_retransmits_total", "SYNs that came again, of the flows drawn"),
    ("mesh_backend_handshakes_total", "Handshakes that got to the SYN-ACK (answer) or the client's first ACK (accept), of the flows drawn"),
    ("mesh_backend_handshake_microseconds_total", "Time from the SYN on that these handshakes took"),
    ("mesh_backend_probes_total", "Probes of a backend"),
    ("mesh_backend_probe_failures_total", "Probes of a backend that failed"),
    ("mesh_source_updates_total", "Changes that a source told"),
    ("mesh_source_failures_total", "Times that a source could not be had or answered badly"),
];

fn node(status: &Status) {
    let abi = abi::VERSION.to_string();
    gauge!("mesh_build_info", "version" => status.version.clone(), "abi" => abi, "instance_name" => status.instance.clone()).set(1);
    gauge!("mesh_start_time_seconds").set(seconds(status.started_ms, 1e3));
    gauge!("mesh_ready").set(flag(status.readiness.ready));
    gauge!("mesh_table_epoch").set(status.epoch.0 as f64);
    gauge!("mesh_config_load_time_seconds").set(seconds(status.config.loaded_ms, 1e3));
    gauge!("mesh_config_last_reload_successful").set(flag(status.config.error.is_none()));
    gauge!("mesh_nat_flows").set(status.nat.flows.used as f64);
    gauge!("mesh_nat_flows_limit").set(status.nat.flows.limit as f64);
    gauge!("mesh_nat_half_open_flows").set(status.nat.half_open as f64);
    gauge!("mesh_slots_used").set(status.slots.used as f64);
    gauge!("mesh_slots_limit").set(status.slots.limit as f64);
    counter!("mesh_received_packets_total").absolute(status.rx.packets);
    counter!("mesh_received_bytes_total").absolute(status.rx.bytes);
    for reason in Reason::ALL {
        let labels = vec![Label::new("reason", reason.name()), Label::new("action", action(reason.action()))];
        let traffic = status.reasons.get(reason.name()).copied().unwrap_or_default();
        count("mesh_packets_total", "mesh_bytes_total", labels, traffic);
    }
}

fn publications(snapshot: &Snapshot) {
    let p = &snapshot.publications;
    counter!("mesh_publications_total").absolute(p.count);
    counter!("mesh_publication_failures_total").absolute(p.failures);
    counter!("mesh_map_repairs_total").absolute(p.repairs);
    counter!("mesh_config_reloads_total").absolute(p.reloads);
    counter!("mesh_config_reload_failures_total").absolute(p.reload_failures);
    gauge!("mesh_plan_duration_seconds").set(seconds(p.last_plan_us, 1e6));
    gauge!("mesh_publish_duration_seconds").set(seconds(p.last_apply_us, 1e6));
}

fn interface(interface: &InterfaceView) {
    let labels = vec![Label::new("interface", interface.name.clone()), Label::new("hook", interface.hook.clone())];
    gauge!("mesh_interface_attached", labels).set(flag(!interface.hook.is_empty()));
}

fn service(service: &ServiceView) {
    let labels = vec![Label::new("service", service.name.to_string())];
    gauge!("mesh_service_slots", labels.clone()).set(service.slots);
    gauge!("mesh_service_backends", labels.clone()).set(service.backends);
    gauge!("mesh_service_backends_taking", labels.clone()).set(service.taking);
    gauge!("mesh_service_live_flows", labels.clone()).set(service.live_flows as f64);
    counter!("mesh_service_flows_total", labels.clone()).absolute(service.flows);
    let mut reasons: BTreeMap<&str, Traffic> = service.reasons.iter().map(|(name, t)| (name.as_str(), *t)).collect();
    reasons.insert(Reason::Forwarded.name(), service.forwarded);
    reasons.insert(Reason::Replied.name(), service.replied);
    for (reason, traffic) in reasons {
        let labels = with(&labels, "reason", reason);
        count("mesh_service_packets_total", "mesh_service_bytes_total", labels, traffic);
    }
}

fn backend(backend: &BackendView) {
    let labels = vec![Label::new("service", backend.service.to_string()), Label::new("backend", backend.id.to_string())];
    let info = with(&labels, "name", backend.name.as_deref().unwrap_or_default());
    gauge!("mesh_backend_info", with(&info, "origin", &backend.origin.to_string())).set(1);
    for state in StateWord::ALL {
        gauge!("mesh_backend_state", with(&labels, "state", state.name())).set(flag(state == backend.state));
    }
    gauge!("mesh_backend_weight", labels.clone()).set(backend.weight);
    gauge!("mesh_backend_effective_weight", labels.clone()).set(backend.effective_weight);
    gauge!("mesh_backend_slots", labels.clone()).set(backend.slots);
    gauge!("mesh_backend_live_flows", labels.clone()).set(backend.live_flows as f64);
    gauge!("mesh_backend_next_hop_ready", labels.clone()).set(flag(backend.next_hop.ready));
    counter!("mesh_backend_flows_total", labels.clone()).absolute(backend.flows);
    handshakes(backend, &labels);
    for (direction, traffic) in [("forwarded", backend.forwarded), ("replied", backend.replied)] {
        count("mesh_backend_packets_total", "mesh_backend_bytes_total", with(&labels, "direction", direction), traffic);
    }
    heartbeat(backend, labels);
}

fn handshakes(backend: &BackendView, labels: &[Label]) {
    for (from, resets) in [("client", backend.resets.client), ("backend", backend.resets.backend)] {
        counter!("mesh_backend_resets_total", with(labels, "from", from)).absolute(u64::from(resets));
    }
    let seen = &backend.handshakes;
    counter!("mesh_backend_sampled_flows_total", labels.to_vec()).absolute(seen.sampled);
    counter!("mesh_backend_syn_retransmits_total", labels.to_vec()).absolute(seen.syn_retransmits);
    for (step, times) in [("answer", &seen.answers), ("accept", &seen.accepts)] {
        counter!("mesh_backend_handshakes_total", with(labels, "step", step)).absolute(times.count);
        counter!("mesh_backend_handshake_microseconds_total", with(labels, "step", step)).absolute(times.total_us);
    }
}

fn source(source: &SourceView) {
    let labels = vec![Label::new("service", source.service.to_string()), Label::new("source", source.source.clone())];
    gauge!("mesh_source_live", labels.clone()).set(flag(source.state == SourceStateWord::Live));
    gauge!("mesh_source_backends", labels.clone()).set(source.endpoints);
    if let Some(answered) = source.answered_ms {
        gauge!("mesh_source_answer_time_seconds", labels.clone()).set(seconds(answered, 1e3));
    }
    counter!("mesh_source_updates_total", labels.clone()).absolute(source.updates);
    counter!("mesh_source_failures_total", labels).absolute(source.failures);
}

fn heartbeat(backend: &BackendView, labels: Vec<Label>) {
    let health = &backend.health;
    if health.health == "up" || health.health == "down" {
        gauge!("mesh_backend_up", labels.clone()).set(flag(health.health == "up"));
    }
    if let Some(rtt) = health.rtt_us {
        gauge!("mesh_backend_probe_rtt_seconds", labels.clone()).set(seconds(rtt, 1e6));
    }
    counter!("mesh_backend_probes_total", labels.clone()).absolute(health.probes);
    counter!("mesh_backend_probe_failures_total", labels).absolute(health.failures);
}

fn count(packets: &'static str, bytes: &'static str, labels: Vec<Label>, traffic: Traffic) {
    counter!(packets, labels.clone()).absolute(traffic.packets);
    counter!(bytes, labels).absolute(traffic.bytes);
}

fn with(labels: &[Label], key: &'static str, value: &str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::new(key, value.to_owned()));
    labels
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
            (r#"mesh_backend_state{service="web",backend="10.0.0.2:8080",state="active"}"#, 0.0),
            (r#"mesh_backend_state{service="web",backend="10.0.0.2:8080",state="down"}"#, 1.0),
            (r#"mesh_backend_up{service="web",backend="10.0.0.2:8080"}"#, 0.0),
            (r#"mesh_backend_probe_rtt_seconds{service="web",backend="10.0.0.1:8080"}"#, 0.0015),
            (r#"mesh_backend_effective_weight{service="web",backend="10.0.0.1:8080"}"#, 2.5),
            (r#"mesh_backend_packets_total{service="web",backend="10.0.0.1:8080",direction="replied"}"#, 400.0),
            (r#"mesh_backend_resets_total{service="web",backend="10.0.0.1:8080",from="backend"}"#, 5.0),
            (r#"mesh_backend_sampled_flows_total{service="web",backend="10.0.0.1:8080"}"#, 3.0),
            (r#"mesh_backend_handshake_microseconds_total{service="web",backend="10.0.0.1:8080",step="answer"}"#, 900.0),
            (r#"mesh_interface_attached{interface="eth1",hook=""}"#, 0.0),
            ("mesh_plan_duration_seconds", 0.0015),
            ("mesh_nat_flows_limit", 1024.0),
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
    fn each_reason_and_state_has_its_series() {
        let samples = samples(&render(&sample::snapshot()));
        let count = |prefix: &str| samples.keys().filter(|k| k.starts_with(prefix)).count();
        assert_eq!(count("mesh_packets_total{"), Reason::ALL.len());
        assert_eq!(count("mesh_backend_state{"), 3 * StateWord::ALL.len());
    }

    #[test]
    fn names_that_people_chose_cannot_break_the_format() {
        let mut snapshot = sample::snapshot();
        snapshot.backends[0].name = Some("a\"b\\c\nd".into());
        let text = render(&snapshot);
        assert!(text.contains(r#"name="a\"b\\c\nd""#), "{text}");
        samples(&text);
    }
}
