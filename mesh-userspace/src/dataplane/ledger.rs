//! The ledger as the daemon takes part in it: its times, and what it holds.

use std::ops::Range;

use mesh_common::{
    abi::{Config, LEDGER_WAYS, LedgerBucket, LedgerConfig, LedgerEntry, LedgerWord},
    ledger::{among::LAG, change::Times},
};

use super::{
    image::{Image, words_of},
    nat::ticks,
    options::LedgerTimes,
};

/// What the ledger holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entries {
    /// SYNs that were sent somewhere and not answered yet.
    pub pending: u64,
    pub flows: u64,
    pub capacity: u64,
    /// Ticks since the entry was used that was not used for longest.
    pub oldest: u32,
}

/// Times as the kernel half counts them.
pub fn times(options: &LedgerTimes) -> Times {
    let most = LedgerWord::SEEN / 2;
    Times {
        handshake: ticks(options.handshake).min(most),
        idle: ticks(options.idle).min(most),
        patience: ticks(options.patience).min(most),
        lag: LAG,
    }
}

/// Makes the kernel half go by `times`. `shared`: other nodes have flows of the same slots.
pub fn publish(image: &Image, times: &Times, shared: bool) {
    let config = LedgerConfig {
        bucket_mask: (image.ledger.len() as u32).saturating_sub(1),
        handshake_ticks: times.handshake,
        idle_ticks: times.remembered(),
        shared: shared.into(),
    };
    image.config.set_run(0, std::mem::offset_of!(Config, ledger) / 8, words_of(&config));
}

/// Removes entries of these buckets that have expired, and adds the others to `entries`. An age can be told for an hour only, so this has to be done more
/// often than that.
pub fn sweep(image: &Image, times: &Times, now: u32, buckets: Range<usize>, entries: &mut Entries) {
    entries.capacity = (image.ledger.len() * LEDGER_WAYS) as u64;
    for bucket in buckets {
        for way in 0..LEDGER_WAYS {
            let at = way * (size_of::<LedgerEntry>() / 8);
            let claim = image.ledger.word(bucket, at);
            if claim == 0 || claim == LedgerEntry::BUSY {
                continue;
            }
            let word = LedgerWord(image.ledger.word(bucket, at + 1));
            let age = word.age(now);
            // Some time more, so that no packet is under way that has found the entry alive.
            if age > 2 + if word.is_flow() { times.remembered() } else { times.handshake } {
                image.ledger.exchange_word(bucket, at, claim, 0);
                continue;
            }
            entries.oldest = entries.oldest.max(age);
            if word.is_flow() { entries.flows += 1 } else { entries.pending += 1 }
        }
    }
}

const _: () = assert!(std::mem::offset_of!(LedgerEntry, claim) == 0 && std::mem::offset_of!(LedgerBucket, entries) == 0);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMES: Times = Times { handshake: 20, idle: 84, patience: 10, lag: 16 };

    #[test]
    fn what_has_expired_goes_and_the_rest_is_counted() {
        let image = Image::heap(32, 4, 64, 16, 64);
        let words = [LedgerWord::pending(1, 7, 1000), LedgerWord::flow(1, 1000), LedgerWord::flow(2, 900), LedgerWord::pending(2, 7, 900)];
        for (way, word) in words.iter().enumerate() {
            image.ledger.set_word(0, 2 * way, 4 * (way as u64 + 1));
            image.ledger.set_word(0, 2 * way + 1, word.0);
        }
        let sweep = |now| {
            let mut entries = Entries::default();
            super::sweep(&image, &TIMES, now, 0..image.ledger.len(), &mut entries);
            entries
        };
        let seen = sweep(1002);
        assert_eq!((seen.pending, seen.flows, seen.oldest), (1, 2, 102));
        let seen = sweep(1010);
        assert_eq!((seen.pending, seen.flows, seen.oldest), (1, 1, 10));
        assert_eq!(sweep(1200), Entries { capacity: seen.capacity, ..Entries::default() });
    }

    #[test]
    fn times_stay_within_what_an_entry_can_tell() {
        let long = LedgerTimes { idle: Duration::from_secs(1 << 20), ..LedgerTimes::default() };
        assert_eq!(times(&long).idle, LedgerWord::SEEN / 2);
    }
}
