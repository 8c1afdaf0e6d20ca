//! What a backend's state rests on, in words.

use std::time::Duration;

use crate::{
    config::words::Span,
    control::view::{BackendView, BeatView, BreakerView, LimitView, SuspicionView},
    health::{
        breaker::Circuit,
        detector::{App, Phase},
    },
};

/// Lines of a name and a value.
pub(super) fn lines(b: &BackendView) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if b.backup > 0 {
        lines.push(("backup", format!("number {}", b.backup)));
    }
    if let Some(id) = b.quic_server_id {
        lines.push(("quic server id", format!("{id} ({id:#x})")));
    }
    lines.push(("heartbeat", heartbeat(b)));
    if let Some(beat) = &b.health.heartbeat {
        lines.push(("its own heartbeat", own_heartbeat(beat)));
    }
    if let Some(suspicion) = &b.health.suspicion {
        lines.extend(suspected(suspicion));
    }
    if let Some(breaker) = &b.breaker {
        lines.push(("breaker", circuit(breaker)));
    }
    if let Some(limits) = &b.limits {
        lines.push(("limits", limited(limits)));
    }
    lines
}

fn heartbeat(b: &BackendView) -> String {
    let h = &b.health;
    if h.probes == 0 {
        return h.health.clone();
    }
    let rtt = h.rtt_us.map(|us| format!(", last answer in {:.1?}", Duration::from_micros(us))).unwrap_or_default();
    format!("{}, {} of {} probes failed{rtt}", h.health, h.failures, h.probes)
}

fn own_heartbeat(beat: &BeatView) -> String {
    let word = if beat.alive { "alive" } else { "missed" };
    let age = beat.age_ms.map_or_else(|| "none came yet".to_owned(), |ms| format!("last {} ago", span(ms)));
    let load = beat.load.map(|load| format!(", load {load:.2}")).unwrap_or_default();
    format!("{word}, {age}, each holds {}{load}", span(beat.ttl_ms))
}

/// phi = -log10(P(a live backend looks like this)): 1 is a doubt, 4 by two channels or 9 by one a suspicion, 9 by two the end.
fn suspected(s: &SuspicionView) -> Vec<(&'static str, String)> {
    let phase = match s.phase {
        Phase::Up => "not suspected",
        Phase::Soft => "suspected: new flows elsewhere where flows are remembered",
        Phase::Down => "given up: nothing is sent to it",
        Phase::Recovering => "coming back",
    };
    let flaps = if s.penalty >= 0.05 { format!(", flap penalty {:.1}", s.penalty) } else { String::new() };
    let mut lines = vec![("suspicion", format!("{phase}; phi {:.1}{flaps}", s.phi))];
    let signals = &s.signals;
    let told = |phi: f64, none: &str, some: String| if phi > 0.0 { format!("{some} (phi {phi:.1})") } else { none.to_owned() };
    let pulse = s.pulse_rtt_us.map(|us| format!("answered in {:.1?}", Duration::from_micros(us)));
    let pulses = if s.unanswered == 0 {
        pulse.unwrap_or_else(|| "none was answered yet".to_owned())
    } else {
        format!("{} unanswered in a row", s.unanswered)
    };
    lines.push(("  traffic", told(signals.passive, "nothing speaks against it", "silent while the others answer".to_owned())));
    lines.push(("  pulses", told(signals.probes, &pulses, pulses.clone())));
    lines.push(("  hints", told(signals.hints, "none", "refused, unreachable, or its neighbour failed".to_owned())));
    lines.push(("  trials", told(signals.trial, "none failed", "checks that were made because of the doubt failed".to_owned())));
    let check = match signals.app {
        App::Unchecked => "not checked",
        App::Undecided => "undecided",
        App::Risen => "passes",
        App::Fallen => "fails",
    };
    lines.push(("  check", check.to_owned()));
    lines
}

fn circuit(b: &BreakerView) -> String {
    let next = b.next_ms.map(|ms| format!(" for {} more", span(ms))).unwrap_or_default();
    let what = match b.state {
        Circuit::Closed => "",
        Circuit::Open => ", then it is tried",
        Circuit::HalfOpen => ", then it is closed",
    };
    format!("{}{next}{what}; {}", b.state, b.reading)
}

fn limited(l: &LimitView) -> String {
    let open = l.connections.map(|n| format!("{n} of ")).unwrap_or_default();
    let mut parts: Vec<String> = l.max_connections.iter().map(|limit| format!("{open}{limit} connections")).collect();
    parts.extend(l.max_connection_rate.map(|rate| format!("{rate} new ones a second")));
    parts.extend(l.reached.clone());
    parts.join(", ")
}

fn span(ms: u64) -> String {
    Span(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::tests::sample,
        health::{breaker::Reading, detector::Signals},
    };

    fn shown(b: &BackendView) -> String {
        lines(b).iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
    }

    #[test]
    fn a_backend_that_nothing_speaks_against() {
        assert_eq!(shown(&sample::backend("web", 1, None)), "heartbeat: up, 2 of 20 probes failed, last answer in 1.5ms\n");
    }

    #[test]
    fn every_channel_breaker_and_limit_is_told() {
        let mut b = sample::backend("web", 1, None);
        b.backup = 2;
        b.health.suspicion = Some(SuspicionView {
            phase: Phase::Soft,
            phi: 10.0,
            signals: Signals { probes: 6.0, hints: 4.0, ..Signals::default() },
            penalty: 1.0,
            unanswered: 4,
            pulse_rtt_us: Some(80),
        });
        b.health.heartbeat = Some(BeatView { alive: false, ttl_ms: 1000, age_ms: Some(1500), load: Some(0.5) });
        b.breaker = Some(BreakerView {
            state: Circuit::Open,
            next_ms: Some(800),
            reading: Reading { flows: 30, failures: Some(0.6), in_row: 7, latency: None },
        });
        b.limits = Some(LimitView {
            max_connections: Some(10),
            max_connection_rate: Some(5),
            connections: Some(10),
            reached: Some("it has 10 connections, and may have 10".into()),
        });
        let shown = shown(&b);
        for line in [
            "backup: number 2\n",
            "its own heartbeat: missed, last 1500ms ago, each holds 1s, load 0.50\n",
            "suspicion: suspected: new flows elsewhere where flows are remembered; phi 10.0, flap penalty 1.0\n",
            "  traffic: nothing speaks against it\n",
            "  pulses: 4 unanswered in a row (phi 6.0)\n",
            "  hints: refused, unreachable, or its neighbour failed (phi 4.0)\n",
            "breaker: open for 800ms more, then it is tried; 30 flows, 60 % failed beyond what all have, 7 failed in a row\n",
            "limits: 10 of 10 connections, 5 new ones a second, it has 10 connections, and may have 10\n",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
    }
}
