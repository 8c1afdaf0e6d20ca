//! Policies of choosing a backend on the same queues: latency of requests under each, by the project's controller and tables.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::Ipv4Addr,
};

use mesh::{
    model::{BackendId, Weight},
    table::{BaseTable, Member, Table, overlay},
    weights::{Controller, Factor, Observation, effective},
};

use super::{
    nodes::{self, Nodes, Slot},
    optimum,
    policy::{Policy, crowded, follows_requests, name},
    queue::{Backend, Sender},
    random::Random,
};

/// What is simulated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Case {
    /// Speeds of the backends.
    pub fleet: Fleet,
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

/// How fast backends are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fleet {
    /// 40 backends, evenly over the logarithm from 0.5 to 2.
    Forty,
    /// The same from 0.7 to 1.4.
    Alike,
    /// Those of `cargo xtask bench weights`: 4, 2, 1 and 1 times as fast as the slowest, which takes 40 ms for a request.
    Four,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    pub policy: String,
    pub p50: f64,
    pub p99: f64,
    /// p99 of each ten seconds, from the begin.
    pub windows: Vec<f64>,
    /// Seconds after the slow-down from which on no five seconds have a p99 that is half above what it was before.
    pub recovered: Option<f64>,
    /// Share of the slots that moved in a second, on average.
    pub churn: f64,
    /// Share of the requests that went elsewhere than the table says, which has to be remembered of each.
    pub exceptions: f64,
}

/// Mean work of a request: milliseconds at speed 1.
const WORK: f64 = 0.020;
const LOG2_SLOTS: u8 = 13;
/// Work of a probe, beside which a request is large.
const PROBE: f64 = 0.002;
/// A check that takes longer is given up.
const PATIENCE: f64 = 2.0;
/// Steps of the simulation's clock in a second: that many checks are made.
const TICKS: f64 = 4.0;
/// One connection in so many is timed.
const DRAWN: u64 = 4;
const FEWEST: f64 = 5.0;
const WINDOW: f64 = 10.0;
/// Of these p99s recovery is judged by.
const STRETCH: f64 = 5.0;

