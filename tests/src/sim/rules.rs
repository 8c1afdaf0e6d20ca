//! Detection rules, each run over the same heartbeats of a backend that never failed: whatever it says is a false alarm.

use mesh::health::detector::{Gaps, Logistic};

use super::noise::Beat;

/// What a rule did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    pub rule: String,
    /// From a backend's last answer to the alarm, in milliseconds.
    pub detection_ms: f64,
    pub false_alarms: usize,
    /// Heartbeats or probes that it was run over.
    pub beats: usize,
}

/// The least spread that phi reckons with, in seconds.
const MIN_SIGMA: f64 = 1e-4;

/// Gaps between answers as they were heard, in seconds.
pub fn gaps(beats: &[Beat]) -> Vec<f64> {
    let mut heard: Vec<f64> = beats.iter().filter_map(|b| b.answered).collect();
    heard.sort_by(f64::total_cmp);
    heard.windows(2).map(|w| w[1] - w[0]).collect()
}

/// Alarm after so many beats without an answer, by the clock.
pub fn elapsed(gaps: &[f64], beats: u32, beat: f64) -> Outcome {
    let limit = f64::from(beats) * beat;
    let false_alarms = gaps.iter().filter(|g| **g > limit).count();
    Outcome { rule: format!("{beats} x {:.0} ms", beat * 1e3), detection_ms: limit * 1e3, false_alarms, beats: gaps.len() }
}

/// Alarm when phi of the learned logistic reaches `threshold`.
pub fn logistic(gaps: &[f64], threshold: f64) -> Outcome {
    let (mut learned, mut deadlines, mut judged, mut false_alarms) = (Gaps::default(), 0.0, 0, 0);
    for gap in gaps {
        if let Some(logistic) = learned.logistic(MIN_SIGMA) {
            deadlines += Logistic::deadline(&logistic, threshold);
            judged += 1;
            false_alarms += usize::from(logistic.phi(*gap) >= threshold);
        }
        learned.learn(*gap);
    }
    let detection_ms = deadlines / f64::from(judged.max(1)) * 1e3;
    Outcome { rule: format!("logistic phi {threshold}"), detection_ms, false_alarms, beats: gaps.len() }
}

/// Alarm at the send after `count` unanswered probes, of which one goes out every `every` beats: our own clock, which sleeps when we do.
pub fn unanswered(beats: &[Beat], count: usize, every: usize, beat: f64) -> Outcome {
    let probes: Vec<Beat> = beats.iter().copied().step_by(every).collect();
    let mut false_alarms = 0;
    let mut alarmed = false;
    for (i, now) in probes.iter().enumerate().skip(count) {
        let silent = probes[i - count..i].iter().all(|p| p.answered.is_none_or(|at| at > now.sent));
        false_alarms += usize::from(silent && !alarmed);
        alarmed = silent;
    }
    let detection_ms = (count * every) as f64 * beat * 1e3;
    let rule = format!("{count} unanswered @{:.0} ms", every as f64 * beat * 1e3);
    Outcome { rule, detection_ms, false_alarms, beats: probes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A beat each 10 ms, answered at once, but for the answers of `late`, which come so many seconds later.
    fn regular(late: &[(usize, f64)]) -> Vec<Beat> {
        let delay = |i| late.iter().find(|(n, _)| *n == i).map_or(0.001, |(_, by)| *by);
        (0..1000).map(|i| Beat { sent: i as f64 * 0.01, answered: Some(i as f64 * 0.01 + delay(i)) }).collect()
    }

    #[test]
    fn each_rule_counts_what_it_should() {
        let calm = regular(&[]);
        let slept = regular(&[(500, 0.035), (501, 0.025), (502, 0.015)]);
        assert_eq!(elapsed(&gaps(&calm), 3, 0.01).false_alarms, 0);
        assert_eq!(elapsed(&gaps(&slept), 3, 0.01).false_alarms, 1);
        assert_eq!(logistic(&gaps(&calm), 8.0).false_alarms, 0);
        assert_eq!(logistic(&gaps(&slept), 8.0).false_alarms, 1);
        assert_eq!(unanswered(&calm, 3, 1, 0.01).false_alarms, 0);
        assert_eq!(unanswered(&slept, 3, 1, 0.01).false_alarms, 1);
        assert_eq!(unanswered(&slept, 4, 1, 0.01).false_alarms, 0);
    }
}
