//! Weights: what was configured, times what a backend can take right now. Pure.

mod agent;
mod controller;
mod locality;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Weight;

pub use agent::{AgentError, AgentReport, Readiness as AgentReadiness, parse as parse_agent};
pub use controller::{Act, Controller, Observation, Reading, Settings, steady};
pub use locality::{Locality, Placed};

/// Dynamic factor on a configured weight, in units of 1/2048: fixed point, so that every node computes the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Factor(pub u32);

impl Factor {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The configured weight as it is.
    pub const ONE: Self = Self(2048);

    /// The nearest one; never 0 for what is more.
    pub fn of(factor: f64) -> Self {
        let units = (factor * f64::from(Self::ONE.0)).round();
        if factor > 0.0 { Self(units.clamp(1.0, f64::from(u32::MAX)) as u32) } else { Self::ZERO }
    }

    /// For people.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE.0)
    }
}

/// What a backend's factor is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Parts {
    /// Slow start after its return.
    pub ramp: Factor,
    /// By latency, reported load or the backend's agent.
    pub dynamic: Factor,
    /// By distance.
    pub locality: Factor,
    /// While its breaker tries it.
    pub trial: Factor,
}

impl Parts {
    pub const ONE: Self = Self { ramp: Factor::ONE, dynamic: Factor::ONE, locality: Factor::ONE, trial: Factor::ONE };

    /// Their product; never 0 where none of them is.
    pub fn product(self) -> Factor {
        let Self { ramp, dynamic, locality, trial } = self;
        if [ramp, dynamic, locality, trial].contains(&Factor::ZERO) {
            return Factor::ZERO;
        }
        let times = |a: u64, b: Factor| (a * u64::from(b.0) + u64::from(Factor::ONE.0) / 2) / u64::from(Factor::ONE.0);
        Factor(times(times(times(u64::from(ramp.0), dynamic), locality), trial).clamp(1, u64::from(u32::MAX)) as u32)
    }
}

/// Weight that a table is made with, in units of 1/2048; largest factor without saturation: 32. A weight above 0 under a factor above 0 never
/// vanishes.
pub fn effective(configured: Weight, factor: Factor) -> u32 {
    u32::from(configured.0).saturating_mul(factor.0)
}

/// From a backend's return until it carries its whole weight.
pub const RAMP: Duration = Duration::from_secs(30);
/// Steps of the ramp: from 10 % to 100 %. Few, because each one moves slots.
const STEPS: u32 = 10;

/// Factor of a backend that came back `ago`: 10 % at first, 10 % more at each of nine even steps, all of it after [`RAMP`].
pub fn slow_start(ago: Duration) -> Factor {
    Factor(Factor::ONE.0 * (1 + step(ago)) / STEPS)
}

/// When the factor will change next, counted from the backend's return; `None` once the ramp is over.
pub fn next_step(ago: Duration) -> Option<Duration> {
    let next = step(ago) + 1;
    (next < STEPS).then(|| RAMP * next / (STEPS - 1))
}

fn step(ago: Duration) -> u32 {
    let ramp = RAMP.as_nanos();
    (ago.as_nanos().min(ramp) * u128::from(STEPS - 1) / ramp) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_climbs_from_a_tenth_to_all_in_half_a_minute() {
        let seconds = |s| slow_start(Duration::from_secs(s)).as_f64();
        assert!((seconds(0) - 0.1).abs() < 0.001 && (seconds(3) - 0.1).abs() < 0.001 && (seconds(4) - 0.2).abs() < 0.001);
        assert_eq!((seconds(29) * 10.0).round(), 9.0);
        assert_eq!(slow_start(RAMP), Factor::ONE);
        assert_eq!(slow_start(Duration::MAX), Factor::ONE);
    }

    #[test]
    fn the_next_step_is_where_the_factor_changes() {
        let mut at = Duration::ZERO;
        let mut steps = 0;
        while let Some(next) = next_step(at) {
            assert!(slow_start(next - Duration::from_nanos(2)) == slow_start(at));
            at = next + Duration::from_nanos(1);
            assert!(slow_start(at) > slow_start(next - Duration::from_nanos(2)));
            steps += 1;
        }
        assert_eq!((steps, slow_start(at)), (9, Factor::ONE));
    }

    #[test]
    fn parts_multiply() {
        let half = Factor(1024);
        assert_eq!(Parts::ONE.product(), Factor::ONE);
        assert_eq!(Parts { ramp: half, dynamic: half, ..Parts::ONE }.product(), Factor(512));
        assert_eq!(Parts { locality: Factor::ZERO, ..Parts::ONE }.product(), Factor::ZERO);
        assert_eq!(Parts { ramp: Factor(1), dynamic: Factor(1), locality: half, trial: half }.product(), Factor(1));
    }

    #[test]
    fn effective_weights_fit() {
        assert_eq!(effective(Weight(3), Factor::ONE), 6144);
        assert_eq!(effective(Weight(u16::MAX), Factor(u32::MAX)), u32::MAX);
        assert_eq!(effective(Weight(0), Factor::ONE), 0);
    }
}
