//! Policies of choosing a backend on the same queues: latency of requests under each, by the project's controller and tables.

use std::{collections::BTreeMap, net::Ipv4Addr};

use mesh::{
    model::{BackendId, Weight},
    table::{BaseTable, Member, SLACK_PERMILLE, owners},
    weights::{Controller, Factor, Observation, effective},
};

use super::{queue::Backend, random::Random};

/// What is simulated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Case {
    /// Cores of each backend.
    pub cores: f64,
    /// Load of all together.
    pub rho: f64,
    /// One request in twenty is ten times as large.
    pub heavy: bool,
    /// From then on the fastest backend has a quarter of its speed.
    pub slow_down: Option<f64>,
    pub seconds: f64,
    pub seed: u64,
}

/// Who chooses, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Equal weights.
    Equal,
    /// Weights by capacity: what one who knows everything would configure.
    Oracle,
    /// The controller, from equal weights on, by the latency of all requests, ...
    Requests,
    /// ... or by that of one probe a second.
    Probes,
    /// Fewest open requests for its capacity, by somebody who sees all of them.
    LeastConnections,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    pub policy: String,
    pub p50: f64,
    pub p99: f64,
    /// p99 of each ten seconds, from the begin.
    pub windows: Vec<f64>,
    /// Share of the slots that moved in a second, on average.
    pub churn: f64,
}

pub const POLICIES: [Policy; 5] = [Policy::Equal, Policy::Oracle, Policy::Requests, Policy::Probes, Policy::LeastConnections];
/// Mean work of a request: milliseconds at speed 1.
const WORK: f64 = 0.020;
const BACKENDS: usize = 40;
const LOG2_SLOTS: u8 = 13;
/// Work of a probe, beside which a request is large.
const PROBE: f64 = 0.002;
const WINDOW: f64 = 10.0;

/// Runs one case under one policy; what is told is of its second half, and of each window.
pub fn run(case: &Case, policy: Policy) -> Outcome {
    let mut world = World::new(case, policy);
    let mut second = 1.0;
    let mut slowed = false;
    while world.now < case.seconds {
        if case.slow_down.is_some_and(|at| !slowed && world.now >= at) {
            slowed = true;
            let (fastest, speed) = (BACKENDS - 1, world.backends[BACKENDS - 1].speed / 4.0);
            world.backends[fastest].set_speed(world.now, speed);
            world.refresh(fastest);
        }
        world.event(case, policy);
        if world.now >= second {
            world.tick(policy, second);
            second += 1.0;
        }
    }
    world.outcome(case, policy)
}

struct World {
    now: f64,
    backends: Vec<Backend>,
    next: Vec<f64>,
    arrival: f64,
    rate: f64,
    random: Random,
    base: Option<BaseTable>,
    owner: Vec<u16>,
    controller: Controller,
    /// Latency without load, as it was at first.
    unloaded: Vec<f64>,
    /// Of the running second: latencies, their number, arrivals, completions; of probes.
    seen: Vec<[f64; 4]>,
    probed: Vec<Option<f64>>,
    moved: f64,
    latencies: Vec<(f64, f32)>,
}

impl World {
    fn new(case: &Case, policy: Policy) -> Self {
        // A spread of four, evenly over the logarithm.
        let speeds: Vec<f64> = (0..BACKENDS).map(|i| 0.5 * 4f64.powf(i as f64 / (BACKENDS - 1) as f64)).collect();
        let capacity: f64 = speeds.iter().sum::<f64>() * case.cores / WORK;
        let members: Vec<_> = (0..BACKENDS).map(|i| Member { id: id(i), weight: configured(policy, speeds[i]) }).collect();
        let base = BaseTable::build(&members, LOG2_SLOTS, 7).ok();
        Self {
            now: 0.0,
            backends: speeds.iter().map(|s| Backend::new(*s, case.cores)).collect(),
            next: vec![f64::INFINITY; BACKENDS],
            arrival: 0.0,
            rate: case.rho * capacity,
            random: Random::new(case.seed),
            owner: base.as_ref().map(|b| b.owner().to_vec()).unwrap_or_default(),
            base,
            controller: Controller::default(),
            unloaded: speeds.iter().map(|s| WORK / s).collect(),
            seen: vec![[0.0; 4]; BACKENDS],
            probed: vec![None; BACKENDS],
            moved: 0.0,
            latencies: Vec::new(),
        }
    }

    /// The next thing that happens: a request comes, or one is done.
    fn event(&mut self, case: &Case, policy: Policy) {
        let (who, at) = self.next.iter().enumerate().fold((0, f64::INFINITY), |best, (i, at)| if *at < best.1 { (i, *at) } else { best });
        if self.arrival <= at {
            self.now = self.arrival;
            self.arrival += self.random.exponential() / self.rate;
            let chosen = self.choose(policy);
            let work = self.work(case.heavy);
            self.seen[chosen][2] += 1.0;
            self.backends[chosen].arrive(self.now, work, false);
            return self.refresh(chosen);
        }
        self.now = at;
        if let Some(done) = self.backends[who].finish(at) {
            let took = at - done.came;
            if done.probe {
                self.probed[who] = Some(took);
            } else {
                let seen = &mut self.seen[who];
                (seen[0], seen[1], seen[3]) = (seen[0] + took, seen[1] + 1.0, seen[3] + 1.0);
                self.latencies.push((at, took as f32));
            }
        }
        self.refresh(who);
    }

