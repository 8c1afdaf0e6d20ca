//! What other nodes see of the same targets. Pure: takes `now`.
//!
//! A node says its word about targets that it doubts, and about those that others doubt. Who says nothing about a target that was asked for does not see it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::TargetKey;
use crate::model::{BackendId, ServiceName};

/// What is heard of a peer holds for so many intervals, ...
const FRESH: u32 = 3;
/// ... and so long at least: nodes are late at times.
const LEAST: Duration = Duration::from_millis(200);
/// A peer has this long to say what it sees, and one interval.
const ANSWER: Duration = Duration::from_millis(20);

/// What a node thinks of a target by its own evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Up,
    Soft,
    Down,
}

/// A node's word about one target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Word {
    #[serde(rename = "s")]
    pub service: ServiceName,
    #[serde(rename = "b")]
    pub backend: BackendId,
    #[serde(rename = "v")]
    pub verdict: Verdict,
}

/// The votes about one target, this node's own among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Votes {
    pub against: u32,
    /// Nodes that see it, or have not said yet whether they do.
    pub of: u32,
    /// So many have to be against it.
    pub needed: u32,
}

/// How a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Since it was heard last.
    pub age: Option<Duration>,
    pub fresh: bool,
    /// Targets that it doubts.
    pub doubts: u32,
}

/// All that peers have said.
#[derive(Debug, Default)]
pub struct Ballot {
    quorum: u32,
    interval: Duration,
    peers: BTreeMap<SocketAddr, Said>,
    /// Since when this node is against a target.
    against: HashMap<TargetKey, Instant>,
}

#[derive(Debug, Default)]
struct Said {
    heard: Option<Instant>,
    words: HashMap<TargetKey, (Verdict, Instant)>,
}

impl Votes {
    /// Enough are against it.
    pub fn agree(&self) -> bool {
        self.against >= self.needed
    }
}

impl fmt::Display for Votes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "votes: {} of {} nodes against it, {} needed", self.against, self.of, self.needed)
    }
}

impl Ballot {
    /// Counts the votes of these peers from now on.
    pub fn set(&mut self, quorum: u32, interval: Duration, peers: &[SocketAddr]) {
        (self.quorum, self.interval) = (quorum, interval);
        self.peers = peers.iter().map(|peer| (*peer, Said::default())).collect();
    }

    /// There are peers whose votes could count.
    pub fn in_use(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Takes in what a peer says about targets of ours. True if it asks for a word that it has not asked for before.
    pub fn heard(&mut self, peer: SocketAddr, words: impl IntoIterator<Item = (TargetKey, Verdict)>, now: Instant) -> bool {
        let fresh = self.fresh_for();
        let Some(said) = self.peers.get_mut(&peer) else { return false };
        said.heard = Some(now);
        said.words.retain(|_, (_, at)| now.saturating_duration_since(*at) <= fresh);
        let mut asks = false;
        for (key, verdict) in words {
            let before = said.words.insert(key, (verdict, now));
            asks |= verdict != Verdict::Up && before.is_none_or(|(old, _)| old == Verdict::Up);
        }
        asks
    }

    /// The votes about a target that this node is against.
    pub fn poll(&mut self, key: &TargetKey, now: Instant) -> Votes {
        let since = *self.against.entry(key.clone()).or_insert(now);
        let waiting = now.saturating_duration_since(since) < self.interval + ANSWER;
        let (mut against, mut of) = (1, 1);
        for said in self.peers.values().filter(|said| said.is_fresh(now, self.fresh_for())) {
            match said.word(key, now, self.fresh_for()) {
                Some(Verdict::Soft | Verdict::Down) => (against, of) = (against + 1, of + 1),
                Some(Verdict::Up) => of += 1,
                None => of += u32::from(waiting),
            }
        }
        Votes { against, of, needed: self.quorum.min(of) }
    }

    /// This node is not, or no more, against a target.
    pub fn clear(&mut self, key: &TargetKey) {
        self.against.remove(key);
    }

    /// Targets that this node is against.
    pub fn doubted(&self) -> Vec<TargetKey> {
        self.against.keys().cloned().collect()
    }

    /// Whether a peer doubts a target, and so wants to know what others see.
    pub fn is_asked(&self, key: &TargetKey, now: Instant) -> bool {
        self.peers.values().any(|said| matches!(said.word(key, now, self.fresh_for()), Some(Verdict::Soft | Verdict::Down)))
    }

    pub fn peers(&self, now: Instant) -> Vec<Peer> {
        let one = |(address, said): (&SocketAddr, &Said)| Peer {
            address: *address,
            age: said.heard.map(|at| now.saturating_duration_since(at)),
            fresh: said.is_fresh(now, self.fresh_for()),
            doubts: said
                .words
                .keys()
                .filter(|key| matches!(said.word(key, now, self.fresh_for()), Some(Verdict::Soft | Verdict::Down)))
                .count() as u32,
        };
        self.peers.iter().map(one).collect()
    }

    fn fresh_for(&self) -> Duration {
        LEAST.max(self.interval * FRESH)
    }
}

impl Said {
    fn is_fresh(&self, now: Instant, span: Duration) -> bool {
        self.heard.is_some_and(|at| now.saturating_duration_since(at) <= span)
    }

