//! Answers as people read them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    control::explaining::named,
    control::view::{BackendView, FlowsView, LedgerView, MovingView, ServiceView, SourceView, Status, Traffic, Usage},
    events::Event,
    model::BackendId,
};

/// Columns for the names of values; the longest one is a reason, indented.
const KEY: usize = 19;

pub(super) fn status(status: &Status, wide: bool) -> String {
    let mut lines = Vec::new();
    let mut line = |key: &str, value: String| lines.push(format!("{:<KEY$}{value}\n", format!("{key}:")));
    line("instance", format!("{} (mesh {}, pid {}, up {})", status.instance, status.version, status.pid, ago(status.started_ms)));
    let ready = if status.readiness.ready { "yes".into() } else { format!("no, waiting for {}", status.readiness.waiting.join(", ")) };
    line("ready", ready);
    line("configuration", format!("{}, read {} ago", status.config.file.display(), ago(status.config.loaded_ms)));
    if let Some(error) = &status.config.error {
        line("reload failed", indented(error));
    }
    for warning in &status.config.warnings {
        line("warning", indented(warning));
    }
    for interface in &status.interfaces {
        let hook = if interface.hook.is_empty() { "not attached" } else { &interface.hook };
        let problem = interface.problem.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
        line("interface", format!("{} {hook}{problem}", interface.name));
    }
    let states: Vec<_> = status.backends.iter().filter(|(_, n)| **n > 0).map(|(state, n)| format!("{n} {state}")).collect();
    line("services", status.services.to_string());
    line("backends", if states.is_empty() { "none".into() } else { states.join(", ") });
    for source in &status.stale {
        let age = source.answered_ms.map_or_else(|| "unknown".into(), ago);
        line(
            "stale source",
            format!("{} of {}, last heard {age} ago: {}", source.source, source.service, source.error.as_deref().unwrap_or("-")),
        );
    }
    line("tables", format!("epoch {}, {} slots", status.epoch.0, usage(status.slots)));
    line("translation", format!("{} flows, {} half-open", usage(status.nat.flows), status.nat.half_open));
    let ledger = &status.ledger;
    line("ledger", format!("{} slots on their way, {} entries, {} refused", ledger.moving, usage(ledger.entries), ledger.refused));
    for peer in status.peers.iter().flat_map(|peers| &peers.nodes) {
        let heard = peer.age_ms.map_or_else(|| "never heard".into(), |age| format!("heard {age} ms ago"));
        let vote = if peer.fresh { format!("doubts {} backends", peer.doubts) } else { "has no vote".into() };
        line("peer", format!("{}, {heard}, {vote}, {}", peer.address, flows(&peer.flows)));
    }
    if let Some(peers) = &status.peers {
        let joining = if peers.joining { ", joining" } else { "" };
        line("peers", format!("epoch {}{joining}, {} of their entries found no room", peers.epoch, peers.no_room));
    }
    line("received", traffic(status.rx));
    for (reason, t) in status.reasons.iter().filter(|(_, t)| wide || t.packets > 0) {
        line(&format!("  {reason}"), traffic(*t));
    }
    line("pins", status.pins.display().to_string());
    lines.concat()
}

/// How a peer takes part in changes of slots.
fn flows(flows: &FlowsView) -> String {
    let FlowsView { state, epoch, behind, moving, sent, waiting, received, .. } = flows;
    let state = state.name();
    format!(
        "{state}: epoch {epoch}, {behind} behind, {moving} services on their way, {sent} entries sent, {waiting} waiting, {received} received"
    )
}

pub(super) fn ledger(ledger: &LedgerView) -> String {
    let span = |ms: u64| format!("{:.1} s", ms as f64 / 1e3);
    let mean = ledger.settle_ms.checked_div(ledger.settled).map_or_else(|| "-".into(), span);
    let lines = [
        ("on their way", format!("{} slots", ledger.moving)),
        ("entries", format!("{}, {} of them handshakes", usage(ledger.entries), ledger.pending)),
        ("oldest", span(ledger.oldest_ms)),
        ("remembered", ledger.remembered.to_string()),
        ("refused", ledger.refused.to_string()),
        ("led elsewhere", format!("{} packets", ledger.elsewhere)),
        ("came to rest", format!("{} slots, in {mean} on average, {} at most", ledger.settled, span(ledger.settle_longest_ms))),
    ];
    lines.into_iter().map(|(key, value)| format!("{:<KEY$}{value}\n", format!("{key}:"))).collect()
}

