use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use crate::model::ConnectionLimits;

/// New flows are counted over so long.
const SECOND: Duration = Duration::from_secs(1);
/// Who is full stays so for this long at least: else a backend at its limit would come and go with every flow.
const HOLD: Duration = Duration::from_millis(500);
/// Counts are kept no closer than this.
const STEP: Duration = Duration::from_millis(10);

/// The limit that is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    Connections { open: u64, limit: u32 },
    Rate { begun: u64, limit: u32 },
}

/// Whether one backend has as many flows as it may have.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    /// Flows begun ever, as of some moments of the last second.
    marks: VecDeque<(Instant, u64)>,
    full: Option<(Instant, Full)>,
}

impl Limiter {
    /// Takes in how many flows the backend has now (`None` = nobody counts them), and how many it was given ever.
    pub fn step(&mut self, now: Instant, limits: ConnectionLimits, open: Option<u64>, begun: u64) -> Option<Full> {
        let rate = self.rate(now, begun);
        let reached = reached(limits, open, rate, false);
        if let Some((since, _)) = self.full {
            let held = now.saturating_duration_since(since) < HOLD;
            match reached.or_else(|| self::reached(limits, open, rate, true)) {
                Some(still) => self.full = Some((since, still)),
                None if held && limits != ConnectionLimits::default() => {}
                None => self.full = None,
            }
        } else if let Some(full) = reached {
            self.full = Some((now, full));
        }
        self.full()
    }

    pub fn full(&self) -> Option<Full> {
        self.full.map(|(_, full)| full)
    }

    /// Flows begun within the last second.
    fn rate(&mut self, now: Instant, begun: u64) -> u64 {
        // Counters that begin anew were cleared.
        if self.marks.back().is_some_and(|(_, last)| *last > begun) {
            self.marks.clear();
        }
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= SECOND) {
            self.marks.pop_front();
        }
        let since = self.marks.front().map_or(begun, |(_, first)| *first);
        if self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= STEP) {
            self.marks.push_back((now, begun));
        }
        begun.saturating_sub(since)
    }
}

/// `again`: to be let in again there has to be some room.
fn reached(limits: ConnectionLimits, open: Option<u64>, begun: u64, again: bool) -> Option<Full> {
    let least = |limit: u32| {
        let room = if again { (limit / 20).max(1) } else { 0 };
        u64::from(limit.saturating_sub(room))
    };
    let connections = limits.connections.zip(open).filter(|(limit, open)| *open >= least(*limit).max(1));
    let rate = limits.rate.filter(|limit| begun >= least(*limit).max(1));
    connections.map(|(limit, open)| Full::Connections { open, limit }).or(rate.map(|limit| Full::Rate { begun, limit }))
}

impl Full {
    /// What was counted, and the limit.
    pub fn values(&self) -> (u64, u32) {
        match *self {
            Self::Connections { open, limit } => (open, limit),
            Self::Rate { begun, limit } => (begun, limit),
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { open, limit } => write!(f, "it has {open} connections, and may have {limit}"),
            Self::Rate { begun, limit } => write!(f, "it was given {begun} connections within a second, and may be given {limit}"),
        }
    }
}