    fn word(&self, key: &TargetKey, now: Instant, span: Duration) -> Option<Verdict> {
        self.words.get(key).filter(|(_, at)| now.saturating_duration_since(*at) <= span).map(|(verdict, _)| *verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Verdict::{Down, Soft, Up},
        *,
    };

    const MS: Duration = Duration::from_millis(1);

    fn key(n: u8) -> TargetKey {
        TargetKey { service: "web".parse().unwrap(), backend: BackendId(([10, 0, 0, n], 80).into()) }
    }

    fn node(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 7946).into()
    }

    fn ballot(quorum: u32) -> Ballot {
        let mut ballot = Ballot::default();
        ballot.set(quorum, 100 * MS, &[node(1), node(2)]);
        ballot
    }

    /// What two peers said at 0 ms; `None` = not heard, `Some(None)` = heard, but nothing about the target.
    type Heard = Option<Option<Verdict>>;
    /// Quorum, peers, milliseconds until it is asked; votes (against, of, needed), and whether they agree.
    type Row = (u32, [Heard; 2], u64, (u32, u32, u32), bool);

    #[test]
    fn k_of_the_nodes_that_see_it() {
        #[rustfmt::skip]
        let rows: [Row; 14] = [
            // quorum, peers, asked after ms, (against, of, needed), agree
            (2, [None, None],                         0,   (1, 1, 1), true),
            (2, [Some(None), None],                   0,   (1, 2, 2), false),
            (2, [Some(None), None],                   119, (1, 2, 2), false),
            (2, [Some(None), None],                   120, (1, 1, 1), true),
            (2, [Some(Some(Up)), None],               120, (1, 2, 2), false),
            (2, [Some(Some(Soft)), None],             0,   (2, 2, 2), true),
            (2, [Some(Some(Down)), Some(Some(Up))],   0,   (2, 3, 2), true),
            (2, [Some(Some(Up)), Some(Some(Up))],     0,   (1, 3, 2), false),
            (3, [Some(Some(Down)), Some(Some(Up))],   0,   (2, 3, 3), false),
            (3, [Some(Some(Down)), Some(Some(Down))], 0,   (3, 3, 3), true),
            (3, [Some(Some(Down)), Some(None)],       0,   (2, 3, 3), false),
            (3, [Some(Some(Down)), Some(None)],       120, (2, 2, 2), true),
            (1, [Some(Some(Up)), Some(Some(Up))],     0,   (1, 3, 1), true),
            (2, [Some(Some(Up)), None],               301, (1, 1, 1), true),
        ];
        for (i, (quorum, heard, after, expected, agree)) in rows.into_iter().enumerate() {
            let (mut b, t0) = (ballot(quorum), Instant::now());
            for (n, said) in (1..).zip(heard) {
                if let Some(word) = said {
                    b.heard(node(n), word.map(|verdict| (key(9), verdict)), t0);
                }
            }
            b.poll(&key(9), t0);
            let votes = b.poll(&key(9), t0 + MS * after as u32);
            assert_eq!(((votes.against, votes.of, votes.needed), votes.agree()), (expected, agree), "row {i}");
        }
    }

    #[test]
    fn strangers_have_no_vote_and_words_grow_old() {
        let (mut b, t0) = (ballot(2), Instant::now());
        assert!(!b.heard(node(7), [(key(1), Down)], t0));
        assert!(b.peers(t0).iter().all(|p| !p.fresh && p.age.is_none()));
        assert!(b.heard(node(1), [(key(1), Down)], t0), "it asks what we see");
        assert!(!b.heard(node(1), [(key(1), Down)], t0 + 100 * MS), "for the second time");
        assert!(b.is_asked(&key(1), t0 + 400 * MS) && !b.is_asked(&key(2), t0));
        b.heard(node(1), [], t0 + 401 * MS);
        assert!(!b.is_asked(&key(1), t0 + 401 * MS));
        let peer = b.peers(t0 + 402 * MS)[0];
        assert_eq!((peer.fresh, peer.age, peer.doubts), (true, Some(MS), 0));
    }

    #[test]
    fn a_doubt_that_is_over_begins_anew() {
        let (mut b, t0) = (ballot(2), Instant::now());
        b.heard(node(1), [], t0);
        assert!(!b.poll(&key(1), t0).agree());
        b.clear(&key(1));
        assert!(b.doubted().is_empty());
        b.heard(node(1), [], t0 + 200 * MS);
        assert!(!b.poll(&key(1), t0 + 200 * MS).agree(), "it is asked again");
        assert_eq!(b.doubted(), [key(1)]);
    }
}
