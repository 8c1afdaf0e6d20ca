//! What is told of the slot ledger.

use serde::{Deserialize, Serialize};

use std::collections::HashMap;

use mesh_common::abi::SlotFlags;

use super::{daemon::Daemon, view::Usage};
use crate::{
    dataplane::Journey,
    events::millis,
    model::{BackendId, ServiceName, VipAddr},
};

/// Flows that must not follow their slot (modes `dsr`, `dnat`, `tunnel`).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LedgerView {
    /// Slots on their way to another owner.
    pub moving: u64,
    /// Entries, of the room there is.
    pub entries: Usage,
    /// Of these, handshakes that are not done.
    pub pending: u64,
    /// Age of the entry that was used longest ago.
    pub oldest_ms: u64,
    /// Entries made since the program was loaded.
    pub remembered: u64,
    /// Flows there was no room for; they stayed where they were.
    pub refused: u64,
    /// Packets that went to somebody who is not their slot's target.
    pub elsewhere: u64,
    /// Slots that came to rest since the daemon started, ...
    pub settled: u64,
    /// ... for how long they were on their way, all together, ...
    pub settle_ms: u64,
    /// ... and the one that took longest.
    pub settle_longest_ms: u64,
}

/// Slots of a service that are at the same stage of the way from one owner to the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovingView {
    pub service: ServiceName,
    /// Who has the flows that no entry names. Absent = nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<BackendId>,
    /// Who gets new flows; while the change is prepared, that is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<BackendId>,
    pub stage: Stage,
    pub slots: u32,
    /// Since the first of them set out.
    pub longest_ms: u64,
}

/// How far slots have come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// New flows are remembered with their present owner, until no handshake of before is left.
    Prepare,
    /// New flows go to the new owner, each by an entry.
    Divert,
    /// The flows that are left with the old owner are given entries.
    Learn,
    /// Everything but remembered flows belongs to the new owner.
    Leave,
    /// The last look before the next stage: what can't be remembered is dropped for a moment.
    Close,
}

impl Stage {
    fn of(journey: &Journey) -> Self {
        let has = |flag| journey.flags.has(flag);
        match () {
            () if has(SlotFlags::STRICT) => Self::Close,
            () if has(SlotFlags::PREPARE) => Self::Prepare,
            () if has(SlotFlags::LEARN) => Self::Learn,
            () if journey.from == journey.to => Self::Leave,
            () => Self::Divert,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Divert => "divert",
            Self::Learn => "learn",
            Self::Leave => "leave",
            Self::Close => "close",
        }
    }
}

impl Daemon {
    /// What is on its way, by service, owners and stage.
    pub(super) fn moving(&self) -> Vec<MovingView> {
        let names: HashMap<VipAddr, &ServiceName> = self.core.plan().services.iter().map(|s| (s.vip, &s.name)).collect();
        let view = |journey: &Journey| {
            Some(MovingView {
                service: (*names.get(&journey.vip)?).clone(),
                from: journey.from,
                to: journey.to,
                stage: Stage::of(journey),
                slots: journey.slots,
                longest_ms: millis(journey.longest),
            })
        };
        let mut views: Vec<_> = self.plane.journeys().iter().filter_map(view).collect();
        views.sort_by(|a, b| (&a.service, a.from, a.to, a.stage).cmp(&(&b.service, b.from, b.to, b.stage)));
        views
    }
}
