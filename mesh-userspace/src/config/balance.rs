//! How a service shares out its flows, as written -> as meant.

use std::time::Duration;

use super::{
    balanced::{self, SchedulerWord, SignalWord},
    placed::Placed,
    resolve::Findings,
    resolved::Weights,
    words::Span,
    written,
};
use crate::{
    model::{self, Choosing, HashField, HashFields, Proto},
    table::{MAX_LOG2_SLOTS, MIN_LOG2_SLOTS, Scheduler},
    weights::Locality,
};

/// All four, each at its default where it is missing or wrong.
#[derive(Debug, Default)]
pub struct Balance {
    pub scheduler: Scheduler,
    pub log2_slots: Option<u8>,
    pub weights: Weights,
    pub locality: Option<Locality>,
}

const AFFINITY: Duration = Duration::from_secs(600);
const AGENT_INTERVAL: Duration = Duration::from_secs(2);
const SHORTEST_AGENT_INTERVAL: Duration = Duration::from_millis(100);
const ELSEWHERE: u32 = 10;
const FARTHEST: u32 = 1_000_000;

/// Errors go to `findings`. `checked`: backends are checked; `reporting`: they say how loaded they are, in their own heartbeats or in a header.
pub fn resolve_balance(service: &written::Service, checked: bool, reporting: bool, findings: &mut Findings<'_>) -> Balance {
    Balance {
        scheduler: service.scheduler.as_ref().map(|s| s.value).unwrap_or_default().into(),
        log2_slots: service.slots.as_ref().and_then(|slots| slots_of(slots, findings)),
        weights: service.weights.as_ref().map(|w| weights(w, checked, reporting, findings)).unwrap_or_default(),
        locality: service.locality.as_ref().map(|l| locality(l, findings)),
    }
}

/// What chooses a packet's backend. `several`: the service has several ports. Errors go to `findings`.
pub fn resolve_fields(written: &Placed<Vec<Placed<HashField>>>, several: bool, findings: &mut Findings<'_>) -> HashFields {
    let fields = &written.value;
    for (i, twice) in fields.iter().enumerate().filter(|(i, field)| fields[..*i].iter().any(|f| f.value == field.value)) {
        findings.error(twice, format!("`{}` is listed twice", fields[i].value.name()), "remove one of the two");
    }
    let differs = |field: &Placed<HashField>| match field.value {
        HashField::Source | HashField::SourcePort => true,
        HashField::DestinationPort => several,
        HashField::Destination | HashField::Protocol => false,
    };
    if !fields.iter().any(differs) {
        findings.error(
            written,
            "all packets of the service have this in common, so one backend would get them all",
            if several { "add `source`, `source_port` or `destination_port`" } else { "add `source` or `source_port`" },
        );
    }
    HashFields::of(fields.iter().map(|field| field.value))
}

impl From<SchedulerWord> for Scheduler {
    fn from(word: SchedulerWord) -> Self {
        match word {
            SchedulerWord::Maglev => Self::Maglev,
            SchedulerWord::Ring => Self::Ring,
            // The rest choose for each flow, and have this table beneath.
            _ => Self::Consistent,
        }
    }
}

/// How new flows are given to backends where not by the table alone; errors go to `findings`.
pub fn resolve_choosing(service: &written::Service, proto: Proto, findings: &mut Findings<'_>) -> Choosing {
    use model::Scheduler as Chooser;
    let scheduler = match service.scheduler.as_ref().map(|s| s.value).unwrap_or_default() {
        SchedulerWord::ConsistentHash | SchedulerWord::Maglev | SchedulerWord::Ring => Chooser::Hash,
        SchedulerWord::Random => Chooser::Random,
        SchedulerWord::RoundRobin => Chooser::RoundRobin,
        SchedulerWord::LeastConnections => Chooser::LeastConnections,
        SchedulerWord::LeastResponseTime => Chooser::LeastResponseTime,
        SchedulerWord::TwoChoices => Chooser::TwoChoices,
        SchedulerWord::HashUnlessCrowded => Chooser::HashUnlessCrowded,
    };
    if let Some(at) = service.scheduler.as_ref().filter(|_| scheduler == Chooser::LeastResponseTime && proto != Proto::Tcp) {
        findings.error(at, "response times are those of handshakes, which UDP has none of", "write `least-connections`");
    }
    Choosing { scheduler, affinity: service.affinity.as_ref().map(|a| affinity(a, findings)) }
}

