//! What keeps backends from more than they can take, as written -> as meant.

use std::time::Duration;

use super::{
    placed::Placed,
    resolve::Findings,
    words::Span,
    written::{self, Breaker},
};
use crate::{
    health::breaker::Rules,
    model::{ConnectionLimits, Mode, Proto, VipAddr},
};

/// Of a service.
#[derive(Debug, Default)]
pub struct Guard {
    pub breaker: Option<Rules>,
    pub limits: ConnectionLimits,
    pub backup_below: u8,
}

/// Errors are in `findings`. `checked`: there are probes.
pub fn resolve_guard(service: &written::Service, vip: VipAddr, mode: Mode, checked: bool, findings: &mut Findings<'_>) -> Guard {
    Guard {
        breaker: service.breaker.as_ref().map(|b| breaker(&b.value, vip.proto, checked, findings)),
        limits: resolve_limits(service.max_connections.as_ref(), service.max_connection_rate.as_ref(), vip.proto, mode, findings),
        backup_below: service.backup_below.as_ref().map_or(0, |p| percent(p, 0, findings)),
    }
}

/// Of a service, or of one backend. Errors are in `findings`.
pub fn resolve_limits(
    connections: Option<&Placed<u32>>,
    rate: Option<&Placed<u32>>,
    proto: Proto,
    mode: Mode,
    findings: &mut Findings<'_>,
) -> ConnectionLimits {
    if let Some(at) = connections.filter(|_| mode != Mode::Nat) {
        let why = format!("in mode `{}` nobody knows when a flow ends, so `max_connections` can't be counted", mode.name());
        findings.error(at, why, "write `max_connection_rate`, or `mode: nat`");
    }
    if let Some(at) = rate.filter(|_| mode != Mode::Nat && proto == Proto::Udp) {
        let why = format!("in mode `{}` nobody knows which datagram begins a flow, so `max_connection_rate` can't be counted", mode.name());
        findings.error(at, why, "remove it, or write `mode: nat`");
    }
    for zero in [connections, rate].into_iter().flatten().filter(|limit| limit.value == 0) {
        findings.error(zero, "a limit of 0 lets nothing through", "write 1 or more; `weight: 0` keeps new flows away");
    }
    ConnectionLimits { connections: connections.map(|c| c.value), rate: rate.map(|r| r.value) }
}

/// The number of a backup; 0 = it is none. Errors are in `findings`.
pub fn resolve_backup(written: Option<&Placed<u32>>, findings: &mut Findings<'_>) -> u8 {
    let Some(backup) = written else { return 0 };
    match u8::try_from(backup.value) {
        Ok(level) if level > 0 => level,
        _ => {
            findings.error(
                backup,
                format!("{backup} is no number of a backup"),
                "write 1 to 255, or remove the key for a backend that serves",
            );
            0
        }
    }
}

fn breaker(b: &Breaker, proto: Proto, checked: bool, findings: &mut Findings<'_>) -> Rules {
    if proto == Proto::Udp {
        for at in [&b.failures, &b.volume, &b.consecutive].into_iter().flatten() {
            findings.error(at, "a UDP service has no handshakes that could fail", "remove it, and write `latency`");
        }
    }
    if let Some(at) = b.latency.as_ref().filter(|_| !checked) {
        findings.error(at, "latency is that of the heartbeat, and there is none", "give the service a heartbeat (`health`)");
    }
    if let Some(one) = b.latency.as_ref().filter(|l| l.value < 2) {
        findings.error(one, format!("{one} times its latency without load is no trouble yet"), "write 2 or more");
    }
    let tcp = proto == Proto::Tcp;
    let failures = b.failures.as_ref().map_or(50, |p| percent(p, 0, findings));
    let consecutive = b.consecutive.as_ref().map_or(5, |n| n.value);
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    let open = within(b.open.as_ref(), second, Duration::from_millis(100), hour, findings);
    let most =
        within(b.max_open.as_ref(), Duration::from_mins(1).max(open), Duration::from_millis(100), Duration::from_hours(24), findings);
    if let Some(at) = b.max_open.as_ref().or(b.open.as_ref()).filter(|_| most < open) {
        findings.error(at, "`max_open` is shorter than `open`", "write a longer one");
    }
    Rules {
        failures: (tcp && failures > 0).then(|| f64::from(failures) / 100.0),
        volume: b.volume.as_ref().map_or(20, |n| n.value.max(1)),
        consecutive: (tcp && consecutive > 0).then_some(consecutive),
        latency: b.latency.as_ref().map(|l| f64::from(l.value)),
        // A lost SYN comes again after a second: in less, no silence shows.
        window: within(b.window.as_ref(), 10 * second, 2 * second, hour, findings),
        open,
        most,
        share: f64::from(b.trial_share.as_ref().map_or(10, |p| percent(p, 1, findings))) / 100.0,
        trial: within(b.trial.as_ref(), 5 * second, Duration::from_millis(100), hour, findings),
        most_open: f64::from(b.max_share.as_ref().map_or(100, |p| percent(p, 1, findings))) / 100.0,
    }
}

