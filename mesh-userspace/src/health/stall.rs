//! Knows when this process itself was late: a silence that we slept through is no silence of the target.

use std::time::{Duration, Instant};

use super::Fault;

/// Timers are this late on a machine at rest; not counted.
pub(super) const NOISE: Duration = Duration::from_millis(2);

/// Who is late for longer was not kept waiting by another thread: more than this one was away, maybe the network card with it.
const AWAY: Duration = Duration::from_millis(10);

/// After so many excused checks in a row the next failure counts: a host that is always late must still notice a dead backend ...
const PATIENCE: u32 = 10;
/// ... and sooner where something else says that the target is silent.
const PATIENCE_IN_DOUBT: u32 = 2;

/// Sums up how late we were: because this thread did not run, or because it had more to do than it could.
#[derive(Debug, Default)]
pub(super) struct Stall {
    expected: Option<Instant>,
    lost: Lost,
}

/// Time that was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lost {
    /// To our own lateness.
    pub all: Duration,
    /// The part of it in which we were away for long.
    pub away: Duration,
}

impl Lost {
    /// What was lost since.
    pub(super) fn since(self, before: Self) -> Self {
        Self { all: self.all.saturating_sub(before.all), away: self.away.saturating_sub(before.away) }
    }
}

impl Stall {
    /// Something is to happen at `when` that has to go through all that answers go through.
    pub(super) fn expect(&mut self, when: Instant) {
        self.expected = Some(when);
    }

    /// It is expected, and has not happened yet.
    pub(super) fn expects(&self) -> bool {
        self.expected.is_some()
    }

    /// It happens at `now`.
    pub(super) fn awake(&mut self, now: Instant) {
        self.lost = self.lost(now);
        self.expected = None;
    }

    /// Time lost until `now`.
    pub(super) fn lost(&self, now: Instant) -> Lost {
        let late = self.expected.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        let more = |least| if late > least { late } else { Duration::ZERO };
        Lost { all: self.lost.all + more(NOISE), away: self.lost.away + more(AWAY) }
    }
}

/// How a failed check came about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    pub timeout: Duration,
    /// From start to failure.
    pub elapsed: Duration,
    /// The part of it since the target was last told something.
    pub waited: Duration,
    /// Lost meanwhile.
    pub lost: Lost,
    /// Checks of this kind that were excused right before.
    pub excused: u32,
    /// The target's pulses are not answered either, which are asked by a thread that is hardly ever late.
    pub silent: bool,
}