fn affinity(written: &balanced::Affinity, findings: &mut Findings<'_>) -> Duration {
    let Some(timeout) = &written.timeout else { return AFFINITY };
    let (least, most) = (Span(Duration::from_secs(1)), Span(Duration::from_secs(18 * 3600)));
    if !(least.0..=most.0).contains(&timeout.value.0) {
        findings.error(timeout, format!("{timeout} is no time that a source can stay for"), format!("write {least} to {most}"));
    }
    timeout.value.0
}

fn slots_of(slots: &Placed<u32>, findings: &mut Findings<'_>) -> Option<u8> {
    let (least, most) = (1u32 << MIN_LOG2_SLOTS, 1u32 << MAX_LOG2_SLOTS);
    if !slots.value.is_power_of_two() || !(least..=most).contains(&slots.value) {
        let near = slots.value.clamp(least, most).next_power_of_two();
        findings.error(
            slots,
            format!("a table can't have {slots} slots"),
            format!("write a power of two from {least} to {most}, such as {near}"),
        );
        return None;
    }
    Some(slots.value.trailing_zeros() as u8)
}

fn weights(written: &balanced::Weights, checked: bool, reporting: bool, findings: &mut Findings<'_>) -> Weights {
    let by = written.by.value;
    if by == SignalWord::Latency && !checked {
        findings.error(&written.by, "latency is that of the heartbeat, and there is none", "give the service a heartbeat (`health`)");
    }
    if by == SignalWord::Load && !reporting {
        findings.error(
            &written.by,
            "load is what backends say in a header of their answers or in their own heartbeats, and neither is asked for",
            "add `health: {type: http, load_header: x-load}`, or `heartbeat: {ttl: 10s}` and have each backend send its `load`",
        );
    }
    let interval = written.agent_interval.as_ref();
    if let (Some(interval), None) = (interval, &written.agent) {
        findings.error(interval, "`agent_interval` belongs to an agent", "add its port as `agent`, or remove the key");
    }
    if let Some(short) = interval.filter(|i| i.value.0 < SHORTEST_AGENT_INTERVAL) {
        let least = Span(SHORTEST_AGENT_INTERVAL);
        findings.error(short, format!("{} is too often to ask an agent", short.value), format!("write {least} or more"));
    }
    let port = written.agent.as_ref();
    if let Some(zero) = port.filter(|p| p.value == 0) {
        findings.error(zero, "port 0 is no port to ask an agent at", "write a port from 1 to 65535");
    }
    Weights { by, agent: port.map(|p| (p.value, interval.map_or(AGENT_INTERVAL, |i| i.value.0))) }
}

