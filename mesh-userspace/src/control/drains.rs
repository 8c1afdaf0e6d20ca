//! How a drain goes: what the kernel half counts of a backend that takes no new flows, from second to second. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::words::Span,
    events::{millis, unix_ms},
    model::{BackendId, ServiceName},
};

/// What is to become of flows that are still open at a drain's deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// They stay, and the drain goes on.
    #[default]
    Wait,
    /// They are cut off: nothing is sent to the backend any more, and who goes on is answered by a RST.
    #[serde(rename = "rst", alias = "cut")]
    Cut,
    /// The backend is removed, at the deadline or when its last flow has ended; open ones stay with it to their end.
    Remove,
}

/// Body of a request to drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSpec {
    /// From now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    #[serde(default)]
    pub then: Then,
}

/// A drain as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// When it began, and when its deadline is: milliseconds since the Unix epoch.
    pub since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    #[serde(default)]
    pub then: Then,
    /// Its deadline has cut off the rest; until it is undrained nothing is sent to the backend.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// How one drain goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DrainView {
    pub service: ServiceName,
    pub backend: BackendId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub state: DrainState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DrainEnd>,
    pub then: Then,
    /// When it began. No flow that is open is younger than that.
    pub since_ms: u64,
    /// For how long it has been going on, or went on.
    pub took_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Open flows when it began, and now; absent where nothing counts them (`dsr`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_at_start: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u64>,
    /// Slots that may still have flows of its which nothing counts: the ledger lets a slot go when none of before was seen for `ledger.idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// For how long the quietest open flow has been quiet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_ms: Option<u64>,
    /// How old the oldest open flow is, two seconds more or less; nineteen hours where it is older. Absent where entries don't tell (all modes but `nat`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Packets to the backend, lately.
    pub packets_per_s: f64,
    /// Flows that end, lately.
    pub ended_per_s: f64,
    /// When the last one ends, if they go on ending like that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_ms: Option<u64>,
    /// Flows that began since nevertheless: there should be none.
    pub new_flows: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainState {
    Draining,
    /// Its deadline is over, and it waits on.
    Overdue,
    Ended,
}

/// How a drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainEnd {
    /// The last flow has ended.
    Empty,
    /// The deadline has cut off the rest.
    Cut,
    /// The backend was removed.
    Removed,
    /// The operator took it back.
    Undrained,
}

/// What is counted of a backend at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Count {
    /// Flows that have not ended; `None` = nothing counts them.
    pub open: Option<u64>,
    pub quiet: Duration,
    /// Since the oldest of them began, where that is known.
    pub oldest: Option<Duration>,
    /// Slots on their way to another owner that may have more flows of its, which nothing counts.
    pub slots: u32,
    /// Where nothing counts flows, they have ended after so long without packets; [`SILENCE`] at least.
    pub silence: Duration,
    /// Packets, and flows begun, ever.
    pub packets: u64,
    pub begun: u64,
}

/// What a drain needs done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    Nothing,
    /// Tell that it is overdue; once.
    Overdue,
    /// Cut off what is left, then tell.
    Cut,
    Remove,
    /// Tell that it is over.
    Empty,
}

/// Drains by service and backend.
pub type Drains = BTreeMap<(ServiceName, BackendId), Drain>;

/// One drain.
#[derive(Debug)]
pub struct Drain {
    pub name: Option<String>,
    pub order: DrainOrder,
    began: Instant,
    first: Option<Count>,
    /// Of the last [`WINDOW`].
    counts: VecDeque<(Instant, Count)>,
    /// How many packets there were, and since when there are no more.
    still: Option<(u64, Instant)>,
    overdue: bool,
    pub ended: Option<(Instant, DrainEnd)>,
}

/// Rates are of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(10);
/// What a packet that was under way when the drain was published may still do is over.
const SETTLED: Duration = Duration::from_millis(200);
/// Where flows are not counted, a backend without slots is drained when no packet came for so long.
const SILENCE: Duration = Duration::from_secs(3);
/// For so long a drain that is over is still told of.
const KEPT: Duration = Duration::from_secs(600);

impl DrainSpec {
    /// What is remembered of a drain that begins at `now`.
    pub fn order(self, now: SystemTime) -> DrainOrder {
        let deadline_ms = self.deadline.map(|d| unix_ms(now).saturating_add(millis(d.0)));
        DrainOrder { since_ms: unix_ms(now), deadline_ms, then: self.then, cut: false }
    }
}

impl Drain {
    pub fn new(name: Option<String>, order: DrainOrder, now: Instant) -> Self {
        let ended = order.cut.then_some((now, DrainEnd::Cut));
        Self { name, order, began: now, first: None, counts: VecDeque::new(), still: None, overdue: false, ended }
    }

