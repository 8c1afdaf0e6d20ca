//! The controller of dynamic weights: it makes every backend of a service as much slower than it is by itself as the others are.
//!
//! What is made equal is *inflation*, latency over the backend's own unloaded latency: equal latency would starve slow backends and overfill fast
//! ones. Pure: observations and the time in, factors out.

use std::collections::{BTreeMap, VecDeque};

use super::Factor;
use crate::model::BackendId;

/// How the controller acts. The defaults are stable up to a load of 0.95 and beyond (the plant's gain is load / (1 - load)).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// Share of the difference that one second makes up for.
    pub gain: f64,
    /// Weight of the newest observation.
    pub smoothing: f64,
    /// Differences that are left alone.
    pub deadband: f64,
    /// Largest changes of a weight's logarithm in one second, down and up.
    pub most_down: f64,
    pub most_up: f64,
    /// Largest share of the slots that may move in one second.
    pub budget: f64,
    /// How far a factor may be from 1, either way.
    pub bound: f64,
    /// A factor is published when its logarithm is this far from what is published: noise then moves nothing.
    pub step: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { gain: 0.2, smoothing: 0.15, deadband: 0.10, most_down: 0.10, most_up: 0.05, budget: 0.01, bound: 20.0, step: 0.04 }
    }
}

/// What was seen of one backend since the last step.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Observation {
    /// Configured weight, times the slow start's factor.
    pub weight: f64,
    /// Mean latency, seconds; `None` = none was seen.
    pub latency: Option<f64>,
    /// Latency without load, seconds, where somebody knows it better than the smallest one of the last minutes.
    pub unloaded: Option<f64>,
    /// Load that the backend reports, 0 to 1 of what it can take: goes before latency.
    pub load: Option<f64>,
    /// Flows that began and that ended; `None` = nothing counts them.
    pub arrivals: Option<f64>,
    pub completions: Option<f64>,
}

/// Why a backend's factor is what it is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reading {
    /// What is published.
    pub factor: Factor,
    /// Smoothed latency over the unloaded one; 1 = no load at all.
    pub inflation: f64,
    /// The weighted mean of all.
    pub reference: f64,
    pub latency: Option<f64>,
    pub unloaded: Option<f64>,
    pub load: Option<f64>,
    pub act: Act,
}

/// What the last step did with a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Nothing was seen of the backend yet.
    Blind,
    /// It is as slow as the others.
    Even,
    Raised,
    Lowered,
    /// It is slower, but gets rid of what waits there already.
    Waits,
    /// It can't keep up: lowered at once, whatever the budget.
    Relieved,
    /// More than half of the backends can't keep up: weights can't help.
    Held,
}

/// The controller of one service.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    settings: Settings,
    nodes: BTreeMap<BackendId, Node>,
    /// Of the last step.
    reference: f64,
}

#[derive(Clone, Debug)]
struct Node {
    /// Smoothed logarithm of the inflation, and one that is smoothed less: who can't keep up has to be known in seconds.
    x: Option<f64>,
    sudden: Option<f64>,
    /// Logarithm of the factor, and of the one that is published.
    w: f64,
    published: f64,
    lowest: Lowest,
    seen: Observation,
    unloaded: Option<f64>,
    act: Act,
}

/// Seconds after which the smallest latency is forgotten.
const WINDOW: f64 = 300.0;
/// Inflation beyond the median's by this much, in logarithms, with more arrivals than completions: it can't keep up.
const OVERLOAD: f64 = 1.2;
/// Weight of the newest observation in what overload is judged by.
const SUDDEN: f64 = 0.5;

