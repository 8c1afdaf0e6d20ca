//! Weights: what was configured, times what a backend can take right now. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Weight;

/// Dynamic factor on a configured weight, in units of 1/2048: fixed point, so that every node computes the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Factor(pub u32);

impl Factor {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The configured weight as it is.
    pub const ONE: Self = Self(2048);

    /// For people.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE.0)
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
    fn effective_weights_fit() {
        assert_eq!(effective(Weight(3), Factor::ONE), 6144);
        assert_eq!(effective(Weight(u16::MAX), Factor(u32::MAX)), u32::MAX);
        assert_eq!(effective(Weight(0), Factor::ONE), 0);
    }
}
