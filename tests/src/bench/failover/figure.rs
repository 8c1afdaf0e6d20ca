//! What is told of one way to fail, and whether it is good enough.

use std::fmt;

use serde::Serialize;

use super::{
    balancer::{Mode, Settings},
    load::Tally,
    ways::Way,
    world::Trial,
};
use crate::bench::quantile;

/// One line of the result. Times are milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub way: Way,
    pub mode: Mode,
    pub settings: &'static str,
    pub trials: usize,
    /// From the first packet that the backend could not answer to the last packet that it was sent.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// The same to the last packet that opens a connection.
    pub new_p99_ms: f64,
    /// Trials in which the backend was still used when time was up.
    pub kept: usize,
    /// How often a backend was called dead that was not.
    pub false_down: usize,
    pub requests: u64,
    pub failed_requests: u64,
    /// Answered, but not within half a second.
    pub slow_requests: u64,
    /// p99.9 of how late a timer of 1 ms was in the same run.
    pub stall_p999_ms: f64,
    /// What p99 has to stay under: the larger of the target and three times that. None = nothing is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_ms: Option<f64>,
    pub met: bool,
}

impl Figure {
    pub(super) fn new(way: Way, mode: Mode, settings: Settings, outcomes: &[Trial], dead: usize, tally: Tally, stall: f64) -> Self {
        let found = |f: fn(&super::window::Window) -> f64| -> Vec<f64> {
            outcomes.iter().filter_map(|t| if let Trial::Found(w) = t { Some(f(w)) } else { None }).collect()
        };
        let (mut all, mut new) = (found(|w| w.all_ms), found(|w| w.new_ms));
        let kept = outcomes.len() - all.len();
        let bound_ms = target(way, mode, settings).map(|target| tenth(target.max(3.0 * stall)));
        let p99_ms = tenth(quantile(&mut all, 0.99));
        Self {
            way,
            mode,
            settings: if mode == Mode::Haproxy { "check inter 100ms fall 3" } else { settings.name() },
            trials: outcomes.len(),
            p50_ms: tenth(quantile(&mut all, 0.5)),
            p99_ms,
            max_ms: tenth(quantile(&mut all, 1.0)),
            new_p99_ms: tenth(quantile(&mut new, 0.99)),
            kept,
            false_down: dead.saturating_sub(outcomes.len() - kept),
            requests: tally.done,
            failed_requests: tally.failed,
            slow_requests: tally.slow,
            stall_p999_ms: tenth(stall),
            bound_ms,
            met: bound_ms.is_none_or(|bound| kept == 0 && p99_ms < bound),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            way,
            trials,
            p50_ms,
            p99_ms,
            max_ms,
            new_p99_ms,
            kept,
            false_down,
            requests,
            failed_requests,
            slow_requests,
            stall_p999_ms,
            ..
        } = self;
        let bound = self.bound_ms.map_or_else(|| "-".to_owned(), |b| b.to_string());
        let verdict = if self.bound_ms.is_none() {
            ""
        } else if self.met {
            "met"
        } else {
            "MISSED"
        };
        write!(
            f,
            "{way:<5} {:<8} {:<24} {trials:>6} {p50_ms:>8} {p99_ms:>8} {max_ms:>8} {new_p99_ms:>8} {kept:>5} {false_down:>5} {requests:>9} {failed_requests:>7} \
             {slow_requests:>6} {stall_p999_ms:>7} {bound:>7} {verdict}",
            self.mode.name(),
            self.settings,
        )
    }
}

impl Figure {
    /// The words above the figures.
    pub const HEAD: &str = "way   mode     settings                 trials   p50 ms   p99 ms   max ms  new p99  kept false  requests  failed   slow   \
                            stall   bound";
}

/// What is to be reached, milliseconds.
fn target(way: Way, mode: Mode, settings: Settings) -> Option<f64> {
    let interval = if settings == Settings::Default { 1000.0 } else { 10.0 };
    let timeout = if settings == Settings::Default { 500.0 } else { 10.0 };
    match (mode, way, settings) {
        (Mode::Haproxy, ..) | (_, Way::Slow, _) => None,
        (_, Way::Stop, _) => Some(3.0 * interval + timeout),
        (_, _, Settings::Fast) => Some(60.0),
        (_, Way::Kill, Settings::Default) => Some(50.0),
        (_, Way::Cut | Way::Drop, Settings::Default) => Some(300.0),
    }
}

pub(super) fn tenth(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}
