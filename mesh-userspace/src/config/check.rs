//! The heartbeat of a service as written -> as meant: how often, from where, and [`probe`](super::probe) says what.

use std::{net::IpAddr, path::Path, time::Duration};

use super::{
    forms::HealthForm,
    health::{default_judgement, resolve_judgement},
    placed::Placed,
    probe::resolve_kind,
    reported::ThroughWord,
    resolve::Findings,
    resolved::Check,
    words::Span,
    written::{self, Health, ProbeWord},
};
use crate::model::{Mode, Proto, VipAddr};

/// `None` for a service without a heartbeat, or with an error in `findings`. Relative paths are relative to `base`.
pub fn resolve_check(written: &written::Service, vip: VipAddr, base: &Path, findings: &mut Findings<'_>) -> Option<Check> {
    let mode: Mode = written.mode.value.into();
    let Some(placed) = &written.health else {
        if vip.proto == Proto::Udp {
            findings.error(
                &written.name,
                "a UDP service has no default heartbeat",
                "add `health: {type: udp, send: TEXT}`, another probe that lives and dies with it, or `health: none`",
            );
            return None;
        }
        let judgement = default_judgement(vip.proto);
        return Some(Check { judgement, through_vip: mode == Mode::Tunnel, ..Check::default() });
    };
    let HealthForm(health) = &placed.value;
    let kind = resolve_kind(health, placed, base, findings)?;
    let d = Check::default();
    let interval = span(health.interval.as_ref(), d.interval, findings);
    let jitter = jitter(health.jitter.as_ref(), findings);
    let timeout = span(health.timeout.as_ref(), d.timeout.min(interval), findings);
    if timeout > interval
        && let Some(at) = health.timeout.as_ref().map(|t| t.place.clone()).or_else(|| health.interval.as_ref().map(|i| i.place.clone()))
    {
        findings.warn(
            &Placed { value: (), place: at },
            format!("timeout {} is longer than the interval {}", Span(timeout), Span(interval)),
            "a probe that hangs delays the next one: failures are found later than the interval suggests",
        );
    }
    let source = health.source.as_ref().and_then(|s| source(s, vip.addr, findings));
    let (rise, fall) = (times(health.rise.as_ref(), d.rise, findings), times(health.fall.as_ref(), d.fall, findings));
    let judgement = resolve_judgement(health, vip.proto, findings);
    let through_vip = through_vip(health, mode, findings);
    Some(Check { kind, port: health.port.as_ref().map(|p| p.value), through_vip, source, interval, jitter, timeout, rise, fall, judgement })
}

/// What probes ask: the VIP, or the backend's own address.
fn through_vip(health: &Health, mode: Mode, findings: &mut Findings<'_>) -> bool {
    let Some(through) = &health.through else { return mode == Mode::Tunnel };
    let vip = through.value == ThroughWord::Vip;
    if vip && matches!(mode, Mode::Nat | Mode::Dnat) {
        let help = "its backends know nothing of the VIP: write `through: direct`, or remove the key";
        findings.error(through, format!("`through: vip` can't be had in mode `{}`", mode.name()), help);
    }
    if vip && health.probe.value == ProbeWord::Exec {
        findings.error(through, "a command asks by a way of its own", "remove `through`, or probe by another type");
    }
    vip
}

fn source(written: &Placed<String>, vip: IpAddr, findings: &mut Findings<'_>) -> Option<IpAddr> {
    let parsed = written.value.parse::<IpAddr>().map_err(|_| format!("`{written}` is no address"));
    let addr = findings.ok(written, parsed, "write an address of this host, without a port")?;
    if addr.is_ipv4() != vip.is_ipv4() {
        findings.error(written, format!("{addr} is not of the family of the backends"), "write an address of the VIP's family");
    }
    Some(addr)
}

fn times(n: Option<&Placed<u32>>, default: u32, findings: &mut Findings<'_>) -> u32 {
    match n {
        None => default,
        Some(n) if (1..=1000).contains(&n.value) => n.value,
        Some(n) => {
            findings.error(n, format!("{n} is out of range"), "write 1 to 1000");
            default
        }
    }
}

fn jitter(written: Option<&Placed<u32>>, findings: &mut Findings<'_>) -> u8 {
    match written.map(|percent| (percent, u8::try_from(percent.value))) {
        None => 0,
        Some((_, Ok(percent @ 0..=50))) => percent,
        Some((at, _)) => {
            findings.error(at, format!("{at} is out of range"), "write percent of the interval, 0 to 50");
            0
        }
    }
}

fn span(written: Option<&Placed<Span>>, default: Duration, findings: &mut Findings<'_>) -> Duration {
    match written {
        None => default,
        Some(s) if (Duration::from_millis(10)..=Duration::from_hours(1)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), "write 10ms to 1h");
            default
        }
    }
}
