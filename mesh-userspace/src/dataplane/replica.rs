//! The ledger as other balancers have to know it: what is new in it, and what they have told.

use std::sync::Arc;

use mesh_common::{
    abi::{LEDGER_WAYS, LedgerBucket, LedgerEntry, LedgerTags, LedgerWord},
    ledger::change::Times,
};

use super::{image::Row, nat};

/// Words of an entry.
const WORDS: usize = size_of::<LedgerEntry>() / 8;

/// The entries, and what of them others know.
pub struct Replica {
    ledger: Arc<Row<LedgerBucket>>,
    tags: Arc<Row<LedgerTags>>,
    times: Times,
    /// Claim and word of each place, as they were told.
    told: Vec<(u64, u64)>,
}

/// An entry as it stands in the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub claim: u64,
    pub word: LedgerWord,
    /// Ticks since it was used.
    pub age: u32,
}

impl Replica {
    pub fn new(ledger: Arc<Row<LedgerBucket>>, tags: Arc<Row<LedgerTags>>, times: Times) -> Self {
        let told = vec![(0, 0); ledger.len() * LEDGER_WAYS];
        Self { ledger, tags, times, told }
    }

    /// Time as the kernel half counts it.
    pub fn now() -> u32 {
        nat::tick()
    }

    /// All live entries.
    pub fn all(&self, now: u32) -> Vec<Found> {
        (0..self.told.len()).filter_map(|place| self.live(place, now)).collect()
    }

    /// Live entries that others have to be told of: new ones, others than before, and those that were used again for a third of the time that they live. `known`
    /// says which services there are others to tell about.
    pub fn news(&mut self, now: u32, known: impl Fn(u16) -> bool) -> Vec<Found> {
        let mut news = Vec::new();
        // Whatever stands there unchanged was told.
        for place in self.ledger.changed(&self.told) {
            let Some(found) = self.live(place, now) else { continue };
            let told = self.told[place];
            if !known(LedgerEntry::service(found.claim)) {
                continue;
            }
            let same = LedgerWord(told.1).touched(0) == found.word.touched(0) && told.0 == found.claim;
            let (behind, often) = (LedgerWord(told.1).age(now).saturating_sub(found.age), self.often(found.word));
            // Of a flow that has fallen silent others have to know since when: else theirs ends before it does.
            if !same || behind > often || behind > 0 && found.age > often {
                self.told[place] = (found.claim, found.word.0);
                news.push(found);
            }
        }
        news
    }

    /// Takes in what another node has told: for a flow that is not known, or better known there. Tells whether there was room.
    pub fn take(&mut self, hash: u64, service: u32, word: LedgerWord, now: u32) -> bool {
        if word.age(now) > self.limit(word) {
            return true;
        }
        let key = LedgerEntry::key(hash, service);
        let claim = key | 2;
        let bucket = (key >> 8) as usize & (self.ledger.len() - 1);
        for way in 0..LEDGER_WAYS {
            if self.ledger.word(bucket, way * WORDS) == claim {
                let old = LedgerWord(self.ledger.word(bucket, way * WORDS + 1));
                let better = old.age(now) > self.limit(old) || wins(word, old, now);
                if better && self.ledger.exchange_word(bucket, way * WORDS + 1, old.0, word.0) {
                    self.told[bucket * LEDGER_WAYS + way] = (claim, word.0);
                }
                return true;
            }
        }
        for way in 0..LEDGER_WAYS {
            let there = self.ledger.word(bucket, way * WORDS);
            let old = LedgerWord(self.ledger.word(bucket, way * WORDS + 1));
            let free = there == 0 || there != LedgerEntry::BUSY && old.age(now) > self.limit(old);
            if free && self.ledger.exchange_word(bucket, way * WORDS, there, LedgerEntry::BUSY) {
                self.ledger.set_word(bucket, way * WORDS + 1, word.0);
                self.tag(bucket, way, key);
                self.ledger.exchange_word(bucket, way * WORDS, LedgerEntry::BUSY, claim);
                self.told[bucket * LEDGER_WAYS + way] = (claim, word.0);
                return true;
            }
        }
        false
    }

    /// Before the claim: packets look for no entry whose tag they don't find. Those of the other ways may be changed meanwhile.
    fn tag(&self, bucket: usize, way: usize, key: u64) {
        loop {
            let old = self.tags.word(bucket, 0);
            let mut tags: LedgerTags = bytemuck::cast(old);
            tags.of[way] = LedgerTags::tag(key);
            if bucket >= self.tags.len() || self.tags.exchange_word(bucket, 0, old, bytemuck::cast(tags)) {
                return;
            }
        }
    }