fn locality(written: &balanced::Locality, findings: &mut Findings<'_>) -> Locality {
    let all = written.distances.values().chain(&written.elsewhere);
    for wrong in all.filter(|d| !(1..=FARTHEST).contains(&d.value)) {
        findings.error(wrong, format!("{wrong} is no distance"), format!("write a whole number from 1 (here) to {FARTHEST}"));
    }
    Locality {
        distances: written.distances.iter().map(|(zone, d)| (zone.clone(), d.value)).collect(),
        elsewhere: written.elsewhere.as_ref().map_or(ELSEWHERE, |e| e.value),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ConfigError, Service, parse, placed::Syntax};

    fn service(keys: &str) -> Result<Service, String> {
        let text = format!("services:\n  - name: web\n    vip: 192.0.2.10:80\n    backends: [{{address: 10.0.0.1, zone: a}}]\n{keys}");
        match parse(&text, Syntax::Yaml, Path::new("/lb.yaml")) {
            Ok(loaded) => Ok(loaded.config.services.into_values().next().unwrap()),
            Err(ConfigError::Invalid(errors)) => Err(errors.into_iter().map(|e| e.to_string()).collect()),
            Err(other) => Err(other.to_string()),
        }
    }

    #[test]
    fn what_is_meant() {
        let plain = service("").unwrap();
        assert_eq!(
            (plain.scheduler, plain.log2_slots, plain.weights, plain.locality),
            (Scheduler::Consistent, None, Weights::default(), None)
        );
        let keys = "    scheduler: round-robin\n    slots: 4096\n    weights: {by: latency, agent: 9999, agent_interval: 500ms}\n    \
                    locality: {distances: {a: 1, b: 3}, elsewhere: 7}\n";
        let all = service(keys).unwrap();
        assert_eq!((all.scheduler, all.log2_slots), (Scheduler::Consistent, Some(12)));
        assert_eq!(all.ways.choosing, Choosing { scheduler: model::Scheduler::RoundRobin, affinity: None });
        assert_eq!(all.weights, Weights { by: SignalWord::Latency, agent: Some((9999, Duration::from_millis(500))) });
        assert_eq!(all.locality.unwrap(), Locality { distances: [("a".into(), 1), ("b".into(), 3)].into(), elsewhere: 7 });
        assert_eq!(all.backends[0].zone.as_deref(), Some("a"));
    }

    #[test]
    fn fields_that_choose() {
        let fields = |keys: &str| service(keys).map(|s| s.ways.hash);
        assert_eq!(fields("").unwrap(), HashFields::default());
        assert_eq!(fields("    hash: [protocol, source, source_port, destination, destination_port]\n").unwrap(), HashFields::default());
        assert_eq!(fields("    hash: [source]\n").unwrap(), HashFields::of([HashField::Source]));
        let several = "    mode: dsr\n    health: none\n    hash: [destination_port]\n";
        assert!(fields(several).unwrap_err().contains("`source_port`"));
        let text =
            "services: [{name: web, vip: 192.0.2.10, ports: any, mode: dsr, health: none, hash: [destination_port], backends: [10.0.0.1]}]";
        let loaded = parse(text, Syntax::Yaml, Path::new("/lb.yaml")).unwrap();
        assert_eq!(loaded.config.services.values().next().unwrap().ways.hash, HashFields::of([HashField::DestinationPort]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (keys, place, what) in [
            ("    slots: 1000\n", "5:12", "power of two"),
            ("    slots: 128\n", "5:12", "256"),
            ("    scheduler: fastest\n", "5:", "fastest"),
            ("    hash: []\n", "5:11", "add `source`"),
            ("    hash: [destination, protocol]\n", "5:11", "one backend would get them all"),
            ("    hash: [source, source_port, source]\n", "5:33", "`source` is listed twice"),
            ("    hash: [sauce]\n", "5:", "sauce"),
            ("    affinity: {timeout: 100ms}\n", "5:25", "1s to 18h"),
            ("    affinity: {timeout: 2d}\n", "5:25", "1s to 18h"),
            ("    affinity: 10m\n", "5:", "affinity"),
            ("    protocol: udp\n    scheduler: least-response-time\n", "6:16", "least-connections"),
            ("    health: none\n    weights: {by: latency}\n", "6:19", "heartbeat"),
            ("    weights: {by: load}\n", "5:19", "heartbeat: {ttl"),
            ("    health: {type: tcp, load_header: x-load}\n", "5:38", "type: http"),
            ("    health: {type: http, load_header: \"x load\"}\n", "5:39", "header"),
            ("    weights: {agent_interval: 1s}\n", "5:", "agent"),
            ("    weights: {agent: 9999, agent_interval: 1ms}\n", "5:", "100ms"),
            ("    weights: {agent: 0}\n", "5:", "port"),
            ("    locality: {distances: {a: 0}}\n", "5:", "distance"),
        ] {
            let error = service(keys).unwrap_err();
            assert!(error.contains(what) && error.contains(place), "{keys}: {error}");
        }
    }
}