    fn choose(&mut self, policy: Policy) -> usize {
        if policy == Policy::LeastConnections {
            let load = |b: &Backend| (b.open() as f64 + 1.0) / (b.speed * b.cores);
            let best = self.backends.iter().enumerate().min_by(|a, b| load(a.1).total_cmp(&load(b.1)));
            return best.map_or(0, |(i, _)| i);
        }
        let slot = self.random.word() >> (64 - LOG2_SLOTS);
        self.owner.get(slot as usize).map_or(0, |o| usize::from(*o))
    }

    fn work(&mut self, heavy: bool) -> f64 {
        // Mean 1 both ways: 0.95 x 1/1.45 + 0.05 x 10/1.45.
        let scale = if !heavy {
            1.0
        } else if self.random.unit() < 0.05 {
            10.0 / 1.45
        } else {
            1.0 / 1.45
        };
        WORK * scale * self.random.exponential()
    }

    fn refresh(&mut self, who: usize) {
        self.next[who] = self.backends[who].next();
    }

    /// A second is over: the controller takes a step.
    fn tick(&mut self, policy: Policy, second: f64) {
        if !matches!(policy, Policy::Requests | Policy::Probes) {
            return;
        }
        let seen = self.seen.iter().zip(&self.probed).zip(&self.unloaded).enumerate().map(|(i, ((s, probed), unloaded))| {
            let by_requests = (s[1] > 0.0).then(|| s[0] / s[1].max(1.0));
            let (latency, unloaded) = match policy {
                Policy::Requests => (by_requests, Some(*unloaded)),
                _ => (*probed, None),
            };
            (id(i), Observation { weight: 1.0, latency, unloaded, load: None, arrivals: Some(s[2]), completions: Some(s[3]) })
        });
        let seen: BTreeMap<_, _> = seen.collect();
        if self.controller.step(second, 1.0, &seen) {
            let factors = self.controller.factors();
            let weights: Vec<u32> =
                (0..BACKENDS).map(|i| effective(Weight::ONE, factors.get(&id(i)).copied().unwrap_or(Factor::ONE))).collect();
            if let Some(base) = &self.base {
                let owner = owners(base, &weights, SLACK_PERMILLE);
                self.moved += owner.iter().zip(&self.owner).filter(|(a, b)| a != b).count() as f64 / owner.len() as f64;
                self.owner = owner;
            }
        }
        self.seen.iter_mut().for_each(|s| *s = [0.0; 4]);
        self.probed.iter_mut().for_each(|p| *p = None);
        if policy == Policy::Probes {
            for who in 0..BACKENDS {
                self.backends[who].arrive(self.now, PROBE, true);
                self.refresh(who);
            }
        }
    }

    fn outcome(self, case: &Case, policy: Policy) -> Outcome {
        let mut steady: Vec<f32> = self.latencies.iter().filter(|(at, _)| *at >= case.seconds / 2.0).map(|(_, took)| *took).collect();
        let count = (case.seconds / WINDOW) as usize;
        let mut windows: Vec<Vec<f32>> = vec![Vec::new(); count];
        for (at, took) in &self.latencies {
            if let Some(window) = windows.get_mut((at / WINDOW) as usize) {
                window.push(*took);
            }
        }
        Outcome {
            policy: name(policy).to_owned(),
            p50: quantile(&mut steady, 0.5),
            p99: quantile(&mut steady, 0.99),
            windows: windows.iter_mut().map(|w| quantile(w, 0.99)).collect(),
            churn: self.moved / case.seconds,
        }
    }
}

/// What people call it.
pub fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::Equal => "equal weights",
        Policy::Oracle => "weights by capacity",
        Policy::Requests => "controller, requests",
        Policy::Probes => "controller, probes",
        Policy::LeastConnections => "least connections",
    }
}

fn configured(policy: Policy, speed: f64) -> Weight {
    Weight(if policy == Policy::Oracle { (speed * 1000.0).round() as u16 } else { 1 })
}

/// Milliseconds.
fn quantile(values: &mut [f32], q: f64) -> f64 {
    let at = ((values.len() as f64 * q) as usize).min(values.len().saturating_sub(1));
    if values.is_empty() {
        return f64::NAN;
    }
    let (_, value, _) = values.select_nth_unstable_by(at, f32::total_cmp);
    f64::from(*value) * 1e3
}

fn id(i: usize) -> BackendId {
    BackendId((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 8080).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_comes_near_to_who_knows_everything() {
        let case = Case { cores: 1.0, rho: 0.7, heavy: false, slow_down: None, seconds: 60.0, seed: 1 };
        let p99 = |policy| run(&case, policy).p99;
        let (equal, oracle, controller) = (p99(Policy::Equal), p99(Policy::Oracle), p99(Policy::Requests));
        assert!(controller < equal / 2.0 && oracle < controller * 1.5, "{equal} {oracle} {controller}");
    }
}
