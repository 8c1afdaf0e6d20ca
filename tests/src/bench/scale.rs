//! What ten thousand services with a hundred thousand backends cost: `cargo xtask bench scale`.
//!
//! The real daemon in a namespace, each backend an address of its own behind a router. What counts as published is read from the kernel's maps, never
//! asked of the daemon.

mod maps;

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh::{api::Client, model::ServiceName};
use nix::sys::signal::Signal;
use serde::Serialize;

use self::maps::Maps;
pub use self::maps::charged;
use super::{quantile, tenth};
use crate::{
    daemon::Daemon,
    netns::{Fabric, remove_stale},
};

const GROUP: &str = "mesh-scale";
/// What a start, and what one change may take.
const START: Duration = Duration::from_secs(10);
const CHANGE_MS: f64 = 5.0;
const RSS_MIB: u64 = 1024;
/// A start is given up after so long.
const PATIENCE: Duration = Duration::from_secs(180);
/// Reading the configuration and making the maps.
const LOADED: Duration = Duration::from_secs(60);
/// Between two changes, so that each is one by itself.
const PAUSE: Duration = Duration::from_millis(30);

/// The result. Times are milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Scale {
    pub services: usize,
    pub backends: usize,
    /// From the start of the process until every service is found and every backend can be sent to.
    pub start_ms: f64,
    /// The same of a daemon that finds all that published.
    pub restart_ms: f64,
    /// From the order by the API until the last slot of the backend is another's.
    pub change_p50_ms: f64,
    pub change_p99_ms: f64,
    pub change_max_ms: f64,
    /// What of it was planning and writing.
    pub plan_apply_us: u64,
    pub changes: usize,
    /// Of the daemon, with the maps that it has mapped; and without them.
    pub rss_mib: u64,
    pub own_mib: u64,
    /// Of all maps in the kernel.
    pub maps_mib: u64,
    pub met: bool,
}

/// Starts a daemon with so many services and backends, and drains backends one by one.
pub fn measure(services: usize, backends: usize, changes: usize) -> Result<Scale> {
    ensure!(
        (1..=60_000).contains(&services) && backends / services >= 2,
        "a service needs two backends, and there are at most 60000 services"
    );
    remove_stale(GROUP)?;
    let fabric = Fabric::new(GROUP)?;
    let (balancer, router) = (fabric.host("balancer", 2)?, fabric.host("router", 11)?);
    balancer.ns.ip(&format!("route add 10.128.0.0/9 via {}", router.v4))?;
    let each = backends / services;
    let mut daemon = Daemon::new(&balancer.ns, &config(services, each))?;
    let start_ms = started(&mut daemon, services, each)?;
    let maps = Maps::open(&daemon.pins())?;
    let client = Client::new(daemon.socket());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let status = runtime.block_on(client.with_patience(PATIENCE).status())?;
    // What the start has left to do is over.
    std::thread::sleep(Duration::from_secs(2));
    let (mut times, mut stalls) = (Vec::new(), 0);
    for i in 0..changes {
        // Services all over, and of each another backend.
        let service = i * 7919 % services;
        let id = backend(service * each + i % each);
        let name: ServiceName = format!("s{service}").parse().map_err(anyhow::Error::msg)?;
        let watched = maps.watch(vip(service), id)?;
        let client = Client::new(daemon.socket());
        let begun = Instant::now();
        let order = runtime.spawn(async move { client.drain(&name, &format!("{id}:80").parse()?, true).await.map_err(anyhow::Error::new) });
        watched.until_left(&maps, PATIENCE)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        runtime.block_on(order)??;
        stalls = stalls.max(begun.elapsed().as_millis());
        std::thread::sleep(PAUSE);
    }
    let published = runtime.block_on(Client::new(daemon.socket()).events(0))?;
    let plan_apply_us = published.iter().rev().find_map(|e| match e.what {
        mesh::events::What::Published { plan_us, apply_us, .. } => Some(plan_us + apply_us),
        _ => None,
    });
    let (rss_mib, own_mib) = memory(status.pid)?;
    daemon.stop(Signal::SIGTERM)?;
    let restart_ms = restarted(&mut daemon, &runtime)?;
    let (change_p50_ms, change_p99_ms) = (tenth(quantile(&mut times, 0.5)), tenth(quantile(&mut times, 0.99)));
    Ok(Scale {
        services,
        backends: services * each,
        start_ms,
        restart_ms,
        change_p50_ms,
        change_p99_ms,
        change_max_ms: tenth(quantile(&mut times, 1.0)),
        plan_apply_us: plan_apply_us.unwrap_or_default(),
        changes,
        rss_mib,
        own_mib,
        maps_mib: maps.bytes()? >> 20,
        met: start_ms < START.as_secs_f64() * 1e3 && change_p99_ms < CHANGE_MS && rss_mib < RSS_MIB,
    })
}

