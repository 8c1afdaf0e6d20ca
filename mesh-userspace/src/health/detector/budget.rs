/// New flows are kept from no more than this share of the weight ...
const SOFT: f64 = 0.3;
/// ... and all packets from no more than this.
const HARD: f64 = 0.5;
/// With less than this share of the weight healthy, who is down is treated as up.
const PANIC: f64 = 0.5;

/// Weights of a service's backends by phase, in any unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    pub total: u64,
    pub soft: u64,
    pub down: u64,
    /// How many backends are soft or down.
    pub ejected: usize,
}

/// What is asked of the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    Soft,
    Hard,
}

impl Budget {
    /// Whether one more backend of `weight` may be taken out. The first one always may, if there is another to take its place: a service of
    /// two could otherwise lose none.
    pub fn allows(&self, share: Share, weight: u64) -> bool {
        let (taken, limit, others) = match share {
            Share::Soft => (self.soft + self.down, SOFT, self.ejected),
            // Who asks for this is soft already.
            Share::Hard => (self.down, HARD, self.ejected.saturating_sub(1)),
        };
        let left = self.total.saturating_sub(taken).saturating_sub(weight);
        left > 0 && (others == 0 || (taken + weight) as f64 <= limit * self.total as f64)
    }
}

/// Whether so little weight of `total` is healthy that suspicion itself is to be doubted.
pub fn panics(healthy: u64, total: u64) -> bool {
    total > 0 && (healthy as f64) < PANIC * total as f64
}