fn percent(written: &Placed<u32>, least: u8, findings: &mut Findings<'_>) -> u8 {
    match u8::try_from(written.value) {
        Ok(percent) if (least..=100).contains(&percent) => percent,
        _ => {
            findings.error(written, format!("{written} is no share"), format!("write percent, {least} to 100"));
            least.max(1)
        }
    }
}

fn within(written: Option<&Placed<Span>>, default: Duration, least: Duration, most: Duration, findings: &mut Findings<'_>) -> Duration {
    match written {
        None => default,
        Some(s) if (least..=most).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), format!("write {} to {}", Span(least), Span(most)));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ConfigError, Service, parse, placed::Syntax};

    fn service(keys: &str) -> Result<Service, String> {
        let text = format!("services:\n- name: web\n  vip: 192.0.2.10:80\n{keys}");
        match parse(&text, Syntax::Yaml, Path::new("lb.yaml")) {
            Ok(loaded) => Ok(loaded.config.services.into_values().next().unwrap()),
            Err(ConfigError::Invalid(errors)) => Err(errors.into_iter().map(|e| e.to_string()).collect()),
            Err(other) => Err(other.to_string()),
        }
    }

    #[test]
    fn what_is_meant() {
        let plain = service("  backends: [10.0.0.1]\n").unwrap();
        assert_eq!((plain.breaker, plain.limits, plain.backup_below), (None, ConnectionLimits::default(), 0));
        let defaults = service("  breaker: {}\n").unwrap().breaker.unwrap();
        assert_eq!((defaults.failures, defaults.volume, defaults.consecutive, defaults.latency), (Some(0.5), 20, Some(5), None));
        let keys = "  breaker: {failures: 30, volume: 7, consecutive: 0, latency: 4, window: 5s, open: 2s, max_open: 30s, trial_share: 20, trial: 3s, \
                    max_share: 60}\n  max_connections: 100\n  max_connection_rate: 20\n  backup_below: 40\n  backends: [{address: 10.0.0.1, \
                    backup: 2, max_connections: 7}]\n";
        let all = service(keys).unwrap();
        let s = Duration::from_secs;
        let rules = Rules {
            failures: Some(0.3),
            volume: 7,
            consecutive: None,
            latency: Some(4.0),
            window: s(5),
            open: s(2),
            most: s(30),
            share: 0.2,
            trial: s(3),
            most_open: 0.6,
        };
        assert_eq!((all.breaker, all.backup_below, all.backends[0].backup), (Some(rules), 40, 2));
        let own = all.backends[0].limits.or(all.limits);
        assert_eq!(own, ConnectionLimits { connections: Some(7), rate: Some(20) });
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let rows = [
            ("  breaker: {failures: 101}\n", "lb.yaml:4:23: 101 is no share"),
            ("  breaker: {latency: 1}\n", "lb.yaml:4:22: 1 times its latency without load"),
            ("  health: none\n  breaker: {latency: 3}\n", "lb.yaml:5:22: latency is that of the heartbeat"),
            ("  breaker: {window: 1s}\n", "lb.yaml:4:21: 1s is out of range"),
            ("  breaker: {open: 10s, max_open: 5s}\n", "lb.yaml:4:34: `max_open` is shorter"),
            ("  breaker: {trial_share: 0}\n", "lb.yaml:4:26: 0 is no share"),
            ("  protocol: udp\n  health: none\n  breaker: {consecutive: 3}\n", "lb.yaml:6:26: a UDP service has no handshakes"),
            ("  breaker: {speed: 3}\n", "lb.yaml:4:13: unknown field `speed`"),
            ("  max_connections: 0\n", "lb.yaml:4:20: a limit of 0 lets nothing through"),
            ("  mode: dsr\n  max_connections: 5\n", "lb.yaml:5:20: in mode `dsr` nobody knows when a flow ends"),
            ("  mode: dsr\n  protocol: udp\n  health: none\n  max_connection_rate: 5\n", "lb.yaml:7:24: in mode `dsr` nobody knows which"),
            ("  mode: tunnel\n  backends: [{address: 10.0.0.1, max_connections: 5}]\n", "lb.yaml:5:51: in mode `tunnel` nobody knows"),
            ("  backup_below: 200\n", "lb.yaml:4:17: 200 is no share"),
            ("  backends: [{address: 10.0.0.1, backup: 0}]\n", "lb.yaml:4:42: 0 is no number of a backup"),
            ("  backends: [{address: 10.0.0.1, backup: 256}]\n", "lb.yaml:4:42: 256 is no number of a backup"),
        ];
        let told = rows.map(|(keys, expected)| (service(keys).unwrap_err(), expected));
        let wrong: Vec<_> = told.iter().filter(|(error, expected)| !error.starts_with(expected)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
