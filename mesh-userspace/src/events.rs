//! What happened lately: a bounded ring of typed events, for `mesh events` and the log.

mod grounds;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use grounds::Grounds;
use serde::{Deserialize, Serialize};

use crate::{
    control::{
        DrainEnd,
        view::{Admin, StateWord},
    },
    model::{BackendId, Epoch, ServiceName},
    plan::{FlowsPreview, Preview},
};

/// One thing that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Counted up from 1 since the daemon's start.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The daemon runs.
    Started {
        version: String,
        adopted_services: usize,
    },
    /// A backend's published state changed; `evidence` says why.
    BackendState {
        service: ServiceName,
        backend: BackendId,
        from: StateWord,
        to: StateWord,
        evidence: String,
        /// The same as values: what each channel says, and what was counted.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        values: BTreeMap<String, f64>,
    },
    /// No backend at all answers any more, so the fault is taken for this node's for a while, and nobody is taken out; or that is over.
    Vantage {
        blind: bool,
    },
    BackendAdded {
        service: ServiceName,
        backend: BackendId,
    },
    BackendRemoved {
        service: ServiceName,
        backend: BackendId,
    },
    ServiceAdded {
        service: ServiceName,
    },
    ServiceRemoved {
        service: ServiceName,
    },
    /// No backend of the service can take new flows.
    ServiceWithoutBackends {
        service: ServiceName,
    },
    /// The operator's wish for a backend changed.
    AdminChanged {
        service: ServiceName,
        backend: BackendId,
        admin: Admin,
    },
    /// A drain is over: all flows have ended, or its deadline has come.
    DrainEnded {
        service: ServiceName,
        backend: BackendId,
        how: DrainEnd,
        /// Flows that were still open (`nat`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flows_left: Option<u64>,
        took_ms: u64,
    },
    /// A drain's deadline has come, and it waits on.
    DrainOverdue {
        service: ServiceName,
        backend: BackendId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flows_left: Option<u64>,
    },
    WeightChanged {
        service: ServiceName,
        backend: BackendId,
        weight: u16,
    },
    /// What a change did to a service: the numbers that `mesh plan` tells of it before.
    SlotsMoved {
        service: ServiceName,
        moved: u32,
        slots: u32,
        secondaries: u32,
        flows: FlowsPreview,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        over_capacity: Vec<BackendId>,
    },
    /// Tables were written. `stores`: changes of the maps.
    Published {
        epoch: Epoch,
        stores: usize,
        /// Slots that were written among these.
        #[serde(default)]
        slots: usize,
        plan_us: u64,
        apply_us: u64,
    },
    PublishFailed {
        error: String,
    },
    /// Re-reading the maps found differences, which were repaired.
    Repaired {
        differences: usize,
    },
    Reloaded {
        changed: bool,
    },
    ReloadFailed {
        error: String,
    },
    /// A service's list of backends can't be read; the last good one stays.
    SourceFailed {
        service: ServiceName,
        source: String,
        error: String,
    },
    /// A source of backends can't be had, or parts of its answer can't be used; what it said before stays.
    SourceTrouble {
        service: ServiceName,
        source: String,
        error: String,
    },
    /// A source that could not be had answers again.
    SourceReturned {
        service: ServiceName,
        source: String,
    },
    NextHop {
        address: IpAddr,
        ready: bool,
        detail: String,
    },
    Attached {
        interface: String,
        hook: String,
    },
    AttachFailed {
        interface: String,
        error: String,
    },
    Announced {
        address: IpAddr,
        interface: String,
    },
    AnnounceFailed {
        address: IpAddr,
        interface: String,
        error: String,
    },
    StateFailed {
        error: String,
    },
    /// The first round of health checks is done and the tables are published.
    Ready,
    Stopping {
        signal: String,
    },
}

impl What {
    /// What a change did, as an event.
    pub fn moved(preview: Preview) -> Self {
        let Preview { service, moved, slots, secondaries, flows, over_capacity, .. } = preview;
        Self::SlotsMoved { service, moved, slots, secondaries, flows, over_capacity }
    }