/// Runs one case under one policy; what is told is of its second half, and of each window.
pub fn run(case: &Case, policy: Policy) -> Outcome {
    let mut world = World::new(case, policy);
    let mut ticks = 1.0;
    let mut slowed = false;
    while world.now < case.seconds {
        if case.slow_down.is_some_and(|at| !slowed && world.now >= at) {
            slowed = true;
            let fastest = world.backends.len() - 1;
            let speed = world.backends[fastest].speed / 4.0;
            world.backends[fastest].set_speed(world.now, speed);
            world.refresh(fastest);
        }
        world.event(case, policy);
        if world.now >= ticks / TICKS {
            if ticks % TICKS == 0.0 {
                world.second(policy);
            }
            world.ask(policy, ticks % TICKS == 0.0);
            ticks += 1.0;
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
    table: Option<Table>,
    /// What each backend is given by the table, and what it can do.
    weights: Vec<f64>,
    capacity: Vec<f64>,
    nodes: Nodes,
    controller: Controller,
    /// Latency without load, as it was at first.
    unloaded: Vec<f64>,
    /// Of the running second: latencies, their number, arrivals, completions; of probes.
    seen: Vec<[f64; 4]>,
    probed: Vec<[f64; 2]>,
    /// Of the requests that the kernel half draws: latencies, their number, arrivals.
    drawn: Vec<[f64; 3]>,
    /// When the checks under way began.
    asked: Vec<VecDeque<f64>>,
    moved: f64,
    latencies: Vec<(f64, f32)>,
}

impl World {
    fn new(case: &Case, policy: Policy) -> Self {
        let speeds = case.fleet.speeds();
        let count = speeds.len();
        let capacity: f64 = speeds.iter().sum::<f64>() * case.cores / WORK;
        let configured = optimum::weights(policy, &speeds, case.cores, WORK, case.rho * capacity);
        let members: Vec<_> = (0..count).map(|i| Member { id: id(i), weight: configured[i] }).collect();
        let base = BaseTable::build(&members, LOG2_SLOTS, 7).ok();
        Self {
            now: 0.0,
            backends: speeds.iter().map(|s| Backend::new(*s, case.cores)).collect(),
            next: vec![f64::INFINITY; count],
            arrival: 0.0,
            rate: case.rho * capacity,
            random: Random::new(case.seed),
            table: base.as_ref().map(|b| overlay(b, &b.weights())),
            base,
            weights: vec![1.0; count],
            capacity: speeds.iter().map(|s| s * case.cores).collect(),
            nodes: Nodes::new(nodes::count(policy), count),
            controller: Controller::default(),
            unloaded: speeds.iter().map(|s| WORK / s).collect(),
            seen: vec![[0.0; 4]; count],
            probed: vec![[0.0; 2]; count],
            drawn: vec![[0.0; 3]; count],
            asked: vec![VecDeque::new(); count],
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
            let node = self.nodes.meet(&mut self.random);
            let chosen = self.choose(policy, node);
            self.nodes.begin(node, chosen);
            let work = self.work(case.heavy);
            self.seen[chosen][2] += 1.0;
            self.drawn[chosen][2] += f64::from(u8::from(is_drawn(self.now)));
            self.backends[chosen].arrive(self.now, work, Sender::Node(node as u8));
            return self.refresh(chosen);
        }
        self.now = at;
        if let Some(done) = self.backends[who].finish(at) {
            let took = at - done.came;
            if let Sender::Node(node) = done.from {
                self.nodes.end(usize::from(node), who);
                let seen = &mut self.seen[who];
                (seen[0], seen[1], seen[3]) = (seen[0] + took, seen[1] + 1.0, seen[3] + 1.0);
                self.latencies.push((at, took as f32));
                if is_drawn(done.came) {
                    let drawn = &mut self.drawn[who];
                    (drawn[0], drawn[1]) = (drawn[0] + took, drawn[1] + 1.0);
                }
            } else if let Some(place) = self.asked[who].iter().position(|came| *came == done.came) {
                // Who was given up is not asked for any more.
                self.asked[who].remove(place);
                self.waited(who, took);
            }
        }
        self.refresh(who);
    }

    fn choose(&mut self, policy: Policy, node: usize) -> usize {
        match policy {
            Policy::LeastConnections | Policy::LeastLocal => return self.nodes.least(node, &self.capacity),
            Policy::TwoChoices => return self.nodes.of_two(node, &mut self.random),
            _ => {}
        }
        let at = (self.random.word() >> (64 - LOG2_SLOTS)) as usize;
        let Some(table) = &self.table else { return 0 };
        let of = |places: &[u16]| places.get(at).map_or(0, |o| usize::from(*o).min(self.weights.len() - 1));
        let slot = Slot { owner: of(&table.owner), secondary: of(&table.secondary) };
        let told = (policy == Policy::CrowdedTold).then_some(self.now);
        crowded(policy).map_or(slot.owner, |beyond| self.nodes.unless_crowded(node, slot, &self.weights, beyond, told))
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

    fn waited(&mut self, who: usize, took: f64) {
        let probed = &mut self.probed[who];
        *probed = [probed[0] + took.min(PATIENCE), probed[1] + 1.0];
    }

    /// Checks are given up and begin.
    fn ask(&mut self, policy: Policy, whole_second: bool) {
        for who in 0..self.backends.len() {
            while self.asked[who].front().is_some_and(|came| self.now - came > PATIENCE) {
                self.asked[who].pop_front();
                self.waited(who, PATIENCE);
            }
            let work = match policy {
                Policy::Probes | Policy::Flows | Policy::Drawn if whole_second => PROBE,
                Policy::Checks => WORK * self.random.exponential(),
                _ => continue,
            };
            self.asked[who].push_back(self.now);
            self.backends[who].arrive(self.now, work, Sender::Probe);
            self.refresh(who);
        }
    }

    /// A second is over: the controller takes a step.
    fn second(&mut self, policy: Policy) {
        if !follows_requests(policy) && !matches!(policy, Policy::Probes | Policy::Flows | Policy::Drawn | Policy::Checks) {
            return;
        }
        let seen = self.seen.iter().zip(&self.probed).zip(self.unloaded.iter().zip(&self.drawn)).enumerate().map(
            |(i, ((s, probed), (unloaded, drawn)))| {
                let unloaded = if policy == Policy::EqualLatency { WORK } else { *unloaded };
                let requests = follows_requests(policy);
                let ([sum, checks], unloaded) = if requests { ([s[0], s[1]], Some(unloaded)) } else { (*probed, None) };
                let latency = (checks > 0.0).then_some(sum / checks);
                let [stay, ended, began] = if matches!(policy, Policy::Flows | Policy::Drawn) { *drawn } else { [0.0; 3] };
                let (arrivals, completions) = match policy {
                    Policy::Probes => (None, None),
                    // A few say nothing of who keeps up.
                    Policy::Drawn => (Some(began).filter(|n| *n >= FEWEST), Some(ended)),
                    _ => (Some(s[2]), Some(s[3])),
                };
                let stay = (ended > 0.0).then_some(stay / ended);
                (id(i), Observation { weight: 1.0, latency, checks, unloaded, load: None, arrivals, completions, stay, stays: ended })
            },
        );
        let seen: BTreeMap<_, _> = seen.collect();
        if self.controller.step(1.0, &seen) {
            let factors = self.controller.factors();
            let factor = |i| factors.get(&id(i)).copied().unwrap_or(Factor::ONE);
            let weights: Vec<u32> = (0..self.backends.len()).map(|i| effective(Weight::ONE, factor(i))).collect();
            self.weights = weights.iter().map(|w| f64::from(*w)).collect();
            if let (Some(base), Some(before)) = (&self.base, &mut self.table) {
                let table = overlay(base, &weights);
                let pairs = table.owner.iter().zip(&before.owner);
                self.moved += pairs.filter(|(a, b)| a != b).count() as f64 / table.owner.len() as f64;
                *before = table;
            }
        }
        self.seen.iter_mut().for_each(|s| *s = [0.0; 4]);
        self.probed.iter_mut().for_each(|p| *p = [0.0; 2]);
        self.drawn.iter_mut().for_each(|d| *d = [0.0; 3]);
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
            recovered: case.slow_down.and_then(|at| recovered(&self.latencies, at, case.seconds)),
            churn: self.moved / case.seconds,
            exceptions: self.nodes.chosen[1] as f64 / self.nodes.chosen[0].max(1) as f64,
        }
    }
}

/// Whether the kernel half times the connection that began then.
fn is_drawn(came: f64) -> bool {
    came.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (DRAWN - 1) == 0
}

fn recovered(latencies: &[(f64, f32)], slowed: f64, end: f64) -> Option<f64> {
    let p99 = |from: f64, to: f64| {
        let mut values: Vec<f32> = latencies.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, took)| *took).collect();
        quantile(&mut values, 0.99)
    };
    let bound = 1.5 * p99(slowed / 2.0, slowed);
    let windows = ((end - slowed) / STRETCH) as usize;
    let bad = (0..windows).rev().find(|i| p99(slowed + *i as f64 * STRETCH, slowed + (i + 1) as f64 * STRETCH) > bound);
    let after = bad.map_or(0, |i| i + 1);
    (after < windows).then_some(after as f64 * STRETCH)
}

