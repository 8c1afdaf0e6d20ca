//! Detection rules, each run over the same heartbeats of a backend that never failed: whatever it says is a false alarm.

use std::f64::consts::PI;

use mesh::health::detector::{Gaps, Logistic};

use super::noise::{BEAT, Beat};

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
    learned(gaps, format!("logistic phi {threshold}"), |logistic| logistic.deadline(threshold))
}

/// The same for a normal distribution of what was learned, as others have it: phi 8 is its mean and 5.61 standard deviations.
pub fn normal_8(gaps: &[f64]) -> Outcome {
    learned(gaps, "normal phi 8".to_owned(), |logistic| logistic.mu + 5.612 * PI / (logistic.k * 3f64.sqrt()))
}

/// Alarm at a deadline that follows from the gaps so far.
fn learned(gaps: &[f64], rule: String, deadline: impl Fn(&Logistic) -> f64) -> Outcome {
    let (mut learned, mut deadlines, mut judged, mut false_alarms) = (Gaps::default(), 0.0, 0, 0);
    for gap in gaps {
        if let Some(logistic) = learned.logistic(MIN_SIGMA) {
            let limit = deadline(&logistic);
            deadlines += limit;
            judged += 1;
            false_alarms += usize::from(*gap >= limit);
        }
        learned.learn(*gap);
    }
    Outcome { rule, detection_ms: deadlines / f64::from(judged.max(1)) * 1e3, false_alarms, beats: gaps.len() }
}

/// All rules of the table, over the same heartbeats.
pub fn table(beats: &[Beat]) -> Vec<Outcome> {
    let (gaps, beat) = (gaps(beats), BEAT.as_secs_f64());
    let mut rows: Vec<_> = [3, 10, 20, 50].map(|times| elapsed(&gaps, times, beat)).into();
    rows.push(normal_8(&gaps));
    rows.extend([8.0, 12.0].map(|phi| logistic(&gaps, phi)));
    rows.extend([(3, 2), (5, 5), (10, 5)].map(|(count, every)| unanswered(beats, count, every, beat)));
    rows
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
        assert_eq!((normal_8(&gaps(&calm)).false_alarms, normal_8(&gaps(&slept)).false_alarms), (0, 1));
        assert_eq!(logistic(&gaps(&calm), 8.0).false_alarms, 0);
        assert_eq!(logistic(&gaps(&slept), 8.0).false_alarms, 1);
        assert_eq!(unanswered(&calm, 3, 1, 0.01).false_alarms, 0);
        assert_eq!(unanswered(&slept, 3, 1, 0.01).false_alarms, 1);
        assert_eq!(unanswered(&slept, 4, 1, 0.01).false_alarms, 0);
    }
}
