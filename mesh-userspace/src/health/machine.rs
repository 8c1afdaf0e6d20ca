//! The judgement about one target: samples and `now` in, transitions out. No IO and no clock.
//!
//! What a sample says and what follows from it are apart: [`Machine::step`] alone changes the health, on the word of a detector.
//! Today's detector is the streak of equal answers; one that sums the suspicion of several channels has the same shape.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{ballot::Votes, detector::Signals};

/// What is known about a target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not decided yet: gets no traffic.
    #[default]
    Unknown,
    Up,
    /// Suspected: takes no new flows, keeps its old ones.
    Soft,
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Soft => "soft",
            Self::Down => "down",
        })
    }
}

/// One observation of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sample {
    /// It answered as it should.
    Passed { rtt: Duration },
    /// It did not.
    Failed { error: String },
    /// The fault was our own (late timers, no local port): says nothing about the target.
    Excused { error: String },
}

/// How many equal answers in a row change the health; both at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Thresholds {
    pub rise: u32,
    pub fall: u32,
}

/// What a judgement rests on.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// Equal answers of checks in a row, ...
    pub consecutive: u32,
    /// ... which passed: whatever failed after them was a check made in doubt, or an excused one.
    pub passed: bool,
    /// Round trip of the last check, if it passed.
    pub rtt: Option<Duration>,
    /// Error of the last check, if it failed.
    pub error: Option<String>,
    /// What the channels say, where several are summed.
    pub signals: Option<Signals>,
    /// The votes, where there are other nodes and this one is against it.
    pub votes: Option<Votes>,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.consecutive;
        if let Some(signals) = &self.signals {
            write!(f, "{signals}; checks: ")?;
        }
        match (&self.error, self.rtt) {
            (Some(error), _) if self.passed => write!(f, "{n} passed in a row, then: {error}"),
            (Some(error), _) => write!(f, "{n} failed in a row, last: {error}"),
            (None, Some(rtt)) => write!(f, "{n} passed in a row, last in {rtt:.1?}"),
            (None, None) => write!(f, "{n} in a row"),
        }?;
        self.votes.map_or(Ok(()), |votes| write!(f, "; {votes}"))
    }
}

/// A change of health.
#[derive(Clone, PartialEq, Debug)]
pub struct Transition {
    pub from: Health,
    pub to: Health,
    pub evidence: Evidence,
}

/// Health of one target and the evidence so far.
#[derive(Clone, Debug)]
pub struct Machine {
    thresholds: Thresholds,
    health: Health,
    since: Instant,
    streak: Streak,
}

impl Machine {
    /// A target with the `health` that was last known of it ([`Health::Unknown`] if none was).
    pub fn new(thresholds: Thresholds, health: Health, now: Instant) -> Self {
        Self { thresholds, health, since: now, streak: Streak::default() }
    }

    /// Judges anew by other thresholds. The health stays, the evidence starts over.
    pub fn retune(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
        self.streak = Streak::default();
    }

    /// Takes in one sample, observed at `now`.
    pub fn step(&mut self, now: Instant, sample: &Sample) -> Option<Transition> {
        let to = self.streak.observe(sample, self.thresholds)?;
        if to == self.health {
            return None;
        }
        let from = std::mem::replace(&mut self.health, to);
        self.since = now;
        Some(Transition { from, to, evidence: self.streak.evidence(sample) })
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// Others have shown that the target is gone: it has to rise anew.
    pub fn fell(&mut self, now: Instant) {
        if self.health != Health::Down {
            (self.health, self.since) = (Health::Down, now);
        }
        self.streak = Streak::default();
    }

    /// When the health last changed, or the target was first seen.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Equal answers in a row so far.
    pub fn consecutive(&self) -> u32 {
        self.streak.length
    }

    /// Whether those have passed.
    pub fn passed(&self) -> bool {
        self.streak.passed
    }
}

/// The detector: equal answers in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Streak {
    passed: bool,
    length: u32,
}

impl Streak {
    /// The health that the samples speak for by now, if they speak clearly.
    fn observe(&mut self, sample: &Sample, t: Thresholds) -> Option<Health> {
        let passed = match sample {
            Sample::Passed { .. } => true,
            Sample::Failed { .. } => false,
            Sample::Excused { .. } => return None,
        };
        let length = if passed == self.passed { self.length.saturating_add(1) } else { 1 };
        *self = Self { passed, length };
        let (needed, verdict) = if passed { (t.rise, Health::Up) } else { (t.fall, Health::Down) };
        (length >= needed.max(1)).then_some(verdict)
    }

    fn evidence(&self, sample: &Sample) -> Evidence {
        let (rtt, error) = match sample {
            Sample::Passed { rtt } => (Some(*rtt), None),
            Sample::Failed { error } | Sample::Excused { error } => (None, Some(error.clone())),
        };
        Evidence { consecutive: self.length, passed: self.passed, rtt, error, signals: None, votes: None }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Health::{Down, Unknown, Up},
        *,
    };

    fn sample(c: char) -> Sample {
        match c {
            '+' => Sample::Passed { rtt: Duration::from_micros(250) },
            '-' => Sample::Failed { error: "refused".into() },
            _ => Sample::Excused { error: "late".into() },
        }
    }