    fn live(&self, place: usize, now: u32) -> Option<Found> {
        let (bucket, at) = (place / LEDGER_WAYS, place % LEDGER_WAYS * WORDS);
        let claim = self.ledger.word(bucket, at);
        if claim == 0 || claim == LedgerEntry::BUSY {
            return None;
        }
        let word = LedgerWord(self.ledger.word(bucket, at + 1));
        let age = word.age(now);
        // Its place may be somebody else's by now.
        (age <= self.limit(word) && self.ledger.word(bucket, at) == claim).then_some(Found { claim, word, age })
    }

    fn limit(&self, word: LedgerWord) -> u32 {
        if word.is_flow() { self.times.remembered() } else { self.times.handshake }
    }

    /// Uses of an entry are told when its copy is so far behind.
    fn often(&self, word: LedgerWord) -> u32 {
        if word.is_flow() { self.times.idle / 3 } else { self.times.handshake / 3 }
    }
}

/// Which of two entries of one flow stands: a flow's before a handshake's, then the one that was used last.
fn wins(new: LedgerWord, old: LedgerWord, now: u32) -> bool {
    (new.is_flow(), old.age(now)) > (old.is_flow(), new.age(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { handshake: 20, idle: 90, patience: 10, lag: 0 };

    fn replica(ledger: Arc<Row<LedgerBucket>>) -> Replica {
        let tags = Arc::new(Row::heap(ledger.len()));
        Replica::new(ledger, tags, TIMES)
    }

    #[test]
    fn what_is_new_is_told_once_and_what_is_used_from_time_to_time() {
        let ledger = Arc::new(Row::heap(4));
        let (mut here, mut there) = (replica(ledger.clone()), replica(Arc::new(Row::heap(4))));
        let claim = LedgerEntry::key(0x1234_5678_9abc, 7) | 2;
        let bucket = (claim >> 8) as usize & 3;
        let tell = |word: LedgerWord| {
            ledger.set_word(bucket, 0, claim);
            ledger.set_word(bucket, 1, word.0);
        };
        tell(LedgerWord::pending(3, 99, 1000));
        assert_eq!(here.news(1001, |service| service != 7), [], "nobody else has such a service");
        let news = here.news(1001, |service| service == 7);
        assert_eq!(news, [Found { claim, word: LedgerWord::pending(3, 99, 1000), age: 1 }]);
        assert_eq!(here.news(1001, |_| true), []);
        assert!(there.take(claim, 9, news[0].word, 1001));
        assert_eq!(there.news(1001, |_| true), [], "what others have told is not told to them");
        assert_eq!(there.all(1001)[0].claim, LedgerEntry::key(claim, 9) | 2);
        tell(LedgerWord::flow(3, 1002));
        assert_eq!(here.news(1002, |_| true).len(), 1);
        tell(LedgerWord::flow(3, 1010));
        assert_eq!(here.news(1010, |_| true), []);
        tell(LedgerWord::flow(3, 1040));
        assert_eq!(here.news(1040, |_| true).len(), 1);
        tell(LedgerWord::flow(3, 1045));
        assert_eq!(here.news(1075, |_| true), []);
        assert_eq!(here.news(1076, |_| true).len(), 1, "it has fallen silent");
        assert_eq!(here.news(1077, |_| true), []);
        assert_eq!(here.news(1136, |_| true), [], "it is over");
    }

    #[test]
    fn a_flow_stands_before_a_handshake_and_the_younger_before_the_older_and_no_live_one_gives_way() {
        let mut replica = replica(Arc::new(Row::heap(1)));
        let word = |replica: &Replica| replica.all(1000).iter().find(|f| f.claim >> 48 == 1).map(|f| f.word);
        for (new, stands) in [
            (LedgerWord::pending(1, 5, 990), LedgerWord::pending(1, 5, 990)),
            (LedgerWord::pending(2, 6, 985), LedgerWord::pending(1, 5, 990)),
            (LedgerWord::pending(2, 6, 995), LedgerWord::pending(2, 6, 995)),
            (LedgerWord::flow(2, 950), LedgerWord::flow(2, 950)),
            (LedgerWord::pending(1, 7, 1000), LedgerWord::flow(2, 950)),
            (LedgerWord::flow(2, 999), LedgerWord::flow(2, 999)),
        ] {
            assert!(replica.take(4, 1, new, 1000));
            assert_eq!(word(&replica), Some(stands), "{new:?}");
        }
        for service in 2..5 {
            assert!(replica.take(4, service, LedgerWord::flow(0, 1000), 1000));
        }
        assert!(!replica.take(4, 5, LedgerWord::flow(0, 1000), 1000));
        assert!(replica.take(4, 5, LedgerWord::flow(0, 1000), 1091), "the others are over");
    }
}
