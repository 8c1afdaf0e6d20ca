/// How much of a service's weight may be taken out on suspicion.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// New flows are kept from no more than this share of the weight ...
    pub soft: f64,
    /// ... and all packets from no more than this.
    pub hard: f64,
    /// With less than this share of the weight healthy, suspicion itself is doubted, and takes nobody else out.
    pub panic: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { soft: 0.3, hard: 0.5, panic: 0.5 }
    }
}

/// Weights of a service's backends by phase, in any unit.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Budget {
    pub total: u64,
    pub soft: u64,
    pub down: u64,
    /// How many backends are soft or down.
    pub ejected: usize,
    pub limits: Limits,
}

/// What is asked of the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    Soft,
    Hard,
}

impl Budget {
    /// Whether one more backend of `weight` may be taken out. The first one always may, if there is another to take its place: a service of
    /// two could otherwise lose none. In a panic nobody else may.
    pub fn allows(&self, share: Share, weight: u64) -> bool {
        let (taken, limit, others) = match share {
            Share::Soft => (self.soft + self.down, self.limits.soft, self.ejected),
            // Who asks for this is soft already.
            Share::Hard => (self.down, self.limits.hard, self.ejected.saturating_sub(1)),
        };
        let left = self.total.saturating_sub(taken).saturating_sub(weight);
        left > 0 && (others == 0 || !self.panics() && (taken + weight) as f64 <= limit * self.total as f64)
    }

    /// Whether so little weight is healthy that suspicion itself is to be doubted.
    pub fn panics(&self) -> bool {
        let healthy = self.total.saturating_sub(self.soft + self.down);
        self.total > 0 && (healthy as f64) < self.limits.panic * self.total as f64
    }
}
