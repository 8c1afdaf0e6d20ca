use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::TargetId;

/// So many targets have to be silent before the fault may be ours: two may well fail together.
const FEW: usize = 3;
/// We doubt ourselves for so long; then it is the targets after all.
const HOLD: Duration = Duration::from_secs(10);

/// Whether we see anything at all: where nobody answers any more, the likeliest fault is our own, or our network's.
#[derive(Clone, Debug, Default)]
pub struct Vantage {
    /// Who was asked in vain since anybody answered last.
    silent: BTreeSet<TargetId>,
    blind: Option<Instant>,
    heard: Option<Instant>,
}

impl Vantage {
    /// Somebody answered, whatever it was. True: after a time in which nobody did, and we doubted ourselves.
    pub fn heard(&mut self, now: Instant) -> bool {
        let regained = self.blind(now);
        self.silent.clear();
        (self.blind, self.heard) = (None, Some(now));
        regained
    }

    /// Nobody at all was heard since `then`, of those who are asked all the time: whoever is late may only be the first to be missed.
    pub fn deaf(&self, now: Instant, then: Instant, mut asked: impl Iterator<Item = IpAddr>) -> bool {
        if self.heard.is_none_or(|heard| heard > then) || now.saturating_duration_since(then) >= HOLD {
            return false;
        }
        let Some(first) = asked.next() else { return false };
        let (mut count, mut other) = (1, false);
        asked.any(|host| {
            (count, other) = (count + 1, other || host != first);
            count >= FEW && other
        })
    }

    /// A target was asked in vain. `trusted`: who is taken for alive, with its address.
    pub fn unheard(&mut self, now: Instant, id: TargetId, all: usize, trusted: impl Iterator<Item = (TargetId, IpAddr)>) {
        // Looking at all of them costs something, and is in vain before half of them are silent.
        if !self.silent.insert(id) || self.blind.is_some() || self.silent.len() * 2 < all {
            return;
        }
        let (mut count, mut hosts) = (0, BTreeSet::new());
        for (id, host) in trusted {
            if !self.silent.contains(&id) {
                return;
            }
            count += 1;
            hosts.insert(host);
        }
        if count >= FEW && hosts.len() > 1 {
            self.blind = Some(now);
        }
    }

    /// What is seen now says nothing about targets.
    pub fn blind(&self, now: Instant) -> bool {
        self.blind.is_some_and(|since| now.saturating_duration_since(since) < HOLD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_nobody_answers_doubts_itself_for_a_while() {
        let (now, mut v) = (Instant::now(), Vantage::default());
        let trusted = |n: u64, hosts: u64| (0..n).map(move |i| (i, IpAddr::from([10, 0, 0, (i % hosts) as u8])));
        v.unheard(now, 0, 4, trusted(4, 4));
        v.unheard(now, 1, 4, trusted(4, 4));
        v.unheard(now, 2, 4, trusted(4, 4));
        assert!(!v.blind(now), "one was not asked yet");
        assert!(!v.heard(now), "nothing was doubted");
        (1..4).for_each(|id| v.unheard(now, id, 4, trusted(4, 4)));
        assert!(!v.blind(now), "one has answered meanwhile");
        v.unheard(now, 0, 4, trusted(4, 4));
        assert!(v.blind(now) && v.blind(now + HOLD - Duration::from_millis(1)) && !v.blind(now + HOLD));
        assert!(v.heard(now) && !v.blind(now));
        for (n, hosts) in [(2, 2), (3, 1)] {
            let mut v = Vantage::default();
            (0..n).for_each(|id| v.unheard(now, id, n as usize, trusted(n, hosts)));
            assert!(!v.blind(now), "{n} on {hosts} hosts may fail together");
        }
    }

    #[test]
    fn who_was_missed_first_is_not_alone_before_another_is_heard() {
        let (t0, ms, mut v) = (Instant::now(), Duration::from_millis(1), Vantage::default());
        let asked = |n: u64, hosts: u64| (0..n).map(move |i| IpAddr::from([10, 0, 0, (i % hosts) as u8]));
        assert!(!v.deaf(t0, t0, asked(4, 4)), "nobody was ever heard");
        v.heard(t0);
        let missed = t0 + 5 * ms;
        assert!(v.deaf(missed + ms, missed, asked(3, 2)));
        assert!(!v.deaf(missed + ms, missed, asked(3, 1)) && !v.deaf(missed + ms, missed, asked(2, 2)), "few may fail together");
        assert!(!v.deaf(missed + HOLD, missed, asked(3, 3)), "not for ever");
        v.heard(missed + ms);
        assert!(!v.deaf(missed + 2 * ms, missed, asked(3, 3)));
    }
}