impl Fleet {
    fn speeds(self) -> Vec<f64> {
        match self {
            Self::Forty => (0..40).map(|i| 0.5 * 4f64.powf(f64::from(i) / 39.0)).collect(),
            Self::Alike => (0..40).map(|i| 0.5f64.sqrt() * 2f64.powf(f64::from(i) / 39.0)).collect(),
            Self::Four => vec![0.5, 0.5, 1.0, 2.0],
        }
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forty => "40 backends, speeds 0.5 to 2",
            Self::Alike => "40 backends, speeds 0.7 to 1.4",
            Self::Four => "4 backends, speeds 2, 1, 0.5 and 0.5",
        })
    }
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
        let case = Case { fleet: Fleet::Forty, cores: 1.0, rho: 0.7, heavy: false, slow_down: None, seconds: 60.0, seed: 1 };
        let p99 = |policy| run(&case, policy).p99;
        let (equal, oracle, controller) = (p99(Policy::Equal), p99(Policy::Oracle), p99(Policy::Requests));
        assert!(controller < equal / 2.0 && oracle < controller * 1.5, "{equal} {oracle} {controller}");
    }

    /// Half of the backends are overloaded from the first moment on, and nobody has ever seen what they do without load.
    const OVERLOADED: Case = Case { fleet: Fleet::Four, cores: 4.0, rho: 0.7, heavy: false, slow_down: None, seconds: 80.0, seed: 1 };

    #[test]
    fn connections_lead_out_of_an_overloaded_start() {
        let p99 = |policy| run(&OVERLOADED, policy).p99;
        let (oracle, nat, dsr) = (p99(Policy::Oracle), p99(Policy::Flows), p99(Policy::Drawn));
        assert!(nat < oracle * 1.5 && dsr < oracle * 1.5, "{oracle} {nat} {dsr}");
    }

    /// As where connections are long, or there are none: a check a second is all that speaks.
    #[test]
    fn checks_alone_lead_out_of_it_in_seventy_seconds() {
        let oracle = run(&OVERLOADED, Policy::Oracle).p99;
        let windows = run(&Case { seconds: 160.0, ..OVERLOADED }, Policy::Probes).windows;
        assert!(windows[7..].iter().all(|p99| *p99 < 3.0 * oracle), "{oracle} {windows:?}");
    }
}