pub(super) fn moving(rows: &[MovingView]) -> String {
    let mut table = table(&["SERVICE", "FROM", "TO", "STAGE", "SLOTS", "LONGEST"], 4..6);
    for row in rows {
        let name = |id: Option<BackendId>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let longest = format!("{:.1} s", row.longest_ms as f64 / 1e3);
        table.add_row([row.service.to_string(), name(row.from), name(row.to), row.stage.name().to_owned(), row.slots.to_string(), longest]);
    }
    finish(&table)
}

pub(super) fn services(services: &[ServiceView], wide: bool) -> String {
    let mut table = table(&["NAME", "VIP", "MODE", "BACKENDS", "FLOWS", "PACKETS", "BYTES"], 3..7);
    if wide {
        table = self::table(
            &["NAME", "VIP", "MODE", "BACKENDS", "FLOWS", "PACKETS", "BYTES", "LIVE", "SLOTS", "CHECK", "FROM", "ANNOUNCED", "PROBLEM"],
            3..9,
        );
    }
    for s in services {
        let mut row = vec![
            s.name.to_string(),
            vip(s),
            s.mode.to_string(),
            format!("{}/{}", s.taking, s.backends),
            s.flows.to_string(),
            s.forwarded.packets.to_string(),
            bytes(s.forwarded.bytes),
        ];
        if wide {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            row.extend([s.live_flows.to_string(), s.slots.to_string(), s.check.clone(), s.origin.to_string()]);
            row.extend([or_dash(&s.announce), or_dash(&s.problem)]);
        }
        table.add_row(row);
    }
    finish(&table)
}

pub(super) fn service(s: &ServiceView, members: &[BackendView], wide: bool) -> String {
    let mut lines = vec![format!("{} {} by {}, from {}\n", s.name, vip(s), s.mode, s.origin)];
    let mut line = |key: &str, value: String| lines.push(format!("  {:<KEY$}{value}\n", format!("{key}:")));
    if let Some(problem) = &s.problem {
        line("problem", problem.clone());
    }
    line("check", s.check.clone());
    if let Some(interface) = &s.announce {
        line("announced", format!("on {interface}"));
    }
    if !s.hash.is_empty() {
        line("hash", format!("of {}", named(&s.hash)));
    }
    line("when empty", s.when_empty.name().to_owned());
    let affinity = s.scheduling.affinity_s.map_or_else(String::new, |s| format!(", sources stay for {s} s"));
    line("scheduler", format!("{}{affinity}", s.scheduling.scheduler.name()));
    if let Some(bytes) = s.scheduling.quic_server_id_length {
        line("quic", format!("by connection id, server ids of {bytes} bytes"));
    }
    line("slots", s.slots.to_string());
    line("flows", format!("{} so far, {} now", s.flows, s.live_flows));
    line("forwarded", traffic(s.forwarded));
    line("replied", traffic(s.replied));
    for (reason, t) in s.reasons.iter().filter(|(_, t)| wide || t.packets > 0) {
        line(reason, traffic(*t));
    }
    lines.push(backends(members, wide));
    lines.concat()
}

pub(super) fn backends(backends: &[BackendView], wide: bool) -> String {
    let head = ["SERVICE", "BACKEND", "NAME", "STATE", "HEALTH", "WEIGHT", "SHARE", "FLOWS", "LIVE", "RTT"];
    let mut table = table(&head, 5..10);
    if wide {
        table = self::table(&[&head[..], &["SLOTS", "PACKETS", "BYTES", "SINCE", "FROM", "NEXT HOP", "ERROR"]].concat(), 5..13);
    }
    for b in backends {
        let mut row = vec![
            b.service.to_string(),
            b.id.to_string(),
            b.name.clone().unwrap_or_else(|| "-".into()),
            b.state.to_string(),
            b.health.health.clone(),
            b.weight.to_string(),
            format!("{:.1}%", b.share * 100.0),
            b.flows.to_string(),
            b.live_flows.to_string(),
            b.health.rtt_us.map_or_else(|| "-".into(), |us| format!("{:.1?}", Duration::from_micros(us))),
        ];
        if wide {
            row.extend([b.slots.to_string(), b.forwarded.packets.to_string(), bytes(b.forwarded.bytes)]);
            row.extend([b.health.since_ms.map_or_else(|| "-".into(), ago), b.origin.to_string(), next_hop(b)]);
            row.push(b.health.error.clone().unwrap_or_else(|| "-".into()));
        }
        table.add_row(row);
    }
    finish(&table)
}

