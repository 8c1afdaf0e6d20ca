//! Connections and requests a second, and what CPU time they take, by way of mesh and of others: `cargo xtask bench e2e`.
//!
//! All balancers are there at once and take turns, one slice after the other, so that whatever else the machine does hits all of them alike. CPU time
//! is that of the whole machine, softirqs included: what a balancer in the kernel does is billed to no process.

mod arms;
mod wire;

use std::{fmt, fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

pub use self::arms::Arm;
use self::{
    arms::Ground,
    wire::{Client, Kind},
};
use super::{quantile, tenth};
use crate::netns::remove_stale;

const GROUP: &str = "mesh-e2e";
/// `USER_HZ`, which never is another number.
const TICKS_PER_S: f64 = 100.0;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    pub arms: Vec<Arm>,
    pub rounds: usize,
    /// Of each arm, kind and round.
    pub slice: Duration,
    /// Connections that the client has open at once.
    pub at_once: usize,
}

/// One balancer's medians. CPU times are microseconds of all CPUs together.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub arm: Arm,
    pub connections_per_s: f64,
    pub requests_per_s: f64,
    pub cpu_us_per_connection: f64,
    pub cpu_us_per_request: f64,
    /// Of what the same takes without a balancer.
    pub connections_ratio: f64,
    pub requests_ratio: f64,
    pub cpu_per_connection_ratio: f64,
    pub cpu_per_request_ratio: f64,
    /// What the balancer itself adds.
    pub own_us_per_connection: f64,
    pub own_us_per_request: f64,
    pub rounds: usize,
}

/// The whole result: medians, and what else ran.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub figures: Vec<Figure>,
    /// Share of all CPU time that was busy while nobody asked: other work, which counts as the balancers' here.
    pub busy_beside: f64,
}

#[derive(Clone, Debug, Default)]
struct Samples {
    per_s: Vec<f64>,
    cpu_us: Vec<f64>,
}

/// Measures all arms in turns.
pub fn measure(options: &Options) -> Result<Report> {
    remove_stale(GROUP)?;
    let mut arms = vec![Arm::Direct];
    arms.extend(options.arms.iter().filter(|arm| **arm != Arm::Direct));
    let ground = Ground::build(GROUP, &arms)?;
    let mut samples = vec![[Samples::default(), Samples::default()]; arms.len()];
    let mut beside = Vec::new();
    // The first round warms up and is not counted.
    for round in 0..=options.rounds {
        let before = cpu()?;
        std::thread::sleep(options.slice / 4);
        beside.push(cpu()?.busy_share(&before));
        for (arm, samples) in arms.iter().zip(&mut samples) {
            for (kind, samples) in [Kind::Connections, Kind::Requests].into_iter().zip(samples) {
                let (per_s, cpu_us) = slice(&ground, *arm, kind, options).with_context(|| format!("{}, {kind:?}", arm.name()))?;
                if round > 0 {
                    samples.per_s.push(per_s);
                    samples.cpu_us.push(cpu_us);
                }
            }
        }
    }
    let medians: Vec<[f64; 4]> =
        samples.iter_mut().map(|[c, r]| [&mut c.per_s, &mut c.cpu_us, &mut r.per_s, &mut r.cpu_us].map(|v| quantile(v, 0.5))).collect();
    let floor = medians[0];
    let figures = arms.iter().zip(&medians).map(|(arm, own)| figure(*arm, *own, floor, options.rounds)).collect();
    Ok(Report { figures, busy_beside: hundredth(quantile(&mut beside, 0.5)) })
}

/// Answers a second, and CPU microseconds for each.
fn slice(ground: &Ground, arm: Arm, kind: Kind, options: &Options) -> Result<(f64, f64)> {
    let client = Client { ns: &ground.client.ns, at_once: options.at_once };
    let before = cpu()?;
    let (answers, took) = client.ask(kind, &arm.targets(), arm.source(&ground.client), options.slice)?;
    let after = cpu()?;
    Ok((answers as f64 / took.as_secs_f64(), (after.busy - before.busy) / TICKS_PER_S * 1e6 / answers as f64))
}

fn figure(arm: Arm, [connections, connection_us, requests, request_us]: [f64; 4], floor: [f64; 4], rounds: usize) -> Figure {
    Figure {
        arm,
        connections_per_s: connections.round(),
        requests_per_s: requests.round(),
        cpu_us_per_connection: tenth(connection_us),
        cpu_us_per_request: tenth(request_us),
        connections_ratio: hundredth(connections / floor[0]),
        requests_ratio: hundredth(requests / floor[2]),
        cpu_per_connection_ratio: hundredth(connection_us / floor[1]),
        cpu_per_request_ratio: hundredth(request_us / floor[3]),
        own_us_per_connection: tenth(connection_us - floor[1]),
        own_us_per_request: tenth(request_us - floor[3]),
        rounds,
    }
}

/// CPU time of the whole machine since its start, in ticks of all CPUs.
struct Cpu {
    busy: f64,
    idle: f64,
}

impl Cpu {
    fn busy_share(&self, before: &Self) -> f64 {
        let (busy, idle) = (self.busy - before.busy, self.idle - before.idle);
        busy / (busy + idle).max(1.0)
    }
}

/// The first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal, ...
fn cpu() -> Result<Cpu> {
    let text = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else { anyhow::bail!("/proc/stat begins with `{line}`") };
    Ok(Cpu { busy: user + nice + system + irq + softirq, idle: idle + iowait })
}

fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Figure {
    pub const HEAD: &str = "                conn/s  of direct   CPU us each     own       req/s  of direct   CPU us each     own";
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<12} {:>9.0} {:>10.2} {:>13.1} {:>7.1} {:>11.0} {:>10.2} {:>13.1} {:>7.1}",
            self.arm.name(),
            self.connections_per_s,
            self.connections_ratio,
            self.cpu_us_per_connection,
            self.own_us_per_connection,
            self.requests_per_s,
            self.requests_ratio,
            self.cpu_us_per_request,
            self.own_us_per_request,
        )
    }
}
