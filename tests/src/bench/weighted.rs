//! What weights do for latency, on real HTTP backends of different speed: `cargo xtask bench weights`.
//!
//! Each backend is a few workers that take a time of their own for each request, one after the other; what waits, waits in the backlog. Requests come at times
//! that were drawn before (Poisson), whoever is slow: a latency counts from when its request was due. Checks wait for a worker like requests, and then
//! take a twentieth of their mean time. Suspicion is off: a backend whose backlog is full looks dead to it, and only weights are compared here, with a proxy that
//! checks nothing.

mod backend;
mod requests;
mod trace;

use std::{
    fmt,
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use self::{backend::Backend, requests::Load};
use super::{quantile, tenth};
use crate::{
    daemon::{Daemon, Process},
    netns::{Fabric, Host, remove_stale},
};

const GROUP: &str = "mesh-wbench";
const VIP: &str = "10.77.0.100:8080";
/// Speeds of the backends, and how long a request takes a worker of speed 1, on average.
const SPEEDS: [u16; 4] = [4, 2, 1, 1];
const WORKERS: usize = 4;
const SERVICE: Duration = Duration::from_millis(40);

/// Who chooses the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// All weights are the same.
    Equal,
    /// Weights are the speeds.
    Ideal,
    /// They are the same to begin with, and follow latency.
    Controller,
    /// HAProxy, with the fewest connections first.
    Haproxy,
}

/// Latencies under one policy, milliseconds; who did not answer in time counts as the time that was waited.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub policy: Policy,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub requests: usize,
    pub unanswered: usize,
    /// Share of the requests that each backend answered.
    pub shares: Vec<f64>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Part of what all backends together can do, below 1.
    pub load: f64,
    /// Before and while it is measured, and how long the controller has before.
    pub warm: Duration,
    pub measured: Duration,
    pub settle: Duration,
    /// Tell on standard error every five seconds what the controller makes of each backend.
    pub trace: bool,
}

/// Measures one policy after the other, and shows each as soon as it is there.
pub fn measure(policies: &[Policy], options: &Options, mut show: impl FnMut(&Figure) -> Result<()>) -> Result<()> {
    remove_stale(GROUP)?;
    for policy in policies {
        let fabric = Fabric::new(GROUP)?;
        let (client, balancer) = (fabric.host("client", 1)?, fabric.host("balancer", 2)?);
        let hosts: Vec<Host> = (11..).zip(SPEEDS).map(|(n, _)| fabric.host(&format!("b{n}"), n)).collect::<Result<_>>()?;
        let backends: Vec<Backend> = hosts
            .iter()
            .zip(SPEEDS)
            .map(|(host, speed)| Backend::start(&host.ns, (host.v4, 8080).into(), WORKERS, SERVICE / u32::from(speed)))
            .collect::<Result<_>>()?;
        let at: Vec<SocketAddr> = hosts.iter().map(|host| (host.v4, 8080).into()).collect();
        let balanced = Balanced::start(*policy, &balancer, &at)?;
        let capacity = WORKERS as f64 * f64::from(SPEEDS.iter().sum::<u16>()) / SERVICE.as_secs_f64();
        let load = Load { to: VIP.parse()?, rate: capacity * options.load, seed: 7 };
        let warm = if *policy == Policy::Controller { options.settle } else { options.warm };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let daemon = balanced.daemon.as_ref().filter(|_| options.trace && *policy == Policy::Controller);
            let _tracer = daemon.map(|daemon| scope.spawn(|| trace::follow(daemon, &over)));
            let warmed = load.run(&client.ns, warm);
            over.store(true, Ordering::Relaxed);
            warmed
        })?;
        let before: Vec<u64> = backends.iter().map(Backend::answered).collect();
        let answers = load.run(&client.ns, options.measured)?;
        let counts: Vec<u64> = backends.iter().zip(before).map(|(b, before)| b.answered() - before).collect();
        drop(balanced);
        let mut times: Vec<f64> = answers.iter().map(|a| a.latency.as_secs_f64() * 1e3).collect();
        let all = counts.iter().sum::<u64>().max(1) as f64;
        show(&Figure {
            policy: *policy,
            p50_ms: tenth(quantile(&mut times, 0.5)),
            p99_ms: tenth(quantile(&mut times, 0.99)),
            requests: answers.len(),
            unanswered: answers.iter().filter(|a| !a.answered).count(),
            shares: counts.iter().map(|n| (*n as f64 / all * 1000.0).round() / 1000.0).collect(),
        })?;
    }
    Ok(())
}

/// A running balancer; it ends with this value.
struct Balanced {
    daemon: Option<Daemon>,
    _proxy: Option<(Process, tempfile::TempDir)>,
}

impl Balanced {
    fn start(policy: Policy, balancer: &Host, backends: &[SocketAddr]) -> Result<Self> {
        if policy == Policy::Haproxy {
            return Ok(Self { daemon: None, _proxy: Some(haproxy(balancer, backends)?) });
        }
        let weight = |speed: u16| if policy == Policy::Ideal { speed } else { 1 };
        let list: Vec<String> =
            backends.iter().zip(SPEEDS).map(|(at, speed)| format!("{{address: \"{at}\", weight: {}}}", weight(speed))).collect();
        let keys = match policy {
            Policy::Controller => {
                "health: {type: http, path: /check, interval: 250ms, timeout: 2s, fall: 10, detector: rise_fall}, weights: {by: latency}"
            }
            _ => "health: none",
        };
        let config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n- {{name: web, vip: '{VIP}', slots: 4096, announce: {{address: eth0}}, {keys}, \
             backends: [{}]}}\n",
            list.join(", ")
        );
        Ok(Self { daemon: Some(Daemon::start(&balancer.ns, &config)?), _proxy: None })
    }
}

fn haproxy(balancer: &Host, backends: &[SocketAddr]) -> Result<(Process, tempfile::TempDir)> {
    let vip: SocketAddr = VIP.parse()?;
    balancer.ns.ip(&format!("address add {}/24 dev eth0", vip.ip()))?;
    let directory = tempfile::Builder::new().prefix("mesh-bench-").tempdir()?;
    let servers: String = backends.iter().zip(1..).map(|(at, i)| format!("  server b{i} {at}\n")).collect();
    let text = format!(
        "global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\nfrontend f\n  bind {vip}\n\
         \x20 default_backend b\nbackend b\n  balance leastconn\n{servers}"
    );
    let config = directory.path().join("haproxy.cfg");
    std::fs::write(&config, text)?;
    let mut command = balancer.ns.command("haproxy");
    let process = Process::spawn(command.args(["-db", "-f"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null()))
        .context("failed to start HAProxy: `cargo xtask setup --with-peers` installs it")?;
    Ok((process, directory))
}

impl Figure {
    pub const HEAD: &str = "policy         p50 ms    p99 ms  requests  unanswered  shares of backends of speed 4, 2, 1, 1";
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = format!("{:?}", self.policy).to_lowercase();
        write!(f, "{policy:<12} {:>8.1} {:>9.1} {:>9} {:>11}  {:?}", self.p50_ms, self.p99_ms, self.requests, self.unanswered, self.shares)
    }
}
