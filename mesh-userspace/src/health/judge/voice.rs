use std::time::{Duration, Instant};

/// What was heard so long ago says nothing of now, ...
const LATELY: Duration = Duration::from_millis(100);
/// ... unless the counters were not read since: those of many backends, or of a busy machine, are read less often. They are waited for so long at most.
const PATIENCE: Duration = Duration::from_millis(500);

/// Packets of a target's own flows: what comes from it shows that its host lives, whoever else does not hear from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Voice {
    /// The last two times that the counters were read.
    read: [Option<Instant>; 2],
    /// Between these two readings something came last.
    heard: Option<(Instant, Instant)>,
}

impl Voice {
    /// The counters were read: so many packets have come since the last time.
    pub fn read(&mut self, now: Instant, packets: u64) {
        self.read = [self.read[1], Some(now)];
        if packets > 0 {
            self.heard = self.read[0].map(|before| (before, now));
        }
    }

    /// Something has come that was not on its way already `then`, and lately; or nobody knows yet whether of one that was heard before.
    pub fn may_be_heard_since(self, then: Instant, now: Instant) -> bool {
        let Some((from, to)) = self.heard else { return false };
        let known = self.read[0].is_some_and(|before| before >= then) || now.saturating_duration_since(then) >= PATIENCE;
        let recent = now.saturating_duration_since(to) <= if self.read[1] == Some(to) { PATIENCE } else { LATELY };
        !known || from >= then && recent
    }
}