pub(super) fn backend(b: &BackendView, wide: bool) -> String {
    let mut lines = vec![backends(std::slice::from_ref(b), wide)];
    let mut line = |key: &str, value: String| lines.push(format!("  {:<KEY$}{value}\n", format!("{key}:")));
    line("weight", format!("{:.2} of {}", b.effective_weight, b.weight));
    for (i, why) in b.weighing.why.iter().enumerate() {
        line(if i == 0 { "because" } else { "and" }, why.clone());
    }
    let time = |us: Option<u64>| us.map(|us| format!("{:.1?}", Duration::from_micros(us)));
    if let Some((latency, unloaded)) = time(b.weighing.latency_us).zip(time(b.weighing.unloaded_us)) {
        line("latency", format!("{latency}, without load {unloaded}"));
    }
    if let Some((stay, unloaded)) = time(b.weighing.stay_us).zip(time(b.weighing.stay_unloaded_us)) {
        line("connections", format!("stay {stay}, without load {unloaded}"));
    }
    if let Some(zone) = &b.weighing.zone {
        line("zone", zone.clone());
    }
    for (key, value) in super::why::lines(b) {
        line(key, value);
    }
    if let Some(asked) = &b.health.asked {
        line("asked", asked.clone());
    }
    line("next hop", next_hop(b));
    if let Some(error) = &b.health.error {
        line("last probe", error.clone());
    }
    lines.concat()
}

pub(super) fn sources(sources: &[SourceView], wide: bool) -> String {
    let head = ["SERVICE", "SOURCE", "STATE", "BACKENDS", "AGE", "ERROR"];
    let mut table = if wide { table(&[&head[..], &["UPDATES", "FAILURES"]].concat(), 3..5) } else { table(&head, 3..5) };
    for s in sources {
        let mut row = vec![s.service.to_string(), s.source.clone(), s.state.to_string(), s.endpoints.to_string()];
        row.extend([s.answered_ms.map_or_else(|| "-".into(), ago), s.error.clone().unwrap_or_else(|| "-".into())]);
        if wide {
            row.extend([s.updates.to_string(), s.failures.to_string()]);
        }
        table.add_row(row);
    }
    finish(&table)
}

pub(super) fn event(event: &Event) -> String {
    format!("{} {:>5} {}\n", timestamp(event.time_ms), event.seq, event.what)
}

/// `192.0.2.10:80/tcp`
pub(super) fn vip(s: &ServiceView) -> String {
    match (s.port, s.address) {
        (0, IpAddr::V4(address)) => format!("{address}:*/{}", s.protocol),
        (0, IpAddr::V6(address)) => format!("[{address}]:*/{}", s.protocol),
        _ => format!("{}/{}", SocketAddr::new(s.address, s.port), s.protocol),
    }
}

pub(super) fn backend_name(b: &BackendView) -> String {
    b.name.as_ref().map_or_else(|| b.id.to_string(), |name| format!("{name} ({})", b.id))
}

fn next_hop(b: &BackendView) -> String {
    let hop = &b.next_hop;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".into());
    if hop.ready { format!("{} {}", or_unknown(&hop.interface), or_unknown(&hop.mac)) } else { or_unknown(&hop.reason) }
}

/// The lines of a value that has several.
fn indented(text: &str) -> String {
    text.replace('\n', &format!("\n{:KEY$}", ""))
}

/// A table without lines, whose columns in `numbers` are right-aligned.
pub(super) fn table(head: &[&str], numbers: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(super) fn finish(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn traffic(t: Traffic) -> String {
    format!("{} packets, {}", t.packets, bytes(t.bytes))
}

fn usage(u: Usage) -> String {
    format!("{} of {}", u.used, u.limit)
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let power = (n.ilog2() / 10).clamp(1, 6);
    format!("{:.1} {}", n as f64 / 1024f64.powi(power as i32), UNITS[power as usize - 1])
}

/// Time since a moment, in its two largest units.
fn ago(ms: u64) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(ms);
    let s = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// UTC, RFC 3339 section 5.6.
fn timestamp(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (h, m, s) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", in_day % 1000)
}

/// Year, month and day of a day since 1970-01-01 (Gregorian calendar, counted in years that begin in March).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(timestamp(ms), text);
        }
    }

    #[test]
    fn sizes() {
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "16.0 EiB")] {
            assert_eq!(bytes(n), text);
        }
    }
}
