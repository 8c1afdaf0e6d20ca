//! The controller of dynamic weights: it makes every backend of a service as much slower than it is by itself as the others are.
//!
//! What is made equal is *inflation*, latency over the backend's own unloaded latency: equal latency would starve slow backends and overfill fast
//! ones. Pure: observations and the time in, factors out.

mod node;
mod pace;

use std::collections::BTreeMap;

use self::{node::Node, pace::Pace};
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
    /// Configured weight, times the slow start's factor; 0 = it takes no new flows now, and its factor waits for it.
    pub weight: f64,
    /// Mean latency, seconds, of what did not answer in time as well; `None` = none was seen.
    pub latency: Option<f64>,
    /// Checks or requests that it is the mean of; 0 = one.
    pub checks: f64,
    /// Latency without load, seconds, where somebody knows it better than the smallest one of the last minutes.
    pub unloaded: Option<f64>,
    /// Load that the backend reports, 0 to 1 of what it can take: goes before latency.
    pub load: Option<f64>,
    /// Flows that began and that ended; `None` = nothing counts them.
    pub arrivals: Option<f64>,
    pub completions: Option<f64>,
    /// Seconds that connections stayed, on average: latency of their requests where each has one. And the number of those that were timed.
    pub stay: Option<f64>,
    pub stays: f64,
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
    /// Of checks, seconds: the last one, and without load.
    pub latency: Option<f64>,
    pub unloaded: Option<f64>,
    /// For how long connections stay, seconds, and without load; where they say something.
    pub stay: Option<f64>,
    pub stay_unloaded: Option<f64>,
    pub load: Option<f64>,
    pub act: Act,
}

/// What the last step did with a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Act {
    /// Nothing was seen of the backend yet.
    #[default]
    Blind,
    /// It takes no new flows: its factor waits for it.
    Out,
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

impl Controller {
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// One step, `dt` seconds after the last. Backends that are not observed any more are forgotten. Tells whether a
    /// factor changed.
    pub fn step(&mut self, dt: f64, seen: &BTreeMap<BackendId, Observation>) -> bool {
        self.nodes.retain(|id, _| seen.contains_key(id));
        for (id, observation) in seen {
            self.nodes.entry(*id).or_default().learn(observation, dt, self.settings.smoothing);
        }
        let senses: [fn(&Node) -> &Pace; 2] = [|node| &node.pace, |node| &node.stay];
        let usual = senses.map(|sense| {
            let known = self.nodes.values().filter(|n| n.in_use()).map(sense).filter(|p| p.is_known());
            lower_median(known.map(|p| p.unloaded)).unwrap_or(f64::INFINITY)
        });
        let smoothing = self.settings.smoothing;
        self.nodes.values_mut().for_each(|node| node.judge(usual, smoothing));
        let reference = self.mean_inflation();
        self.reference = reference;
        let median = self.median();
        let (in_use, overloaded) = self
            .nodes
            .values()
            .filter(|n| n.in_use())
            .fold((0, 0), |(all, over), node| (all + 1, over + usize::from(node.is_overloaded(median))));
        let held = 2 * overloaded > in_use;
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
        lower_median(self.nodes.values().filter(|n| n.in_use()).filter_map(|n| n.x)).unwrap_or(0.0)
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
            // Who can't keep up is relieved of all that it has to be relieved of.
            let at_once = node.act == Act::Relieved && (node.w - node.published).abs() > step;
            let published = if at_once { node.w } else { steady(node.published, node.w, step) };
            changed |= published != node.published;
            node.published = published;
        }
        changed
    }
}

/// The lower one of two in the middle: where half of few backends can't keep up, the other half says what is usual.
fn lower_median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// What is published of a logarithm that changes all the time: it stays as it is until it is more than `step` off. A random walk of small steps then
/// moves fewer slots than a table would have to that follows each of them.
pub fn steady(published: f64, wanted: f64, step: f64) -> f64 {
    let off = wanted - published;
    if off.abs() > step { wanted - 0.5 * step * off.signum() } else { published }
}

#[cfg(test)]
mod tests;
