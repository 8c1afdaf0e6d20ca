//! The fleet's clock: signs of life of many backends at random, and how often a live one looks dead.

use mesh::health::detector::fleet_silence;

/// What a threshold did over a run in which nobody failed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    pub phi: f64,
    pub false_alarms: u64,
    /// By the meaning of phi.
    pub expected: f64,
}

/// `events` signs of life of `backends` (at least 2) that are equally likely to give the next one.
pub fn false_alarms(backends: usize, events: u64, thresholds: &[f64], seed: u64) -> Vec<Outcome> {
    let share = 1.0 / backends as f64;
    let mut random = seed;
    let mut last = vec![0u64; backends];
    let mut alarms = vec![0u64; thresholds.len()];
    for event in 1..=events {
        let who = (mix(&mut random) % backends as u64) as usize;
        // Alarms of the silence that ends here: every threshold that it has reached before this sign.
        let others = event - last[who] - 1;
        let phi = fleet_silence(others, share);
        for (count, threshold) in alarms.iter_mut().zip(thresholds) {
            *count += u64::from(phi >= *threshold);
        }
        last[who] = event;
    }
    let outcome = |(&phi, false_alarms)| Outcome { phi, false_alarms, expected: events as f64 * 10f64.powf(-phi) };
    thresholds.iter().zip(alarms).map(outcome).collect()
}

/// Time to detect at `phi`, in milliseconds, where each of `backends` gives `rate` signs a second.
pub fn detection_ms(backends: usize, rate: f64, phi: f64) -> f64 {
    let share = 1.0 / backends as f64;
    let mut others = 0;
    while fleet_silence(others, share) < phi {
        others += 1;
    }
    others as f64 / (rate * (backends as f64 - 1.0)) * 1e3
}

/// splitmix64.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn false_alarms_are_as_many_as_phi_says() {
        for outcome in false_alarms(10, 300_000, &[1.0, 2.0], 1) {
            let ratio = outcome.false_alarms as f64 / outcome.expected;
            assert!((0.8..1.25).contains(&ratio), "{outcome:?}");
        }
    }

    #[test]
    fn detection_is_faster_where_more_is_seen() {
        let (slow, fast) = (detection_ms(10, 100.0, 9.0), detection_ms(10, 1000.0, 9.0));
        assert!((slow / fast - 10.0).abs() < 1e-6 && (180.0..240.0).contains(&slow), "{slow} {fast}");
    }
}
