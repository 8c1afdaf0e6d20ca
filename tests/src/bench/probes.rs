//! What asking many backends costs: `cargo xtask bench probes`.
//!
//! The monitor of the daemon asks thousands of addresses of one server over loopback in a namespace of its own. Loopback hands a packet to its
//! receiver in the sender's time, so that half of the server's kernel work is counted as the prober's.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mesh::{
    health::{Check, CheckKind, HttpCheck, Monitor, MonitorHandle, StatusSet, TargetKey},
    model::BackendId,
};
use serde::Serialize;

use super::stall::StallClock;
use crate::{
    daemon::{Process, peer_binary},
    netns::Namespace,
};

const PORT: u16 = 8080;
/// Time until targets that came together have spread.
const WARM: Duration = Duration::from_secs(3);
/// The thread that asks.
const PROBER: &str = "mesh-health";

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Tcp,
    Http,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub kind: Kind,
    pub backends: u32,
    pub interval_ms: f64,
    pub seconds: f64,
    /// Checks that ended, a second.
    pub checks_per_s: f64,
    pub failed: u64,
    pub excused: u64,
    /// SYNs that the server's kernel dropped because too many connections waited for it: such a failure is the bench's own.
    pub dropped_syns: u64,
    /// Time of the asking thread, of one core.
    pub cores: f64,
    pub us_per_check: f64,
    pub stall_p999_ms: f64,
    /// All were asked as often as they should be, without a false word, for one core at most.
    pub met: bool,
}

impl Cost {
    pub const HEAD: &str = "kind  backends interval ms  checks/s  failed excused dropped  cores us/check   stall";
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind, backends, interval_ms, checks_per_s, failed, excused, dropped_syns, cores, us_per_check, stall_p999_ms, met, ..
        } = self;
        let kind = if *kind == Kind::Tcp { "tcp" } else { "http" };
        let verdict = if *met { "met" } else { "MISSED" };
        write!(
            f,
            "{kind:<5} {backends:>8} {interval_ms:>11} {checks_per_s:>9.0} {failed:>7} {excused:>7} {dropped_syns:>7} {cores:>6.2} {us_per_check:>8.1} {stall_p999_ms:>7.1} {verdict}"
        )
    }
}

/// Asks `backends` every `interval` for `length`.
pub fn cost(kind: Kind, backends: u32, interval: Duration, length: Duration) -> Result<Cost> {
    let ns = Namespace::new("mesh-bench", "probes")?;
    ns.sysctl("net/core/somaxconn", "16384")?;
    ns.sysctl("net/ipv4/tcp_max_syn_backlog", "16384")?;
    // Backends have machines of their own; here what else runs goes after them.
    let _server = Process::spawn(ns.command("nice").args(["-n", "-10"]).arg(peer_binary()?).arg("peer").arg(format!("0.0.0.0:{PORT}")))?;
    await_server(&ns)?;
    let (monitor, mut events) = ns.enter(Monitor::spawn)?.context("failed to start the monitor")?;
    // Nobody is there to hear of changes: they are drained so that the board has nothing to keep.
    let listener = std::thread::spawn(move || while events.blocking_recv().is_some() {});
    monitor.set_targets(targets(kind, backends, interval)?);
    std::thread::sleep(WARM.max(2 * interval));
    let clock = StallClock::start();
    let (before, lost, cpu, begin) = (counts(&monitor), dropped_syns(&ns)?, cpu_time()?, Instant::now());
    std::thread::sleep(length);
    let (after, spent, took) = (counts(&monitor), cpu_time()? - cpu, begin.elapsed());
    let dropped_syns = dropped_syns(&ns)? - lost;
    drop(monitor);
    let _ = listener.join();
    let seconds = took.as_secs_f64();
    let [checks, failed, excused] = [0, 1, 2].map(|i| after[i] - before[i]);
    let wanted = f64::from(backends) / interval.as_secs_f64() * seconds;
    let cores = spent.as_secs_f64() / seconds;
    Ok(Cost {
        kind,
        backends,
        interval_ms: interval.as_secs_f64() * 1e3,
        seconds,
        checks_per_s: checks as f64 / seconds,
        failed,
        excused,
        dropped_syns,
        cores,
        us_per_check: spent.as_secs_f64() * 1e6 / checks.max(1) as f64,
        stall_p999_ms: clock.finish(),
        met: failed == 0 && cores <= 1.0 && checks as f64 >= 0.97 * wanted,
    })
}

fn await_server(ns: &Namespace) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while ns.enter(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)))?.is_err() {
        ensure!(Instant::now() < end, "the server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn targets(kind: Kind, backends: u32, interval: Duration) -> Result<BTreeMap<TargetKey, Check>> {
    let get = HttpCheck::new("/", None, StatusSet::default())?;
    let all = (0..backends).map(|i| {
        let address = SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + i), PORT));
        let kind = if kind == Kind::Tcp { CheckKind::Tcp } else { CheckKind::Http(Box::new(get.clone())) };
        let check = Check { interval, timeout: interval.min(Duration::from_millis(500)), ..Check::new(kind, address) };
        Ok((TargetKey { service: "probed".parse().map_err(anyhow::Error::msg)?, backend: BackendId(address) }, check))
    });
    all.collect()
}

/// Checks that ended, failed and were excused so far.
fn counts(monitor: &MonitorHandle) -> [u64; 3] {
    monitor.snapshot().values().fold([0; 3], |[a, b, c], s| [a + s.checks_done, b + s.checks_failed, c + s.checks_excused])
}

/// `ListenOverflows` of the namespace.
fn dropped_syns(ns: &Namespace) -> Result<u64> {
    let text = ns.enter(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = rows.next().zip(rows.next()).context("netstat has no row of TCP")?;
    let value = names.zip(values).find(|(name, _)| *name == "ListenOverflows").and_then(|(_, value)| value.parse().ok());
    value.context("netstat does not count ListenOverflows")
}

/// Time that the asking thread has run.
fn cpu_time() -> Result<Duration> {
    for task in fs::read_dir("/proc/self/task")?.flatten() {
        if fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == PROBER) {
            let stat = fs::read_to_string(task.path().join("schedstat"))?;
            let ns = stat.split(' ').next().and_then(|n| n.parse().ok()).context("schedstat has no time")?;
            return Ok(Duration::from_nanos(ns));
        }
    }
    anyhow::bail!("no thread is called {PROBER}")
}
