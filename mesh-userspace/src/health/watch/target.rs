use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Suspicion, TargetId, TargetStatus, Traffic, Waited};
use crate::health::{Check, Health, HealthEvent, Reported, Sample, Verdict, breaker::Meter, judge::Judge};

/// From the end of one trial to the next one's start, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// So many in a row that were excused are made again without a pause.
const AGAIN: u32 = 2;
/// A trial of a target whose kernel is silent waits this long, or four of its usual round trips.
const HURRY: Duration = Duration::from_millis(50);

/// How flows went is looked at over so long.
const WINDOW: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Target {
    pub id: TargetId,
    pub check: Arc<Check>,
    pub judge: Judge,
    pub excused_in_row: u32,
    /// The same of checks that were made because of a doubt.
    pub trials_excused: u32,
    pub unsent: Option<HealthEvent>,
    pub trial: Trial,
    /// What the other nodes know that this one thinks of it.
    pub said: Option<Verdict>,
    pub pulse_rtt: Option<Duration>,
    pub waited: Waited,
    /// What its answers report.
    pub load: Option<Reported>,
    last_check: Option<Instant>,
    last_rtt: Option<Duration>,
    usual_rtt: Option<Duration>,
    last_error: Option<String>,
    done: u64,
    failed: u64,
    excused: u64,
    counted: Option<Traffic>,
    pub meter: Meter,
}

/// Checks that are made because of a doubt, one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trial {
    /// May begin from then on.
    From(Instant),
    UnderWay,
}

/// What was counted of a target's traffic in a moment.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Packets that were sent to it.
    pub sent: u64,
    /// Independent signs of its life.
    pub signs: u64,
    /// Packets of its own, where they come by us.
    pub replies: u64,
}

impl Target {
    pub fn new(id: TargetId, check: Arc<Check>, health: Health, now: Instant) -> Self {
        Self {
            id,
            judge: Judge::new(check.thresholds(), check.detection, health, now),
            check,
            excused_in_row: 0,
            trials_excused: 0,
            unsent: None,
            trial: Trial::From(now),
            said: None,
            pulse_rtt: None,
            waited: Waited::default(),
            load: None,
            last_check: None,
            last_rtt: None,
            usual_rtt: None,
            last_error: None,
            done: 0,
            failed: 0,
            excused: 0,
            counted: None,
            meter: Meter::new(WINDOW),
        }
    }

    /// Taken for alive.
    pub fn is_trusted(&self) -> bool {
        matches!(self.judge.health(), Health::Up | Health::Soft)
    }

    pub fn was_checked(&self) -> bool {
        self.done > 0
    }

    pub fn checked(&mut self, sample: Sample, refused: bool, now: Instant) {
        self.done += 1;
        self.last_check = Some(now);
        self.excused_in_row = if matches!(sample, Sample::Excused { .. }) { self.excused_in_row + 1 } else { 0 };
        match &sample {
            Sample::Passed { rtt } => (self.last_rtt, self.last_error) = (Some(*rtt), None),
            Sample::Failed { error } => (self.failed, self.last_error) = (self.failed + 1, Some(error.clone())),
            Sample::Excused { error } => (self.excused, self.last_error) = (self.excused + 1, Some(error.clone())),
        }
        self.learn(&sample);
        self.judge.checked(now, sample, refused);
    }

    pub fn tried(&mut self, sample: Sample, refused: bool, now: Instant) {
        let excused = matches!(sample, Sample::Excused { .. });
        self.trials_excused = if excused { self.trials_excused + 1 } else { 0 };
        // One that says nothing is made again at once, if not for ever.
        let again = (1..=AGAIN).contains(&self.trials_excused);
        self.trial = Trial::From(if again { now } else { now + PAUSE });
        match &sample {
            Sample::Passed { rtt } => (self.last_rtt, self.last_error) = (Some(*rtt), None),
            Sample::Failed { error } => self.last_error = Some(error.clone()),
            Sample::Excused { .. } => {}
        }
        self.learn(&sample);
        self.judge.tried(now, sample, refused);
    }

    /// One answer that came late, because somebody slept, must not make the target's next silence last.
    fn learn(&mut self, sample: &Sample) {
        let Sample::Passed { rtt } = sample else { return };
        self.usual_rtt = Some(self.usual_rtt.map_or(*rtt, |usual| (usual * 7 + (*rtt).min(usual * 4)) / 8));
    }

    /// The check as it is made in doubt.
    pub fn trial_check(&self) -> Arc<Check> {
        if !self.judge.silent() {
            return Arc::clone(&self.check);
        }
        let patience = self.usual_rtt.map_or(HURRY, |rtt| HURRY.max(rtt * 4));
        Arc::new(Check { timeout: self.check.timeout.min(patience), ..(*self.check).clone() })
    }

    /// What has been counted since the last time.
    pub fn count(&mut self, row: &Traffic) -> Counts {
        let before = self.counted.replace(*row).unwrap_or(*row);
        let signs = row.replied.saturating_sub(before.replied).min(row.flows.max(1));
        let replies = row.course.replies.saturating_sub(before.course.replies);
        Counts { sent: row.sent.saturating_sub(before.sent), signs, replies }
    }

    pub fn status(&self, now: Instant) -> TargetStatus {
        TargetStatus {
            health: self.judge.health(),
            since: self.judge.since(),
            last_check: self.last_check,
            last_rtt: self.last_rtt,
            last_error: self.last_error.clone(),
            consecutive: self.judge.consecutive(),
            checks_done: self.done,
            checks_failed: self.failed,
            checks_excused: self.excused,
            waited: self.waited,
            load: self.load.clone(),
            suspicion: self.judge.phase().map(|phase| Suspicion {
                phase,
                signals: self.judge.signals(now),
                penalty: self.judge.penalty(now),
                pulse_rtt: self.pulse_rtt,
                unanswered: self.judge.unanswered(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CheckKind;

    #[test]
    fn one_late_answer_does_not_make_the_next_silence_last() {
        let (ms, now) = (Duration::from_millis(1), Instant::now());
        let mut target = Target::new(1, Arc::new(Check::new(CheckKind::Tcp, ([127, 0, 0, 1], 80).into())), Health::Up, now);
        let mut after = |rtts: &[u32]| {
            rtts.iter().for_each(|rtt| target.checked(Sample::Passed { rtt: ms * *rtt }, false, now));
            target.usual_rtt.map(|rtt| rtt.as_millis())
        };
        assert_eq!(after(&[8]), Some(8));
        assert_eq!(after(&[400]), Some(11));
        assert_eq!(after(&[8; 20]), Some(8));
        // Who has really become slow is known to be.
        assert!(after(&[400; 40]) > Some(390));
    }
}
