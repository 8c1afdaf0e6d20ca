use std::time::{Duration, Instant};

/// A relapse within this time is flapping, and the penalty halves in it.
const MEMORY: Duration = Duration::from_secs(60);
/// Who was suspected once stays suspected so long after the last doubt ...
const BASE: Duration = Duration::from_secs(1);
/// ... and who flaps, at most this long.
const MOST: Duration = Duration::from_secs(300);

/// Exponential damping of flaps.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Damping {
    penalty: f64,
    at: Option<Instant>,
    cleared: Option<Instant>,
}

impl Damping {
    /// Suspected at `now`.
    pub fn suspected(&mut self, now: Instant) {
        if self.cleared.is_some_and(|then| now.saturating_duration_since(then) <= MEMORY) {
            self.penalty = self.penalty(now) + 1.0;
            self.at = Some(now);
        }
    }

    /// Trusted again at `now`.
    pub fn cleared(&mut self, now: Instant) {
        self.cleared = Some(now);
    }

    /// Penalty, faded as of `now`.
    pub fn penalty(&self, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.penalty * (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp2()
    }

    /// How long there must be no doubt before it is trusted again: 1 s x 2^penalty, at most 300 s.
    pub fn hold(&self, now: Instant) -> Duration {
        // 2^16 s is beyond the most by far, and no duration overflows.
        BASE.mul_f64(self.penalty(now).clamp(0.0, 16.0).exp2()).min(MOST)
    }
}
