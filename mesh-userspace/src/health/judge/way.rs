use std::time::{Duration, Instant};

/// Once our own way to a target is back, its silence counts after so long, or after its first answer: who does not know a neighbour's address yet asks for
/// it once a second (RFC 1122 section 2.3.2.1; RFC 4861 section 10, RETRANS_TIMER).
const SETTLE: Duration = Duration::from_secs(2);
/// Who is without a way to a target for longer than this will not have one: then what its checks say counts.
const AWAY: Duration = Duration::from_secs(10);

/// Our own way to a target: when it was just gone, the target's silence may be ours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// From when to when it was gone last.
    gone: Option<(Instant, Instant)>,
}

impl Way {
    /// There was none until now.
    pub fn was_gone(&mut self, now: Instant) {
        self.gone = Some((self.gone.map_or(now, |(since, _)| since), now));
    }

    /// Whether silence may still be ours.
    pub fn is_unsure(self, now: Instant) -> bool {
        self.gone.is_some_and(|(since, last)| now < last.min(since + AWAY) + SETTLE)
    }
}