fn started(daemon: &mut Daemon, services: usize, each: usize) -> Result<f64> {
    let begun = Instant::now();
    daemon.launch()?;
    let maps = loop {
        match Maps::open(&daemon.pins()) {
            Ok(maps) => break maps,
            Err(error) if begun.elapsed() > LOADED => return Err(error.context(daemon.log())),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    while !maps.are_complete(services, services * each) {
        ensure!(begun.elapsed() < PATIENCE, "the tables were not complete within {PATIENCE:?}; the daemon's log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// All stands there already: what counts is when the daemon answers again, and has published once.
fn restarted(daemon: &mut Daemon, runtime: &tokio::runtime::Runtime) -> Result<f64> {
    let begun = Instant::now();
    daemon.launch()?;
    loop {
        let ready = runtime.block_on(Client::new(daemon.socket()).with_patience(Duration::from_secs(20)).status());
        if ready.is_ok_and(|status| status.readiness.ready) {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
        ensure!(begun.elapsed() < PATIENCE, "the daemon did not come back; its log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn config(services: usize, each: usize) -> String {
    // A drained backend leaves a table as large as it was; extents are powers of two.
    let slots = services * (each * 128).next_power_of_two().max(256);
    let backends = services * (each + each / 8).next_power_of_two();
    let mut text = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nlimits: {{services: {services}, slots: {}, backends: {}}}\nservices:\n",
        slots + 4096,
        backends + 1024
    );
    for service in 0..services {
        let list: Vec<String> = (0..each).map(|i| backend(service * each + i).to_string()).collect();
        text += &format!("- {{name: s{service}, vip: '{}:80', health: none, backends: [{}]}}\n", vip(service), list.join(", "));
    }
    text
}

fn vip(service: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(u32::from_be_bytes([100, 64, 0, 0]) + service as u32 + 1)
}

fn backend(number: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(u32::from_be_bytes([10, 128, 0, 0]) + number as u32 + 1)
}

/// Resident memory in MiB: in all, and what is the process's own.
fn memory(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find(|l| l.starts_with(name)).with_context(|| format!("/proc/{pid}/status has no {name}"))?;
        Ok(line.split_whitespace().nth(1).context("an empty line")?.parse::<u64>()? >> 10)
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} services, {} backends", self.services, self.backends)?;
        writeln!(f, "  cold start to complete tables {:>9.0} ms", self.start_ms)?;
        writeln!(f, "  restart until ready           {:>9.0} ms", self.restart_ms)?;
        writeln!(
            f,
            "  one backend drained           {:>9.1} ms p50, {:.1} p99, {:.1} max of {} ({} us plan and stores)",
            self.change_p50_ms, self.change_p99_ms, self.change_max_ms, self.changes, self.plan_apply_us
        )?;
        writeln!(f, "  daemon                        {:>9} MiB resident, {} MiB its own", self.rss_mib, self.own_mib)?;
        write!(f, "  maps                          {:>9} MiB{}", self.maps_mib, if self.met { "" } else { "  MISSED" })
    }
}
