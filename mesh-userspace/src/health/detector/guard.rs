use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A timer that is later than this says that we were away.
const LATE: Duration = Duration::from_millis(2);
/// After a doubt about ourselves nothing changes for so long at most, ...
const FREEZE: Duration = Duration::from_millis(50);
/// ... and after a timer of ours was late, so many times as long as that: what came meanwhile is heard within that, and a machine that is late all the time must
/// still find who is dead.
const TIMES: u32 = 4;
/// Backends that fall silent within so short a time ...
const TOGETHER: Duration = Duration::from_millis(5);
/// ... and are more than this share of all (at least two): it is us, or our network.
const TOO_MANY: f64 = 0.3;

/// Doubts ourselves before the backends.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    frozen_until: Option<Instant>,
    /// Until then a timer that is late by no more than the last one has no weight: doubts of that kind take half of the time at most.
    rest: Option<(Instant, Duration)>,
    silenced: VecDeque<Instant>,
}

impl Guard {
    /// A timer of ours fired `late` at `now`.
    pub fn woke(&mut self, now: Instant, late: Duration) {
        if late > LATE && self.rest.is_none_or(|(until, last)| now >= until || late > last) {
            let span = (late * TIMES).min(FREEZE);
            self.rest = Some((now + span * 2, late));
            self.freeze(now, span);
        }
    }

    /// One backend of `all` fell silent at `now`.
    pub fn fell_silent(&mut self, now: Instant, all: usize) {
        while self.silenced.front().is_some_and(|then| now.saturating_duration_since(*then) > TOGETHER) {
            self.silenced.pop_front();
        }
        self.silenced.push_back(now);
        let count = self.silenced.len();
        if count >= 2 && count as f64 > TOO_MANY * all as f64 {
            self.freeze(now, FREEZE);
        }
    }

    /// Nothing may change now.
    pub fn frozen(&self, now: Instant) -> bool {
        self.frozen_until.is_some_and(|until| now < until)
    }

    fn freeze(&mut self, now: Instant, span: Duration) {
        self.frozen_until = self.frozen_until.max(Some(now + span));
    }
}
