//! Backends as queues: processor sharing over a number of cores, simulated event by event.

use std::{cmp::Reverse, collections::BinaryHeap};

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// Work that one core does in a second.
    pub speed: f64,
    pub cores: f64,
    /// Work that each job that has been here all the time has got.
    done: f64,
    updated: f64,
    /// By the work at which they end; then when they came, and by whom.
    jobs: BinaryHeap<Reverse<(Key, u64, Sender)>>,
}

/// A finite number that orders.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Key(f64);

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A job that is done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub came: f64,
    pub from: Sender,
}

/// Who sent a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sender {
    Probe,
    /// A balancer, by its number.
    Node(u8),
}

impl Backend {
    pub fn new(speed: f64, cores: f64) -> Self {
        Self { speed, cores, done: 0.0, updated: 0.0, jobs: BinaryHeap::new() }
    }

    pub fn open(&self) -> usize {
        self.jobs.len()
    }

    /// A job of so much work comes.
    pub fn arrive(&mut self, now: f64, work: f64, from: Sender) {
        self.advance(now);
        self.jobs.push(Reverse((Key(self.done + work), now.to_bits(), from)));
    }

    /// Another speed from now on.
    pub fn set_speed(&mut self, now: f64, speed: f64) {
        self.advance(now);
        self.speed = speed;
    }

    /// When the next job is done, if no other comes.
    pub fn next(&self) -> f64 {
        let Some(Reverse((Key(end), ..))) = self.jobs.peek() else { return f64::INFINITY };
        self.updated + (end - self.done).max(0.0) / self.rate()
    }

    /// The next job is done.
    pub fn finish(&mut self, now: f64) -> Option<Done> {
        self.advance(now);
        let Reverse((_, came, from)) = self.jobs.pop()?;
        Some(Done { came: f64::from_bits(came), from })
    }

    fn advance(&mut self, now: f64) {
        self.done += (now - self.updated) * self.rate();
        self.updated = now;
    }

    /// Work that each job gets in a second.
    fn rate(&self) -> f64 {
        self.speed * (self.cores / self.jobs.len().max(1) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_share_what_there_is() {
        let mut b = Backend::new(2.0, 1.0);
        b.arrive(0.0, 1.0, Sender::Node(0));
        assert_eq!(b.next(), 0.5);
        b.arrive(0.25, 0.5, Sender::Probe);
        // Half of the first is left, and both get 1 a second each.
        assert_eq!(b.next(), 0.75);
        assert_eq!(b.finish(0.75).map(|d| (d.came, d.from)), Some((0.0, Sender::Node(0))));
        assert_eq!((b.finish(0.75).map(|d| d.from), b.open()), (Some(Sender::Probe), 0));
        assert_eq!(b.next(), f64::INFINITY);
    }
}