    /// Takes in what was counted; says what is to be done. `unix`: now, milliseconds since the Unix epoch.
    pub fn step(&mut self, count: Count, now: Instant, unix: u64) -> Due {
        if self.ended.is_some() {
            return Due::Nothing;
        }
        self.first.get_or_insert(count);
        if self.still.is_none_or(|(packets, _)| packets != count.packets) {
            self.still = Some((count.packets, now));
        }
        self.counts.push_back((now, count));
        while self.counts.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.counts.pop_front();
        }
        if self.is_empty(count, now) {
            return self.over(now, if self.order.then == Then::Remove { Due::Remove } else { Due::Empty });
        }
        if self.order.deadline_ms.is_none_or(|deadline| unix < deadline) {
            return Due::Nothing;
        }
        match self.order.then {
            Then::Wait if self.overdue => Due::Nothing,
            Then::Wait => {
                self.overdue = true;
                Due::Overdue
            }
            Then::Cut => self.over(now, Due::Cut),
            Then::Remove => self.over(now, Due::Remove),
        }
    }

    /// Ends it from outside.
    pub fn end(&mut self, how: DrainEnd, now: Instant) {
        self.ended.get_or_insert((now, how));
    }

    /// It is over for so long that nobody asks any more.
    pub fn is_forgotten(&self, now: Instant) -> bool {
        self.ended.is_some_and(|(at, _)| now.saturating_duration_since(at) > KEPT)
    }

    /// What was counted last.
    pub fn last(&self) -> Count {
        self.counts.back().map(|(_, count)| *count).unwrap_or_default()
    }

    pub fn took(&self, now: Instant, clock: SystemTime) -> Duration {
        let end = self.ended.map_or(now, |(at, _)| at);
        let until = unix_ms(clock).saturating_sub(millis(now.saturating_duration_since(end)));
        Duration::from_millis(until.saturating_sub(self.order.since_ms))
    }

    pub fn view(&self, (service, backend): &(ServiceName, BackendId), now: Instant, clock: SystemTime) -> DrainView {
        let (first, last) = (self.first.unwrap_or_default(), self.last());
        let ended_per_s = self.rate(|older, newer| older.open.unwrap_or(0).saturating_sub(newer.open.unwrap_or(0)));
        let estimate = last.open.filter(|n| *n > 0 && ended_per_s > 0.0).map(|n| (n as f64 / ended_per_s * 1e3) as u64);
        DrainView {
            service: service.clone(),
            backend: *backend,
            name: self.name.clone(),
            state: match self.ended {
                Some(_) => DrainState::Ended,
                None if self.overdue => DrainState::Overdue,
                None => DrainState::Draining,
            },
            ended: self.ended.map(|(_, how)| how),
            then: self.order.then,
            since_ms: self.order.since_ms,
            took_ms: millis(self.took(now, clock)),
            deadline_ms: self.order.deadline_ms,
            flows_at_start: first.open,
            flows: last.open,
            slots: (last.open.is_none() || last.slots > 0).then_some(last.slots),
            quiet_ms: last.open.filter(|n| *n > 0).map(|_| millis(last.quiet)),
            oldest_ms: last.open.filter(|n| *n > 0).and(last.oldest).map(millis),
            packets_per_s: self.rate(|older, newer| newer.packets.saturating_sub(older.packets)),
            ended_per_s,
            estimate_ms: estimate.filter(|_| self.ended.is_none()),
            new_flows: last.begun.saturating_sub(first.begun),
        }
    }

    fn over(&mut self, now: Instant, due: Due) -> Due {
        let how = match due {
            Due::Cut => DrainEnd::Cut,
            Due::Remove => DrainEnd::Removed,
            _ => DrainEnd::Empty,
        };
        self.ended = Some((now, how));
        due
    }

    fn is_empty(&self, count: Count, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) < SETTLED {
            return false;
        }
        if count.slots > 0 {
            return false;
        }
        if let Some(open) = count.open {
            return open == 0;
        }
        self.still.is_some_and(|(_, since)| now.saturating_duration_since(since) >= count.silence.max(SILENCE))
    }

    /// What `difference` tells of the window's ends, each second.
    fn rate(&self, difference: impl Fn(&Count, &Count) -> u64) -> f64 {
        let (Some((from, older)), Some((to, newer))) = (self.counts.front(), self.counts.back()) else { return 0.0 };
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        if seconds > 0.0 { difference(older, newer) as f64 / seconds } else { 0.0 }
    }
}

impl fmt::Display for DrainEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the last flow has ended",
            Self::Cut => "its deadline has cut off the rest",
            Self::Removed => "the backend was removed",
            Self::Undrained => "it takes part again",
        })
    }
}
