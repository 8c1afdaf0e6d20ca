//! How a heartbeat's answers are judged, as written -> as meant.

use std::{net::SocketAddr, path::Path, time::Duration};

use super::{
    placed::Placed,
    probe::place,
    resolve::Findings,
    resolved::{Heartbeat, HeartbeatListener, Judgement, PhiJudgement},
    words::Span,
    written::{self, DetectorWord, Health, PulseWord},
};
use crate::{
    health::detector::{Limits, PulseKind},
    model::Proto,
};

/// Defaults where there is nothing to read, for a service of this protocol.
pub fn default_judgement(proto: Proto) -> Judgement {
    Judgement::Phi(PhiJudgement { pulse: Some(default_pulse(proto)), ..PhiJudgement::default() })
}

/// Errors are in `findings`.
pub fn resolve_judgement(health: &Health, proto: Proto, findings: &mut Findings<'_>) -> Judgement {
    let phi_keys = [
        ("pulse", health.pulse.as_ref().map(place)),
        ("pulse_interval", health.pulse_interval.as_ref().map(place)),
        ("passive", health.passive.as_ref().map(place)),
        ("max_soft", health.max_soft.as_ref().map(place)),
        ("max_down", health.max_down.as_ref().map(place)),
        ("panic", health.panic.as_ref().map(place)),
    ];
    if health.detector.as_ref().is_some_and(|d| d.value == DetectorWord::RiseFall) {
        for (key, at) in phi_keys {
            if let Some(at) = at {
                findings.error(&at, format!("`{key}` means nothing to `detector: rise_fall`"), "write `detector: phi`, or remove the key");
            }
        }
        return Judgement::RiseFall;
    }
    let pulse = match health.pulse.as_ref().map(|p| p.value) {
        None => Some(default_pulse(proto)),
        Some(PulseWord::None) => None,
        Some(PulseWord::Icmp) => Some(PulseKind::Echo),
        Some(PulseWord::Syn) => {
            if let Some(at) = health.pulse.as_ref().filter(|_| proto == Proto::Udp) {
                findings.error(at, "no backend of a UDP service answers a SYN", "write `pulse: icmp` or `pulse: none`");
            }
            Some(PulseKind::Syn)
        }
    };
    if let Some(at) = health.pulse_interval.as_ref().filter(|_| pulse.is_none()) {
        findings.error(at, "`pulse_interval` means nothing without pulses", "remove one of the two");
    }
    let d = PhiJudgement::default();
    Judgement::Phi(PhiJudgement {
        pulse,
        pulse_interval: interval(health.pulse_interval.as_ref(), d.pulse_interval, findings),
        passive: health.passive.as_ref().map_or(d.passive, |p| p.value),
        limits: Limits {
            soft: share(health.max_soft.as_ref(), d.limits.soft, findings),
            hard: share(health.max_down.as_ref(), d.limits.hard, findings),
            panic: share(health.panic.as_ref(), d.limits.panic, findings),
        },
    })
}

/// Errors are in `findings`.
pub fn resolve_heartbeat(written: &written::Heartbeat, findings: &mut Findings<'_>) -> Heartbeat {
    let mut within = |s: Option<&Placed<Span>>, default: Duration, least: Duration| match s {
        None => default,
        Some(s) if (least..=Duration::from_hours(24)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), format!("write {} to 1d", Span(least)));
            default
        }
    };
    let ttl = within(written.ttl.as_ref(), Duration::from_secs(10), Duration::from_millis(50));
    let forget = within(written.forget.as_ref(), Duration::from_mins(10), Duration::from_secs(1));
    Heartbeat { ttl, register: written.register, forget }
}

/// `None` only with an error in `findings`.
pub fn resolve_listener(written: &written::HeartbeatListener, base: &Path, findings: &mut Findings<'_>) -> Option<HeartbeatListener> {
    let listen = written.listen.value.parse::<SocketAddr>().map_err(|_| format!("`{}` is no address and port", written.listen));
    let listen = findings.ok(&written.listen, listen, "write 192.0.2.1:9101 or \"[2001:db8::1]:9101\"");
    let path = base.join(&written.token_file.value);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("can't read {}: {e}", path.display()));
    let token = findings.ok(&written.token_file, text, "name a file that the daemon may read")?.trim().to_owned();
    if token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "write 16 or more letters and digits, such as those of `openssl rand -hex 16`";
        findings.error(&written.token_file, format!("{} holds no token", path.display()), help);
        return None;
    }
    Some(HeartbeatListener { listen: listen?, token })
}

/// A SYN to the backend's own port is the nearest to what clients do; without TCP only its host can be asked.
fn default_pulse(proto: Proto) -> PulseKind {
    match proto {
        Proto::Tcp => PulseKind::Syn,
        Proto::Udp => PulseKind::Echo,
    }
}

fn interval(written: Option<&Placed<Span>>, default: Duration, findings: &mut Findings<'_>) -> Duration {
    match written {
        None => default,
        Some(s) if (Duration::from_millis(5)..=Duration::from_secs(10)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), "write 5ms to 10s");
            default
        }
    }
}

/// Percent as a share.
fn share(written: Option<&Placed<u32>>, default: f64, findings: &mut Findings<'_>) -> f64 {
    match written {
        None => default,
        Some(p) if p.value <= 100 => f64::from(p.value) / 100.0,
        Some(p) => {
            findings.error(p, format!("{p} is no share"), "write percent of the service's weight, 0 to 100");
            default
        }
    }
}
