use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::weights::Factor;

/// When a breaker opens, and how it closes again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rules {
    /// Share of flows that fail, 0 to 1, ...
    pub failures: Option<f64>,
    /// ... of so many in the window at least.
    pub volume: u32,
    /// Flows that fail in a row.
    pub consecutive: Option<u32>,
    /// How many times its latency without load a backend's latency is, compared with the others'.
    pub latency: Option<f64>,
    /// What is older does not count.
    pub window: Duration,
    /// It stays open for so long the first time, and twice as long each time that a trial fails, ...
    pub open: Duration,
    /// ... at most this long.
    pub most: Duration,
    /// Share of its weight in a trial, 0 to 1.
    pub share: f64,
    /// A trial takes so long.
    pub trial: Duration,
    /// Share of the service's weight that breakers may take out, 0 to 1.
    pub most_open: f64,
}

/// The state of a breaker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// All goes through.
    #[default]
    Closed,
    /// Nothing does.
    Open,
    /// A share does, to see how it goes.
    HalfOpen,
}

/// What was seen of a backend's flows, of late.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Flows that it was given.
    pub flows: u64,
    /// Share that failed, where enough are known, 0 to 1: those that all backends have alike do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<f64>,
    /// Flows in a row that failed.
    pub in_row: u64,
    /// How many times its latency without load its latency is, divided by what that is for the others (where that is more than 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<f64>,
}

/// Why a breaker opened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Failures,
    Consecutive,
    Latency,
}

/// What may be done at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permit {
    /// One more may be opened.
    pub open: bool,
}

/// A change of state and what it rests on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    pub from: Circuit,
    pub to: Circuit,
    /// `None` = time was up.
    pub cause: Option<Cause>,
    pub reading: Reading,
}

/// The breaker of one backend.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Breaker {
    circuit: Circuit,
    since: Option<Instant>,
    /// Trials that failed, one after the other.
    failed: u32,
}

impl Rules {
    /// What of a reading is too much, if anything.
    pub fn cause(&self, reading: &Reading) -> Option<Cause> {
        let reached = |value: Option<f64>, limit: Option<f64>| value.zip(limit).is_some_and(|(value, limit)| value >= limit);
        if self.consecutive.is_some_and(|n| reading.in_row >= u64::from(n.max(1))) {
            return Some(Cause::Consecutive);
        }
        if reached(reading.failures, self.failures) {
            return Some(Cause::Failures);
        }
        reached(reading.latency, self.latency).then_some(Cause::Latency)
    }

    /// Flows that have to be known before their share counts: fewer in a trial, which sees few.
    pub fn volume(&self, circuit: Circuit) -> u64 {
        match circuit {
            Circuit::Closed | Circuit::Open => u64::from(self.volume),
            Circuit::HalfOpen => ((f64::from(self.volume) * self.share).ceil() as u64).clamp(3, u64::from(self.volume.max(3))),
        }
    }

    fn open_for(&self, failed: u32) -> Duration {
        self.open.saturating_mul(1 << failed.min(16)).min(self.most.max(self.open))
    }

    /// The share of a trial as a factor on the weight.
    pub fn factor(&self) -> Factor {
        Factor::of(self.share)
    }
}

impl Breaker {
    pub fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Since when it is as it is; `None` = from the beginning.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// When it will be tried again.
    pub fn until(&self, rules: &Rules) -> Option<Instant> {
        let span = match self.circuit {
            Circuit::Closed => return None,
            Circuit::Open => rules.open_for(self.failed),
            Circuit::HalfOpen => rules.trial,
        };
        self.since?.checked_add(span)
    }

    /// Takes in what is known at `now`. After a change to [`Circuit::HalfOpen`] readings have to begin anew.
    pub fn step(&mut self, now: Instant, reading: &Reading, rules: &Rules, permit: Permit) -> Option<Change> {
        let over = self.until(rules).is_some_and(|until| now >= until);
        let cause = rules.cause(reading);
        let (to, cause) = match self.circuit {
            Circuit::Closed => (Circuit::Open, Some(cause.filter(|_| permit.open)?)),
            Circuit::Open if over => (Circuit::HalfOpen, None),
            Circuit::HalfOpen if cause.is_some() => (Circuit::Open, cause),
            Circuit::HalfOpen if over => (Circuit::Closed, None),
            Circuit::Open | Circuit::HalfOpen => return None,
        };
        self.failed = match (self.circuit, to) {
            (Circuit::HalfOpen, Circuit::Open) => self.failed.saturating_add(1),
            // Who was closed for long begins anew.
            (Circuit::Closed, Circuit::Open) if !self.relapsed(now, rules) => 0,
            (Circuit::Closed, Circuit::Open) => self.failed.saturating_add(1),
            _ => self.failed,
        };
        let from = std::mem::replace(&mut self.circuit, to);
        self.since = Some(now);
        Some(Change { from, to, cause, reading: *reading })
    }

    /// It was closed for less time than it may be open.
    fn relapsed(&self, now: Instant, rules: &Rules) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) < rules.most)
    }
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, failures, in_row, latency } = self;
        write!(f, "{flows} flows")?;
        failures.map_or(Ok(()), |share| write!(f, ", {:.0} % failed beyond what all have", 100.0 * share))?;
        write!(f, ", {in_row} failed in a row")?;
        latency.map_or(Ok(()), |times| write!(f, ", latency {times:.1} times that of the others"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to, self.cause) {
            (Circuit::Open, Some(Cause::Failures)) => f.write_str("too many flows fail: ")?,
            (Circuit::Open, Some(Cause::Consecutive)) => f.write_str("flows fail one after the other: ")?,
            (Circuit::Open, Some(Cause::Latency)) => f.write_str("it has become slow: ")?,
            (Circuit::Open, None) | (Circuit::HalfOpen, _) => return f.write_str("it was open for its time and is tried with a share"),
            (Circuit::Closed, _) => f.write_str("its trial went well: ")?,
        }
        write!(f, "{}", self.reading)
    }
}

#[cfg(test)]
impl Breaker {
    /// Has been as it is since then.
    pub fn since_for_tests(&mut self, since: Instant) {
        self.since = Some(since);
    }
}
