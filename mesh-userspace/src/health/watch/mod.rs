//! The board that the driver writes and everyone else reads: which targets there are, and what is known of each.

mod register;
mod target;
#[cfg(test)]
mod tests;
mod vantage;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

pub(super) use register::Register;
use target::Target;

use super::{
    Check, Evidence, Health, Peer, Reported, TargetKey, Word,
    breaker::Counted,
    detector::{Phase, Signals},
};
use crate::model::{BackendId, ServiceName};

/// A target's health has changed.
#[derive(Clone, PartialEq, Debug)]
pub struct HealthEvent {
    pub key: TargetKey,
    pub health: Health,
    pub evidence: Evidence,
}

/// What is known of one target.
#[derive(Clone, PartialEq, Debug)]
pub struct TargetStatus {
    pub health: Health,
    /// When the health last changed, or the target was first set.
    pub since: Instant,
    /// When the last check ended.
    pub last_check: Option<Instant>,
    /// Round trip of the last check that passed.
    pub last_rtt: Option<Duration>,
    /// Error of the last check; `None` if it passed.
    pub last_error: Option<String>,
    /// Equal answers in a row.
    pub consecutive: u32,
    /// Checks that were finished, excused ones included; 0 = what is said is from before a restart.
    pub checks_done: u64,
    pub checks_failed: u64,
    /// Checks that did not count because the fault was ours.
    pub checks_excused: u64,
    /// What its checks took so far, each until it was answered or given up.
    pub waited: Waited,
    /// The load that its last answer reports; `None` = it is not asked for, or nothing was answered yet.
    pub load: Option<Reported>,
    /// The course of suspicion, where several channels are summed.
    pub suspicion: Option<Suspicion>,
}

/// Time that checks took in all: a check that ran out of time took that long at least, and one that failed at once says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waited {
    pub time: Duration,
    pub checks: u64,
}

impl Waited {
    /// What has come since `before`; `None` if that is not of the same target's life.
    pub fn since(self, before: Self) -> Option<Self> {
        Some(Self { time: self.time.checked_sub(before.time)?, checks: self.checks.checked_sub(before.checks)? })
    }
}

/// How a target stands with the detector of suspicion.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Suspicion {
    pub phase: Phase,
    pub signals: Signals,
    /// For flaps; it fades.
    pub penalty: f64,
    /// Round trip of pulses; `None` = none was answered.
    pub pulse_rtt: Option<Duration>,
    /// Pulses without an answer in a row.
    pub unanswered: u32,
}

/// What the data plane has counted of one backend so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    pub backend: BackendId,
    /// Packets to it and from it.
    pub sent: u64,
    pub replied: u64,
    /// Flows that it has now: so many packets can be independent signs of life.
    pub flows: u64,
    /// How its flows went; all zeros where nobody knows.
    pub course: Counted,
}

/// Says what to check and tells what is known. Clones share one monitor; it stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct MonitorHandle {
    lease: Arc<Lease>,
}

impl MonitorHandle {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self { lease: Arc::new(Lease(board)) }
    }

    /// Makes `wanted` the targets. Who is new is checked at once, who is not named is forgotten, who is unchanged goes on as it was.
    /// Where only the check changed, the health stays and the evidence starts over.
    pub fn set_targets(&self, wanted: BTreeMap<TargetKey, Check>) {
        self.lease.0.lock().set_targets(wanted, Instant::now());
        self.lease.0.changed.notify_one();
        self.lease.0.pulses.notify_one();
    }

    /// What the data plane has counted of a service's backends: channel A. To be told every few milliseconds.
    pub fn traffic(&self, service: &ServiceName, rows: &[Traffic]) {
        self.lease.0.with(|register, now| register.traffic(service, rows, now));
    }

    /// Nobody answers any more, so that what is seen is taken for our own fault, for a while.
    pub fn is_blind(&self) -> bool {
        self.lease.0.lock().is_blind(Instant::now())
    }

    /// Neighbours that the kernel has given up on, whichever they were before.
    pub fn failed_neighbours(&self, failed: &BTreeSet<IpAddr>) {
        self.lease.0.with(|register, now| register.failed_neighbours(failed, now));
    }

    /// Counts the votes of these nodes from now on, of which `quorum` have to be against a target, this one among them.
    pub fn set_peers(&self, quorum: u32, interval: Duration, peers: &[SocketAddr]) {
        self.lease.0.lock().set_peers(quorum, interval, peers);
    }

    /// For whoever talks to the peers.
    pub fn desk(&self) -> PeerDesk {
        PeerDesk(Arc::clone(&self.lease.0))
    }

    /// How the peers stand.
    pub fn peers(&self, now: Instant) -> Vec<Peer> {
        self.lease.0.lock().peers(now)
    }

    /// What was last known before a restart: holds for targets that are or will be set, until their own checks say otherwise.
    /// Replaces what an earlier call left unclaimed.
    pub fn seed(&self, known: BTreeMap<TargetKey, Health>) {
        self.lease.0.lock().seed(known, Instant::now());
    }

    /// Status of every target, as of now.
    pub fn snapshot(&self) -> BTreeMap<TargetKey, TargetStatus> {
        let now = Instant::now();
        self.lease.0.lock().targets.iter().map(|(key, t)| (key.clone(), t.status(now))).collect()
    }

    /// Status of one target.
    pub fn status(&self, key: &TargetKey) -> Option<TargetStatus> {
        self.lease.0.lock().targets.get(key).map(|t| t.status(Instant::now()))
    }

    /// Every target has been checked at least once.
    pub fn first_round_done(&self) -> bool {
        self.lease.0.lock().targets.values().all(Target::was_checked)
    }
}

/// Where words of peers are taken in, and those for them are had. Does not keep the monitor alive.
#[derive(Clone, Debug)]
pub struct PeerDesk(Arc<Board>);

impl PeerDesk {
    /// A peer says what it sees.
    pub fn peer_said(&self, peer: SocketAddr, words: Vec<Word>) {
        self.0.with(|register, now| register.peer_said(peer, words, now));
    }

    /// What peers are to be told now.
    pub fn words(&self) -> Vec<Word> {
        self.0.lock().words(Instant::now())
    }

    /// Wakes whoever tells peers, when there is something new to be told.
    pub fn word_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.lock().word_changed)
    }

    /// The monitor has ended.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

#[derive(Debug)]
struct Lease(Arc<Board>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
        self.0.pulses.notify_one();
    }
}

/// Shared by driver and handles; each holds the lock for a moment only.
#[derive(Debug, Default)]
pub(super) struct Board {
    register: Mutex<Register>,
    /// Wakes the driver: there are arrivals, or it is over.
    pub changed: Notify,
    /// Wakes the sender of pulses, likewise.
    pub pulses: Notify,
}

impl Board {
    pub fn lock(&self) -> MutexGuard<'_, Register> {
        // A holder that panicked left whole targets behind: every change is of one target, and each field can stand alone.
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something taken in by others than the driver, and wakes that if there is something to do for it.
    pub fn with(&self, change: impl FnOnce(&mut Register, Instant)) {
        let mut register = self.lock();
        change(&mut register, Instant::now());
        let wake = register.has_news() || register.has_doubts();
        drop(register);
        if wake {
            self.changed.notify_one();
        }
    }
}

/// Scheduling name of a target with one certain check: a changed check has a new one, and what the old one brings is void.
pub(super) type TargetId = u64;
