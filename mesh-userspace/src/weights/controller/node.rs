//! What the controller knows of one backend, and what it wants of its weight.

use super::{Act, Factor, Observation, Reading, Settings, pace::Pace};

/// One backend, as the controller knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Of checks or requests; or of the load that it reports.
    pub pace: Pace,
    /// Of its flows.
    pub stay: Pace,
    /// Seconds since flows told something.
    mute: f64,
    noise: f64,
    /// What is taken in is the load that it reports, and no latency.
    reports: bool,
    /// Logarithm of the inflation, smoothed, and smoothed less.
    pub x: Option<f64>,
    sudden: f64,
    /// Logarithm of the factor, and of the one that is published.
    pub w: f64,
    pub published: f64,
    pub seen: Observation,
    latency: Option<f64>,
    unloaded: Option<f64>,
    /// What comes beyond what is done, as a smoothed part of it; and seconds for which what was seen as unloaded is still in doubt for that.
    growth: f64,
    doubt: f64,
    pub act: Act,
}

/// Inflation beyond the median's by this much, in logarithms, with more arrivals than completions: it can't keep up.
const OVERLOAD: f64 = 1.2;
/// Bounds of what is left of a weight by one step of relief.
const RELIEF: (f64, f64) = (0.4, 0.98);
/// A report says as much as so many checks.
const MANY: f64 = 4.0;
/// The largest inflation that is reckoned with, as a logarithm.
const MOST: f64 = 8.0;
/// The same where it is seen that what waits becomes more and more.
const STRAIN: f64 = 0.4;
/// A latency that falls so much, as a logarithm, is that of a backlog that goes.
const FADES: f64 = 0.1;
/// Weight of the newest difference of what comes and what is done; beyond this part of it the backend does not keep up, ...
const GROWTH: f64 = 0.3;
const GROWS: f64 = 0.1;
/// ... and so long after that it is taken to be at most so many times as slow by itself as others are: 8, as a logarithm.
const DOUBT: f64 = 60.0;
const SPREAD: f64 = 2.08;
/// Connections that stay for longer, as a logarithm of seconds, are more than a request each: e^1.6 = 5.
const LONGEST: f64 = 1.6;
/// For so many seconds what connections said last still counts.
const MUTE: f64 = 5.0;
/// Nobody is surer than that, as a logarithm.
const SURE: f64 = 0.02;

impl Node {
    /// Takes in what was seen.
    pub fn learn(&mut self, seen: &Observation, dt: f64, part: f64) {
        let latency = seen.latency.filter(|l| l.is_finite() && *l > 0.0);
        let reported = seen.load.filter(|l| l.is_finite()).map(|load| -(1.0 - load.clamp(0.0, 0.98)).ln());
        if self.reports != reported.is_some() {
            (self.reports, self.pace) = (reported.is_some(), Pace::default());
        }
        let checks = if self.reports { MANY } else { Some(seen.checks).filter(|c| c.is_finite()).map_or(1.0, |c| c.max(1.0)) };
        if let Some(value) = reported.or(latency.map(f64::ln)) {
            self.pace.take(value, checks, part);
        }
        self.latency = latency.or(self.latency);
        let leaves = self.in_use() && seen.weight <= 0.0;
        // Who went out because it could not keep up would come back to the same.
        if leaves && self.growth > GROWS {
            self.w += (0.97 * (1.0 - self.growth)).clamp(RELIEF.0, RELIEF.1).ln();
        }
        match seen.stay.filter(|s| s.is_finite() && *s > 0.0) {
            Some(stay) => {
                self.mute = 0.0;
                self.stay.take(stay.ln(), Some(seen.stays).filter(|n| n.is_finite()).map_or(1.0, |n| n.max(1.0)), part);
            }
            None => self.mute += dt,
        }
        self.seen = Observation { latency, ..*seen };
        let growth = self.flows().map_or(0.0, |(arrivals, completions)| (arrivals - completions) / arrivals.max(completions).max(1.0));
        self.growth += GROWTH * (growth - self.growth);
        let grows = self.growth > GROWS || self.trend(part) > STRAIN;
        self.doubt = if grows { DOUBT } else { (self.doubt - dt).max(0.0) };
    }

    /// Where nothing counts flows, by how much checks take longer than they did (less than 0: the time gets shorter), beyond what is chance: what waits becomes
    /// more and more, or less and less.
    fn trend(&self, part: f64) -> f64 {
        if self.reports || self.flows().is_some() {
            return 0.0;
        }
        let (trend, chance) = (self.pace.trend(), 2.0 * self.pace.noise(part));
        (trend.abs() - chance).max(0.0) * trend.signum()
    }

