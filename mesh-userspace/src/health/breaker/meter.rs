use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A SYN that nobody has answered is sent again after so long (RFC 6298 section 2): before, silence says nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Marks that a window is cut into.
const MARKS: u32 = 50;
/// Latency without load is the least of so many windows.
const UNLOADED: usize = 30;
/// Below this, latency is what the machines and the way do, and no load.
const NOISE: f64 = 0.001;
/// Latencies in a window before they say something.
const HEARD: u32 = 4;

/// What has been counted of one backend so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Flows that began.
    pub flows: u64,
    /// Packets that it answered, and RSTs among them, where answers come by.
    pub replies: u64,
    pub resets: u32,
    /// Handshakes of flows drawn at random: begun, ended well, and SYNs that came again.
    pub drawn: u64,
    pub done: u64,
    pub retransmits: u64,
}

/// How flows went over a window of time.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Course {
    pub flows: u64,
    pub resets: u64,
    pub drawn: u64,
    pub done: u64,
    pub retransmits: u64,
    /// Of the drawn ones, those that had time to end well.
    pub ripe: u64,
}

/// Counters of one backend as a course over the last `window`.
#[derive(Clone, Debug)]
pub struct Meter {
    window: Duration,
    marks: VecDeque<(Instant, Counted)>,
    last: Option<Counted>,
    /// Refusals since the last other answer.
    refused: u64,
    /// Handshakes begun when the last one ended well.
    done_at: u64,
    latencies: VecDeque<(Instant, f64)>,
    /// Least latency by window, the latest last.
    least: VecDeque<(Instant, f64)>,
}

impl Meter {
    /// `window` more than zero.
    pub fn new(window: Duration) -> Self {
        Self { window, marks: VecDeque::new(), last: None, refused: 0, done_at: 0, latencies: VecDeque::new(), least: VecDeque::new() }
    }

    /// Forgets how flows went so far. What latency is without load stays known.
    pub fn restart(&mut self) {
        let last = self.last;
        *self = Self { least: std::mem::take(&mut self.least), ..Self::new(self.window) };
        if let Some(last) = last {
            (self.last, self.done_at) = (Some(last), last.drawn);
        }
    }

    /// Takes in what is counted by now.
    pub fn count(&mut self, now: Instant, counted: Counted) {
        let Some(last) = self.last else { return self.begin(now, counted) };
        if self.marks.is_empty() {
            self.marks.push_back((now, last));
        }
        if counted.flows < last.flows || counted.drawn < last.drawn {
            // The counters were cleared.
            self.restart();
            return self.begin(now, counted);
        }
        let resets = u64::from(counted.resets.wrapping_sub(last.resets));
        if counted.replies.saturating_sub(last.replies) > resets {
            self.refused = 0;
        } else {
            self.refused += resets.min(counted.replies.saturating_sub(last.replies));
        }
        if counted.done > last.done {
            self.done_at = counted.drawn;
        }
        self.last = Some(counted);
        if self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= self.window / MARKS) {
            self.marks.push_back((now, counted));
        }
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.window) {
            self.marks.pop_front();
        }
    }

    fn begin(&mut self, now: Instant, counted: Counted) {
        (self.last, self.done_at) = (Some(counted), counted.drawn);
        self.marks.push_back((now, counted));
    }

    /// Takes in a latency, seconds.
    pub fn latency(&mut self, now: Instant, seconds: f64) {
        self.latencies.push_back((now, seconds));
        match self.least.back_mut() {
            Some((since, least)) if now.saturating_duration_since(*since) < self.window => *least = least.min(seconds),
            _ => self.least.push_back((now, seconds)),
        }
        while self.least.len() > UNLOADED {
            self.least.pop_front();
        }
    }

    /// How flows went within the window.
    pub fn course(&self, now: Instant) -> Course {
        let (Some(last), Some((_, first))) = (self.last, self.marks.front()) else { return Course::default() };
        let ripe = self.marks.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= PATIENCE);
        Course {
            flows: last.flows.saturating_sub(first.flows),
            resets: u64::from(last.resets.wrapping_sub(first.resets)),
            drawn: last.drawn.saturating_sub(first.drawn),
            done: last.done.saturating_sub(first.done),
            retransmits: last.retransmits.saturating_sub(first.retransmits),
            ripe: ripe.map_or(0, |(_, mark)| mark.drawn.saturating_sub(first.drawn)),
        }
    }

    /// Flows in a row that failed: refused, or of those that are drawn, not accepted though they had time to be.
    pub fn failed_in_row(&self, now: Instant) -> u64 {
        let ripe = self.marks.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= PATIENCE);
        let unanswered = ripe.map_or(0, |(_, mark)| mark.drawn.saturating_sub(self.done_at));
        self.refused.max(unanswered)
    }

    /// How many times its latency without load a backend's latency is now.
    pub fn inflation(&mut self, now: Instant) -> Option<f64> {
        while self.latencies.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > self.window) {
            self.latencies.pop_front();
        }
        let count = self.latencies.len();
        let least = self.least.iter().map(|(_, least)| *least).reduce(f64::min)?;
        if count < HEARD as usize {
            return None;
        }
        let mean = self.latencies.iter().map(|(_, s)| s).sum::<f64>() / count as f64;
        Some(mean.max(NOISE) / least.max(NOISE))
    }
}

impl Course {
    /// Both together.
    pub fn and(self, other: &Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            resets: self.resets + other.resets,
            drawn: self.drawn + other.drawn,
            done: self.done + other.done,
            retransmits: self.retransmits + other.retransmits,
            ripe: self.ripe + other.ripe,
        }
    }

    /// What of a sum is not of this one.
    pub fn without(self, one: &Self) -> Self {
        Self {
            flows: self.flows.saturating_sub(one.flows),
            resets: self.resets.saturating_sub(one.resets),
            drawn: self.drawn.saturating_sub(one.drawn),
            done: self.done.saturating_sub(one.done),
            retransmits: self.retransmits.saturating_sub(one.retransmits),
            ripe: self.ripe.saturating_sub(one.ripe),
        }
    }

    /// Share of flows that the backend answered by a RST; `None` below `volume` flows.
    pub fn reset_share(&self, volume: u64) -> Option<f64> {
        (self.flows >= volume.max(1)).then(|| (self.resets as f64 / self.flows as f64).min(1.0))
    }

    /// Share of handshakes that did not end well; `None` below `volume` ones that had time to.
    pub fn lost_share(&self, volume: u64) -> Option<f64> {
        (self.ripe >= volume.max(1)).then(|| self.drawn.saturating_sub(self.done) as f64 / self.drawn.max(1) as f64)
    }
}

/// How much worse `own` share of failures is than that of the `others`, as a share of what could be: 1 = all of its own fail and none of theirs. What all
/// have alike (a flood, clients that are cut off) is nobody's fault.
pub fn excess(own: f64, others: f64) -> f64 {
    if others >= 1.0 { 0.0 } else { ((own - others) / (1.0 - others)).clamp(0.0, 1.0) }
}