impl Controller {
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// One step at `now`, `dt` seconds after the last; both in seconds. Backends that are not observed any more are forgotten. Tells whether a
    /// factor changed.
    pub fn step(&mut self, now: f64, dt: f64, seen: &BTreeMap<BackendId, Observation>) -> bool {
        self.nodes.retain(|id, _| seen.contains_key(id));
        for (id, observation) in seen {
            self.nodes.entry(*id).or_insert_with(Node::new).observe(observation, now, &self.settings);
        }
        let reference = self.mean_inflation();
        self.reference = reference;
        let median = self.median();
        let overloaded = self.nodes.values().filter(|n| n.is_overloaded(median)).count();
        let held = 2 * overloaded > self.nodes.len();
        let settings = self.settings;
        let mut wishes: Vec<f64> = self.nodes.values_mut().map(|node| node.wish(&settings, dt, reference, median, held)).collect();
        self.fit_budget(&mut wishes, dt);
        for (node, wish) in self.nodes.values_mut().zip(wishes) {
            node.w = (node.w + wish).clamp(-settings.bound.ln(), settings.bound.ln());
        }
        self.center();
        self.publish()
    }

    /// What is published of each backend, and why.
    pub fn readings(&self) -> impl Iterator<Item = (BackendId, Reading)> + '_ {
        self.nodes.iter().map(move |(id, node)| (*id, node.reading(self.reference.exp())))
    }

    /// The same of one backend.
    pub fn reading(&self, id: &BackendId) -> Option<Reading> {
        self.nodes.get(id).map(|node| node.reading(self.reference.exp()))
    }

    /// Factors that are published.
    pub fn factors(&self) -> BTreeMap<BackendId, Factor> {
        self.nodes.iter().map(|(id, node)| (*id, node.factor())).collect()
    }

    /// Mean of the logarithm of the inflation, weighted by the share of the traffic.
    fn mean_inflation(&self) -> f64 {
        let known = self.nodes.values().filter_map(|n| Some((n.x?, n.seen.weight * n.w.exp())));
        let (sum, weight) = known.fold((0.0, 0.0), |(sum, all), (x, w)| (sum + x * w, all + w));
        if weight > 0.0 { sum / weight } else { 0.0 }
    }

    fn median(&self) -> f64 {
        let mut known: Vec<f64> = self.nodes.values().filter_map(|n| n.x).collect();
        known.sort_by(f64::total_cmp);
        known.get(known.len() / 2).copied().unwrap_or(0.0)
    }

    /// Scales changes down until no more slots move than the budget allows. Relief is exempt.
    fn fit_budget(&self, wishes: &mut [f64], dt: f64) {
        let weights = || self.nodes.values().map(|n| n.seen.weight * n.w.exp());
        let all: f64 = weights().sum();
        let bound = |node: &Node| node.act != Act::Relieved;
        let moves: f64 =
            self.nodes.values().zip(weights().zip(wishes.iter())).filter(|(n, _)| bound(n)).map(|(_, (w, d))| w * d.abs()).sum();
        let most = 2.0 * self.settings.budget * dt * all;
        if moves > most && moves > 0.0 {
            let scale = most / moves;
            self.nodes.values().zip(wishes).filter(|(n, _)| bound(n)).for_each(|(_, d)| *d *= scale);
        }
    }

    /// Shares are all that counts: the weighted mean of the factors stays 1, so that none drifts to its bound.
    fn center(&mut self) {
        let (all, weighed) = self.nodes.values().fold((0.0, 0.0), |(a, b), n| (a + n.seen.weight, b + n.seen.weight * n.w.exp()));
        if all > 0.0 && weighed > 0.0 {
            let shift = (all / weighed).ln();
            let bound = self.settings.bound.ln();
            self.nodes.values_mut().for_each(|n| n.w = (n.w + shift).clamp(-bound, bound));
        }
    }

    fn publish(&mut self) -> bool {
        let step = self.settings.step;
        let mut changed = false;
        for node in self.nodes.values_mut() {
            let published = steady(node.published, node.w, step);
            changed |= published != node.published;
            node.published = published;
        }
        changed
    }
}

/// What is published of a logarithm that changes all the time: it stays as it is until it is more than `step` off. A random walk of small steps then
/// moves fewer slots than a table would have to that follows each of them.
pub fn steady(published: f64, wanted: f64, step: f64) -> f64 {
    if (wanted - published).abs() > step { wanted } else { published }
}