    /// Every health x evidence so far x sample, for rise 2 and fall 3: (health, streak before) -> (health, streak after).
    /// The streak is written as its samples.
    #[test]
    fn transition_table() {
        #[rustfmt::skip]
        let rows = [
            // health   before  sample  health  streak  changes
            (Unknown,   "",     '+',    Unknown, 1,     false),
            (Unknown,   "+",    '+',    Up,      2,     true),
            (Unknown,   "-",    '+',    Unknown, 1,     false),
            (Unknown,   "--",   '+',    Unknown, 1,     false),
            (Unknown,   "",     '-',    Unknown, 1,     false),
            (Unknown,   "+",    '-',    Unknown, 1,     false),
            (Unknown,   "-",    '-',    Unknown, 2,     false),
            (Unknown,   "--",   '-',    Down,    3,     true),
            (Unknown,   "",     '?',    Unknown, 0,     false),
            (Unknown,   "+",    '?',    Unknown, 1,     false),
            (Unknown,   "--",   '?',    Unknown, 2,     false),
            (Up,        "",     '+',    Up,      1,     false),
            (Up,        "+",    '+',    Up,      2,     false),
            (Up,        "++",   '+',    Up,      3,     false),
            (Up,        "-",    '+',    Up,      1,     false),
            (Up,        "--",   '+',    Up,      1,     false),
            (Up,        "",     '-',    Up,      1,     false),
            (Up,        "++",   '-',    Up,      1,     false),
            (Up,        "-",    '-',    Up,      2,     false),
            (Up,        "--",   '-',    Down,    3,     true),
            (Up,        "",     '?',    Up,      0,     false),
            (Up,        "++",   '?',    Up,      2,     false),
            (Up,        "--",   '?',    Up,      2,     false),
            (Down,      "",     '+',    Down,    1,     false),
            (Down,      "+",    '+',    Up,      2,     true),
            (Down,      "-",    '+',    Down,    1,     false),
            (Down,      "---",  '+',    Down,    1,     false),
            (Down,      "",     '-',    Down,    1,     false),
            (Down,      "+",    '-',    Down,    1,     false),
            (Down,      "--",   '-',    Down,    3,     false),
            (Down,      "---",  '-',    Down,    4,     false),
            (Down,      "",     '?',    Down,    0,     false),
            (Down,      "+",    '?',    Down,    1,     false),
            (Down,      "---",  '?',    Down,    3,     false),
        ];
        let start = Instant::now();
        for (i, (health, before, c, after, streak, changes)) in rows.into_iter().enumerate() {
            let mut m = Machine::new(Thresholds { rise: 2, fall: 3 }, health, start);
            for b in before.chars() {
                m.streak.observe(&sample(b), m.thresholds);
            }
            let now = start + Duration::from_secs(1);
            let t = m.step(now, &sample(c));
            assert_eq!((m.health(), m.consecutive(), t.is_some()), (after, streak, changes), "row {i}");
            assert_eq!(m.since(), if changes { now } else { start }, "row {i}");
            if let Some(t) = t {
                assert_eq!((t.from, t.to, t.evidence.consecutive), (health, after, streak), "row {i}");
                assert_eq!(t.evidence.error.is_some(), after == Down, "row {i}");
            }
        }
    }

    #[test]
    fn one_and_one_decides_at_once() {
        let now = Instant::now();
        for (c, to) in [('+', Up), ('-', Down)] {
            let mut m = Machine::new(Thresholds { rise: 1, fall: 1 }, Unknown, now);
            assert_eq!(m.step(now, &sample(c)).map(|t| t.to), Some(to));
        }
    }

    #[test]
    fn an_excused_check_does_not_break_a_streak() {
        let now = Instant::now();
        let mut m = Machine::new(Thresholds { rise: 1, fall: 2 }, Up, now);
        assert_eq!(m.step(now, &sample('-')), None);
        assert_eq!(m.step(now, &sample('?')), None);
        assert_eq!(m.step(now, &sample('-')).map(|t| t.to), Some(Down));
    }

    #[test]
    fn retuned_keeps_its_health_and_starts_counting_over() {
        let now = Instant::now();
        let mut m = Machine::new(Thresholds { rise: 1, fall: 3 }, Up, now);
        m.step(now, &sample('-'));
        m.retune(Thresholds { rise: 1, fall: 2 });
        assert_eq!((m.health(), m.consecutive()), (Up, 0));
        assert_eq!(m.step(now, &sample('-')), None);
        assert_eq!(m.step(now, &sample('-')).map(|t| t.to), Some(Down));
    }

    #[test]
    fn endless_streaks_do_not_overflow() {
        let now = Instant::now();
        let mut m = Machine::new(Thresholds { rise: 1, fall: u32::MAX }, Up, now);
        m.streak = Streak { passed: false, length: u32::MAX - 1 };
        assert_eq!(m.step(now, &sample('-')).map(|t| t.to), Some(Down));
        assert_eq!(m.step(now, &sample('-')), None);
        assert_eq!(m.consecutive(), u32::MAX);
    }

    #[test]
    fn evidence_reads_well() {
        let failed =
            Evidence { consecutive: 3, passed: false, rtt: None, error: Some("connection refused".into()), signals: None, votes: None };
        assert_eq!(failed.to_string(), "3 failed in a row, last: connection refused");
        let in_doubt = Evidence { consecutive: 25, passed: true, ..failed };
        assert_eq!(in_doubt.to_string(), "25 passed in a row, then: connection refused");
        let passed =
            Evidence { consecutive: 2, passed: true, rtt: Some(Duration::from_micros(250)), error: None, signals: None, votes: None };
        assert_eq!(passed.to_string(), "2 passed in a row, last in 250.0µs");
    }
}
