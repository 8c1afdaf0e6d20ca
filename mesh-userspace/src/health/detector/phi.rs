use std::f64::consts::{LN_10, PI};

/// The most that unanswered probes say: a path that loses probes is one piece of evidence, however long it lasts.
pub const PROBE_CAP: f64 = 6.0;

/// Weight of a new gap against those before: about the last hundred count.
const NEW: f64 = 0.02;
/// Probes are never taken for more regular than this, in sends.
const MIN_SIGMA: f64 = 0.25;

/// P(t) = 1 / (1 + exp(-k (t - mu))): that a live backend's next sign has come after `t`. Any unit of time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Logistic {
    pub mu: f64,
    /// Steepness, per unit of time; more than zero.
    pub k: f64,
}

impl Logistic {
    /// The one of this mean and standard deviation (more than zero).
    pub fn of(mean: f64, sigma: f64) -> Self {
        Self { mu: mean, k: PI / (sigma * 3f64.sqrt()) }
    }

    /// phi(t) = -log10(1 - P(t)) = log10(1 + exp(k (t - mu))).
    pub fn phi(&self, t: f64) -> f64 {
        let x = self.k * (t - self.mu);
        // Beyond, the one makes no difference, and exp would soon overflow.
        if x > 35.0 { x / LN_10 } else { x.exp().ln_1p() / LN_10 }
    }

    /// When `phi` is reached: mu + ln(10^phi - 1) / k. `phi` more than zero.
    pub fn deadline(&self, phi: f64) -> f64 {
        let x = phi * LN_10;
        let steps = if x > 35.0 { x } else { x.exp_m1().ln() };
        self.mu + steps / self.k
    }
}

/// Learns mean and spread of the gaps between signs of life.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Gaps {
    mean: f64,
    variance: f64,
    seen: u32,
}

impl Gaps {
    /// Takes in one gap. What is no time is not taken.
    pub fn learn(&mut self, gap: f64) {
        if !gap.is_finite() || gap < 0.0 {
            return;
        }
        self.seen = self.seen.saturating_add(1);
        // The first ones count equally; later the old are forgotten.
        let new = NEW.max(1.0 / f64::from(self.seen));
        let off = gap - self.mean;
        self.mean += new * off;
        self.variance = (1.0 - new) * (self.variance + new * off * off);
    }

    /// The logistic of what was learned, no steeper than `min_sigma` (more than zero) allows; `None` before the second gap.
    pub fn logistic(&self, min_sigma: f64) -> Option<Logistic> {
        (self.seen >= 2).then(|| Logistic::of(self.mean, self.variance.sqrt().max(min_sigma)))
    }
}

/// The clock of unanswered probes: it ticks with our own sends, so that our own sleep is no silence of the backend.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Unanswered {
    gaps: Gaps,
    sent: u32,
}

impl Unanswered {
    /// A probe was given up on.
    pub fn unanswered(&mut self) {
        self.sent = self.sent.saturating_add(1);
    }

    /// A probe was answered.
    pub fn answered(&mut self) {
        self.gaps.learn(f64::from(self.sent) + 1.0);
        self.sent = 0;
    }

    /// Those that were not answered so far mean nothing.
    pub fn forgive(&mut self) {
        self.sent = 0;
    }

    /// Probes without an answer in a row.
    pub fn in_row(&self) -> u32 {
        self.sent
    }

    /// Suspicion; 0 after an answer, at most [`PROBE_CAP`].
    pub fn phi(&self) -> f64 {
        if self.sent == 0 {
            return 0.0;
        }
        let logistic = self.gaps.logistic(MIN_SIGMA).unwrap_or(Logistic::of(1.0, MIN_SIGMA));
        // The next answer would come with the send after those.
        logistic.phi(f64::from(self.sent)).min(PROBE_CAP)
    }
}

/// Suspicion by the fleet's clock: `others` signs of life of the whole service came since the backend's last one, of which a live backend
/// with `share` of them (0 to 1) would have had its part. A service of one backend has no clock.
pub fn fleet_silence(others: u64, share: f64) -> f64 {
    if share > 0.0 && share < 1.0 { -(others as f64) * (1.0 - share).log10() } else { 0.0 }
}
