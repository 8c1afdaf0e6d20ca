//! What the data plane says of itself: plain values for logs, metrics and the API.

use std::{collections::HashMap, time::Duration};

use mesh_common::abi::{
    BackendSignals, BackendState, BackendStats, LedgerStats, Mode, Reason, ReasonStats, ScheduleStats, SlotFlags, SlotWord,
};

use super::flow_watch::FlowNote;
use super::ledger::Entries;
use super::schedules::Remembered;
use crate::model::{BackendId, Epoch, ServiceName, VipAddr};

/// What a start found in the pinned maps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    /// The maps were there before.
    pub reused: bool,
    /// What is forwarded right now, by service id.
    pub services: Vec<AdoptedService>,
}

/// One service as the maps have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdoptedService {
    pub vip: VipAddr,
    pub mode: Mode,
    /// By service-local index, which the slots name; `None` = no backend stands there.
    pub backends: Vec<Option<(BackendId, BackendState)>>,
    /// The table, a power of two of slots.
    pub slots: Vec<SlotWord>,
}

/// What one publication did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// Counted up by each publication that changed something.
    pub epoch: Epoch,
    /// Stores that were ordered, where a new table counts as one.
    pub ops: usize,
    /// Slots that were written: changed ones in place, all of a table that is new or has changed its size.
    pub slots_written: usize,
    /// Services that were left as they were, and why.
    pub refused: Vec<(ServiceName, super::layout::LayoutError)>,
}

/// Where a program was attached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hook {
    XdpNative,
    XdpGeneric,
    /// A TC link (Linux 6.6 and later).
    Tcx,
    /// A TC filter.
    Clsact,
}

impl Hook {
    /// Label in metrics and in the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One interface that packets are balanced on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachedIface {
    pub name: String,
    pub ifindex: u32,
    pub hook: Hook,
    /// Why it is not a better hook, where `auto` was asked for.
    pub note: Option<String>,
}

/// All counters, summed over the CPUs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// All packets that came in, which is all that is counted: each ends in one count.
    pub rx: ReasonStats,
    /// Packets that belong to no service, by [`Reason`] (index = its number).
    pub no_service: [ReasonStats; Reason::ALL.len()],
    /// By service id.
    pub services: Vec<ServiceCounters>,
    /// What packets of slots on their way have done.
    pub ledger: LedgerStats,
    /// What schedulers have done.
    pub choices: ScheduleStats,
}

/// Counters of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceCounters {
    /// Name at the last publication; `None` for one that was adopted and not published since.
    pub name: Option<ServiceName>,
    pub vip: VipAddr,
    /// By [`Reason`] (index = its number); `forwarded` and `replied` are sums over the backends, those that are gone included.
    pub reasons: [ReasonStats; Reason::ALL.len()],
    pub backends: Vec<(BackendId, BackendStats)>,
    /// How handshakes with the same backends went.
    pub signals: Vec<BackendSignals>,
    /// Backends that are gone, counted since the daemon started.
    pub gone: BackendStats,
}

/// Flows of one backend that have not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlows {
    pub flows: u64,
    /// For how long the quietest of them has been quiet.
    pub quiet: Duration,
    /// Since the oldest of them began, two seconds more or less, and nineteen hours at most; `None` where that is not known (all modes but `nat`).
    pub oldest: Option<Duration>,
}

/// What one sweep of the translated flows found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NatReport {
    /// Flows that live.
    pub flows: u64,
    /// Flows there is room for.
    pub capacity: u64,
    /// Of those that live, how many no reply was seen for.
    pub half_open: u64,
    /// Flows that this sweep removed.
    pub expired: u64,
    /// Live flows of each backend that has any.
    pub backends: Vec<(VipAddr, BackendId, u64)>,
    /// Flows that have not ended, of each backend that has any.
    pub open: HashMap<(VipAddr, BackendId), OpenFlows>,
    /// Backends whose entry this sweep gave back, for nothing names them any more.
    pub freed: usize,
    /// Sampled flows that began or ended since the last sweep.
    pub notes: Vec<FlowNote>,
    /// What the ledger holds, and ...
    pub ledger: Entries,
    /// ... slots on their way to another owner.
    pub moving: u64,
    /// Slots that came to rest since the daemon started.
    pub settled: Settled,
    /// What is remembered where a scheduler chose.
    pub remembered: Remembered,
}

/// Slots of a service that are at the same stage of the same way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journey {
    pub vip: VipAddr,
    /// Who has the flows that nothing else is remembered of.
    pub from: Option<BackendId>,
    /// Who gets new flows.
    pub to: Option<BackendId>,
    pub flags: SlotFlags,
    pub slots: u32,
    /// Since the first of them set out.
    pub longest: Duration,
}

/// Slots that came to rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    pub slots: u64,
    /// Time on their way, of all together, and the longest.
    pub took: Duration,
    pub longest: Duration,
}