impl Circumstances {
    /// Whether the failure says nothing about the target: we could not ask, or were late for more than a quarter of the time it had. Where it had been told all
    /// in time only long absences count, for what comes while one thread waits for another is heard when it wakes. In doubt it is enough that the target had
    /// half of its time while we listened.
    pub(super) fn excuse(&self, fault: Fault) -> bool {
        match fault {
            Fault::Target => false,
            Fault::Own => true,
            Fault::Silence if self.silent => {
                self.excused < PATIENCE_IN_DOUBT && self.elapsed.saturating_sub(self.lost.all) < self.timeout / 2
            }
            Fault::Silence => {
                let late = self.elapsed.saturating_sub(self.timeout);
                let told_in_time = self.waited >= self.timeout / 4 * 3;
                let lost = match told_in_time {
                    true if late > AWAY => self.lost.away.max(late),
                    true => self.lost.away,
                    false => self.lost.all.max(late),
                };
                self.excused < PATIENCE && lost > NOISE.max(self.timeout / 4)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_real_lateness_adds_up() {
        let t0 = Instant::now();
        let mut stall = Stall::default();
        stall.awake(t0);
        for (due, woke, total) in [(10, 9, 0), (20, 22, 0), (30, 35, 5), (50, 50, 5), (60, 160, 105)] {
            stall.expect(t0 + due * MS);
            assert_eq!(stall.lost(t0 + woke * MS).all, total * MS, "not yet there");
            stall.awake(t0 + woke * MS);
            assert_eq!(stall.lost(t0 + woke * MS).all, total * MS, "due {due}, woke {woke}");
        }
        assert!(!stall.expects(), "while nobody waits, time is not lost");
        assert_eq!(stall.lost(t0 + 900 * MS), Lost { all: 105 * MS, away: 100 * MS });
    }

    #[test]
    fn excuses() {
        #[rustfmt::skip]
        let rows = [
            // fault          timeout elapsed stalled excused  excuse
            (Fault::Target,   100,    100,    90,     0,       false),
            (Fault::Own,      100,    0,      0,      0,       true),
            (Fault::Own,      100,    0,      0,      99,      true),
            (Fault::Silence,  100,    101,    0,      0,       false),
            (Fault::Silence,  100,    101,    25,     0,       false),
            (Fault::Silence,  100,    101,    26,     0,       true),
            (Fault::Silence,  100,    126,    0,      0,       true),
            (Fault::Silence,  100,    500,    400,    9,       true),
            (Fault::Silence,  100,    500,    400,    10,      false),
            (Fault::Silence,  4,      6,      0,      0,       false),
            (Fault::Silence,  4,      7,      0,      0,       true),
        ];
        for (i, (fault, timeout, elapsed, stalled, excused, expected)) in rows.into_iter().enumerate() {
            let lost = Lost { all: stalled * MS, away: Duration::ZERO };
            let c = Circumstances { timeout: timeout * MS, elapsed: elapsed * MS, waited: Duration::ZERO, lost, excused, silent: false };
            assert_eq!(c.excuse(fault), expected, "row {i}");
        }
    }

    #[test]
    fn who_was_told_in_time_is_excused_by_absence_alone() {
        #[rustfmt::skip]
        let rows = [
            // timeout elapsed waited lost away excused  excuse
            (10,       10,     10,    9,   0,   0,       false),
            (10,       18,     18,    9,   0,   0,       false),
            (10,       10,     7,     9,   0,   0,       true),
            (10,       11,     8,     9,   0,   0,       false),
            (10,       21,     21,    0,   0,   0,       true),
            (10,       21,     21,    11,  11,  9,       true),
            (10,       21,     21,    11,  11,  10,      false),
            (500,      505,    500,   400, 100, 0,       false),
            (500,      505,    500,   400, 130, 0,       true),
            (500,      505,    300,   130, 0,   0,       true),
        ];
        for (i, (timeout, elapsed, waited, all, away, excused, expected)) in rows.into_iter().enumerate() {
            let lost = Lost { all: all * MS, away: away * MS };
            let c = Circumstances { timeout: timeout * MS, elapsed: elapsed * MS, waited: waited * MS, lost, excused, silent: false };
            assert_eq!(c.excuse(Fault::Silence), expected, "row {i}");
        }
    }

    #[test]
    fn excuses_in_doubt() {
        #[rustfmt::skip]
        let rows = [
            // fault          timeout elapsed stalled excused  excuse
            (Fault::Target,   10,     10,     9,      0,       false),
            (Fault::Own,      10,     0,      0,      9,       true),
            (Fault::Silence,  10,     10,     5,      0,       false),
            (Fault::Silence,  10,     10,     6,      0,       true),
            (Fault::Silence,  10,     40,     30,     0,       false),
            (Fault::Silence,  10,     40,     36,     1,       true),
            (Fault::Silence,  10,     40,     36,     2,       false),
            (Fault::Silence,  10,     10,     11,     0,       true),
        ];
        for (i, (fault, timeout, elapsed, stalled, excused, expected)) in rows.into_iter().enumerate() {
            let lost = Lost { all: stalled * MS, away: Duration::ZERO };
            let c = Circumstances { timeout: timeout * MS, elapsed: elapsed * MS, waited: Duration::ZERO, lost, excused, silent: true };
            assert_eq!(c.excuse(fault), expected, "row {i}");
        }
    }
}