impl Node {
    fn new() -> Self {
        let lowest = Lowest::default();
        Self { x: None, sudden: None, w: 0.0, published: 0.0, lowest, seen: Observation::default(), unloaded: None, act: Act::Blind }
    }

    fn observe(&mut self, seen: &Observation, now: f64, settings: &Settings) {
        let latency = seen.latency.filter(|l| l.is_finite() && *l > 0.0);
        let own = latency.map(|latency| self.lowest.take(now, latency));
        self.unloaded = seen.unloaded.filter(|u| u.is_finite() && *u > 0.0).or(own).or(self.unloaded);
        let reported = seen.load.filter(|l| l.is_finite()).map(|load| -(1.0 - load.clamp(0.0, 0.98)).ln());
        let measured = latency.zip(self.unloaded).map(|(latency, unloaded)| (latency / unloaded).ln().max(0.0));
        if let Some(x) = reported.or(measured) {
            let smoothed = |old: Option<f64>, part: f64| Some(old.map_or(x, |old| old + part * (x - old)));
            self.x = smoothed(self.x, settings.smoothing);
            self.sudden = smoothed(self.sudden, SUDDEN);
        }
        self.seen = Observation { latency: latency.or(self.seen.latency), ..*seen };
    }

    fn is_overloaded(&self, median: f64) -> bool {
        let grows = self.flows().is_some_and(|(arrivals, completions)| arrivals > 0.9 * completions);
        grows && self.sudden.is_some_and(|x| x - median > OVERLOAD)
    }

    fn flows(&self) -> Option<(f64, f64)> {
        self.seen.arrivals.zip(self.seen.completions)
    }

    /// The change of the weight's logarithm that this node asks for.
    fn wish(&mut self, settings: &Settings, dt: f64, reference: f64, median: f64, held: bool) -> f64 {
        let (act, wish) = self.judged(settings, dt, reference, median, held);
        self.act = act;
        wish
    }

    fn judged(&self, settings: &Settings, dt: f64, reference: f64, median: f64, held: bool) -> (Act, f64) {
        let Some(x) = self.x else { return (Act::Blind, 0.0) };
        if held {
            return (Act::Held, 0.0);
        }
        let error = reference - x;
        if self.is_overloaded(median)
            && let Some((arrivals, completions)) = self.flows()
        {
            return (Act::Relieved, (0.97 * completions / arrivals.max(1e-9)).clamp(0.4, 0.98).ln());
        }
        if error.abs() < settings.deadband {
            return (Act::Even, 0.0);
        }
        // The backlog goes already: pushing on would starve it when it is gone.
        if error < 0.0 && self.flows().is_some_and(|(arrivals, completions)| completions > 1.03 * arrivals) {
            return (Act::Waits, 0.0);
        }
        let room = (-x).exp().clamp(0.08, 1.0);
        let wish = (settings.gain * room.sqrt() * error).clamp(-settings.most_down, settings.most_up) * dt;
        (if wish < 0.0 { Act::Lowered } else { Act::Raised }, wish)
    }

    fn factor(&self) -> Factor {
        Factor((self.published.exp() * f64::from(Factor::ONE.0)).round().max(1.0) as u32)
    }

    fn reading(&self, reference: f64) -> Reading {
        let Observation { latency, load, .. } = self.seen;
        let inflation = self.x.map_or(1.0, f64::exp);
        Reading { factor: self.factor(), inflation, reference, latency, unloaded: self.unloaded, load, act: self.act }
    }
}

/// The smallest value of the last [`WINDOW`].
#[derive(Clone, Debug, Default)]
struct Lowest(VecDeque<(f64, f64)>);

impl Lowest {
    fn take(&mut self, now: f64, value: f64) -> f64 {
        while self.0.back().is_some_and(|(_, larger)| *larger >= value) {
            self.0.pop_back();
        }
        self.0.push_back((now, value));
        while self.0.front().is_some_and(|(at, _)| now - at > WINDOW) {
            self.0.pop_front();
        }
        self.0.front().map_or(value, |(_, lowest)| *lowest)
    }
}

#[cfg(test)]
mod tests;