    /// Compares with the unloaded latency. `usual`: logarithm of the others', by checks and by flows.
    pub fn judge(&mut self, usual: [f64; 2], smoothing: f64) {
        let known = self.seen.unloaded.filter(|u| u.is_finite() && *u > 0.0).map(f64::ln);
        // Who has been overloaded since it is known was never seen without load.
        let likely = |usual: f64| if self.doubt > 0.0 { usual + SPREAD } else { f64::INFINITY };
        let checks = if self.reports { 0.0 } else { known.unwrap_or(self.pace.unloaded.min(likely(usual[0]))) };
        let flows = self.stay.unloaded.min(likely(usual[1]));
        if self.pace.is_known() {
            self.unloaded = (!self.reports).then(|| checks.exp());
        }
        let senses = [(&self.pace, checks, self.pace.is_known()), (&self.stay, flows, self.tells())];
        let (mut x, mut sudden, mut all) = (0.0, 0f64, 0.0);
        for (pace, unloaded, _) in senses.into_iter().filter(|(.., there)| *there) {
            let certainty = 1.0 / (pace.noise(smoothing).powi(2) + SURE * SURE);
            let inflation = |level: f64| (level - unloaded).clamp(0.0, MOST);
            (x, sudden, all) = (x + certainty * inflation(pace.level), sudden.max(inflation(pace.sudden)), all + certainty);
        }
        if all > 0.0 {
            (self.x, self.sudden, self.noise) = (Some(x / all), sudden, (1.0 / all).sqrt());
        }
    }

    /// Its connections say something of its latency.
    pub fn tells(&self) -> bool {
        self.stay.is_known() && self.mute < MUTE && self.stay.unloaded < LONGEST && !self.reports
    }

    /// It takes new flows.
    pub fn in_use(&self) -> bool {
        self.seen.weight > 0.0
    }

    pub fn is_overloaded(&self, median: f64) -> bool {
        let Some((arrivals, completions)) = self.flows() else { return false };
        let slower = |by: f64| self.sudden - median > by && self.x.is_some_and(|x| x - median > by / 2.0);
        (arrivals > 0.9 * completions && slower(OVERLOAD)) || (arrivals > completions && self.growth > GROWS && slower(STRAIN))
    }

    pub fn flows(&self) -> Option<(f64, f64)> {
        self.seen.arrivals.zip(self.seen.completions)
    }

    /// The change of the weight's logarithm that this node asks for.
    pub fn wish(&mut self, settings: &Settings, dt: f64, reference: f64, median: f64, held: bool) -> f64 {
        let (act, wish) = self.judged(settings, dt, reference, median, held);
        self.act = act;
        wish
    }

    fn judged(&self, settings: &Settings, dt: f64, reference: f64, median: f64, held: bool) -> (Act, f64) {
        let Some(x) = self.x else { return (Act::Blind, 0.0) };
        if !self.in_use() {
            return (Act::Out, 0.0);
        }
        if held {
            return (Act::Held, 0.0);
        }
        let error = reference - x;
        if self.is_overloaded(median)
            && let Some((arrivals, completions)) = self.flows()
        {
            return (Act::Relieved, (0.97 * completions / arrivals.max(1e-9)).clamp(RELIEF.0, RELIEF.1).ln());
        }
        if error.abs() < settings.deadband.max(self.noise) {
            return (Act::Even, 0.0);
        }
        // The backlog goes already: pushing on would starve it when it is gone.
        let goes = self.flows().is_some_and(|(arrivals, completions)| completions > 1.03 * arrivals);
        if error < 0.0 && (goes || self.trend(settings.smoothing) < -FADES) {
            return (Act::Waits, 0.0);
        }
        let room = (-x).exp().clamp(0.08, 1.0);
        let wish = (settings.gain * room.sqrt() * error).clamp(-settings.most_down, settings.most_up) * dt;
        (if wish < 0.0 { Act::Lowered } else { Act::Raised }, wish)
    }

    pub fn factor(&self) -> Factor {
        Factor((self.published.exp() * f64::from(Factor::ONE.0)).round().max(1.0) as u32)
    }

    pub fn reading(&self, reference: f64) -> Reading {
        let inflation = self.x.map_or(1.0, f64::exp);
        Reading {
            factor: self.factor(),
            inflation,
            reference,
            latency: self.latency,
            unloaded: self.unloaded,
            stay: self.tells().then(|| self.stay.level.exp()),
            stay_unloaded: self.tells().then(|| self.stay.unloaded.exp()),
            load: self.seen.load,
            act: self.act,
        }
    }
}