    /// How loudly the log says it.
    pub fn level(&self) -> log::Level {
        match self {
            Self::PublishFailed { .. } | Self::AttachFailed { .. } | Self::StateFailed { .. } => log::Level::Error,
            Self::ReloadFailed { .. }
            | Self::SourceFailed { .. }
            | Self::SourceTrouble { .. }
            | Self::ServiceWithoutBackends { .. }
            | Self::AnnounceFailed { .. }
            | Self::Repaired { .. }
            | Self::Vantage { blind: true }
            | Self::DrainOverdue { .. }
            | Self::BackendState { to: StateWord::Down | StateWord::Open, .. }
            | Self::NextHop { ready: false, .. } => log::Level::Warn,
            Self::Published { .. } => log::Level::Debug,
            _ => log::Level::Info,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { version, adopted_services } => write!(f, "mesh {version} runs, {adopted_services} services adopted"),
            Self::BackendState { service, backend, from, to, evidence, .. } => {
                write!(f, "{service}: backend {backend} is {to}, was {from} ({evidence})")
            }
            Self::Vantage { blind: true } => {
                f.write_str("no backend answers any more: it may be this node or its network, so nobody is taken out for now")
            }
            Self::Vantage { blind: false } => f.write_str("what backends answer counts again"),
            Self::BackendAdded { service, backend } => write!(f, "{service}: backend {backend} added"),
            Self::BackendRemoved { service, backend } => write!(f, "{service}: backend {backend} removed"),
            Self::ServiceAdded { service } => write!(f, "service {service} added"),
            Self::ServiceRemoved { service } => write!(f, "service {service} removed"),
            Self::ServiceWithoutBackends { service } => write!(f, "{service}: no backend takes new flows"),
            Self::AdminChanged { service, backend, admin: Admin::Drain } => write!(f, "{service}: backend {backend} drains"),
            Self::AdminChanged { service, backend, admin: Admin::In } => write!(f, "{service}: backend {backend} takes part again"),
            Self::DrainEnded { service, backend, how, flows_left, took_ms } => {
                write!(f, "{service}: backend {backend} is drained after {} s: {how}", took_ms / 1000)?;
                flows_left.filter(|n| *n > 0).map_or(Ok(()), |n| write!(f, ", {n} flows were still open"))
            }
            Self::DrainOverdue { service, backend, flows_left } => {
                let left = flows_left.map_or("packets still come".to_owned(), |n| format!("{n} flows are still open"));
                write!(f, "{service}: backend {backend} is not drained by its deadline, {left}; it goes on waiting")
            }
            Self::WeightChanged { service, backend, weight } => write!(f, "{service}: backend {backend} has weight {weight}"),
            Self::SlotsMoved { service, moved, slots, secondaries, flows, over_capacity } => {
                let share = 100.0 * f64::from(*moved) / f64::from((*slots).max(1));
                write!(f, "{service}: {moved} of {slots} slots moved ({share:.2} %), {secondaries} have another secondary, {flows}")?;
                over_capacity.iter().try_for_each(|id| write!(f, "; {id} is beyond its capacity"))
            }
            Self::Published { epoch, stores, slots, plan_us, apply_us } => {
                write!(
                    f,
                    "epoch {} published: {stores} stores, {slots} slots written, planned in {plan_us} us, applied in {apply_us} us",
                    epoch.0
                )
            }
            Self::PublishFailed { error } => write!(f, "publishing failed: {error}"),
            Self::Repaired { differences } => write!(f, "{differences} differences in the kernel's maps repaired"),
            Self::Reloaded { changed: true } => write!(f, "configuration reloaded"),
            Self::Reloaded { changed: false } => write!(f, "configuration reloaded, nothing changed"),
            Self::ReloadFailed { error } => write!(f, "reload failed, what ran goes on: {error}"),
            Self::SourceFailed { service, error, .. } => {
                write!(f, "{service}: the last good list of backends stays, the file is no good: {error}")
            }
            Self::SourceTrouble { service, source, error } => write!(f, "{service}: {source}: {error}; what it said before stays"),
            Self::SourceReturned { service, source } => write!(f, "{service}: {source} answers again"),
            Self::NextHop { address, ready: true, detail } => write!(f, "next hop to {address} is {detail}"),
            Self::NextHop { address, ready: false, detail } => write!(f, "no next hop to {address}: {detail}"),
            Self::Attached { interface, hook } => write!(f, "attached to {interface} ({hook})"),
            Self::AttachFailed { interface, error } => write!(f, "can't attach to {interface}: {error}"),
            Self::Announced { address, interface } => write!(f, "{address} announced on {interface}"),
            Self::AnnounceFailed { address, interface, error } => write!(f, "can't announce {address} on {interface}: {error}"),
            Self::StateFailed { error } => f.write_str(error),
            Self::Ready => f.write_str("ready"),
            Self::Stopping { signal } => write!(f, "stopping on {signal}; forwarding goes on"),
        }
    }
}

/// The latest events, oldest first.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Event>,
    next: u64,
}

/// Events that are kept: a few minutes of a busy day.
const CAPACITY: usize = 1024;

impl Default for Ring {
    fn default() -> Self {
        Self { events: VecDeque::with_capacity(CAPACITY), next: 1 }
    }
}

impl Ring {
    /// Keeps an event and logs it.
    pub fn push(&mut self, what: What, now: SystemTime) -> &Event {
        log::log!(what.level(), "{what}");
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        let seq = self.next;
        self.next += 1;
        self.events.push_back(Event { seq, time_ms: unix_ms(now), what });
        &self.events[self.events.len() - 1]
    }

    /// Events after number `seq`, oldest first.
    pub fn since(&self, seq: u64) -> Vec<Event> {
        self.events.iter().filter(|e| e.seq > seq).cloned().collect()
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// Whole milliseconds of a time span, as answers and events tell it.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut ring = Ring::default();
        for _ in 0..CAPACITY + 5 {
            ring.push(What::Ready, UNIX_EPOCH);
        }
        let all = ring.since(0);
        assert_eq!((all.len(), all[0].seq, ring.since(CAPACITY as u64 + 4).len()), (CAPACITY, 6, 1));
    }

    #[test]
    fn events_survive_json() {
        let event = Event {
            seq: 1,
            time_ms: 2,
            what: What::BackendState {
                service: "web".parse().unwrap(),
                backend: BackendId("[2001:db8::1]:80".parse().unwrap()),
                from: StateWord::Active,
                to: StateWord::Down,
                evidence: "3 failed in a row".into(),
                values: [("traffic".to_owned(), 4.5)].into(),
            },
        };
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.contains(r#""event":"backend_state""#), "{json}");
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
