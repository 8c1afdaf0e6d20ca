//! What other nodes say of targets, and what they are told.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Register;
use crate::health::{Peer, TargetKey, Verdict, Word, watch::target::Target};

impl Register {
    /// Counts the votes of these nodes from now on.
    pub fn set_peers(&mut self, quorum: u32, interval: Duration, peers: &[SocketAddr]) {
        self.ballot.set(quorum, interval, peers);
    }

    /// Takes in what a peer says, and judges anew where that counts.
    pub fn peer_said(&mut self, peer: SocketAddr, words: Vec<Word>, now: Instant) {
        let keyed = words.into_iter().map(|w| (TargetKey { service: w.service, backend: w.backend }, w.verdict));
        // What is no target of ours would be kept for nothing.
        let known: Vec<_> = keyed.filter(|(key, _)| self.targets.contains_key(key)).collect();
        if self.ballot.heard(peer, known, now) {
            self.word_changed.notify_one();
        }
        for key in self.ballot.doubted() {
            match self.targets.get(&key).map(|t| t.id) {
                Some(id) => {
                    self.update(id, now, |_| {});
                }
                None => self.ballot.clear(&key),
            }
        }
    }

    /// What peers are to be told: what is doubted here, and what they want to know.
    pub fn words(&self, now: Instant) -> Vec<Word> {
        let word = |(key, target): (&TargetKey, &Target)| {
            let verdict = self.verdict(target, now)?;
            let told = verdict != Verdict::Up || self.ballot.is_asked(key, now);
            told.then(|| Word { service: key.service.clone(), backend: key.backend, verdict })
        };
        self.targets.iter().filter_map(word).collect()
    }

    pub fn peers(&self, now: Instant) -> Vec<Peer> {
        self.ballot.peers(now)
    }
}
