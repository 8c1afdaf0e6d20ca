//! What the daemon tells about itself: the values of API, CLI and metrics.
//!
//! Times are milliseconds since the Unix epoch; counters count from the moment the maps were made, restarts of the daemon don't reset them.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use super::health_view::{Beat, BeatView, BreakerView, HealthView, LimitView, ResetsView, SuspicionView};
pub use super::ledger_view::{LedgerView, MovingView, Stage};
pub use super::peers_view::{FlowsState, FlowsView, PeerView, PeersView};
pub use super::scheduling_view::{SchedulingView, ServiceScheduling};
use crate::{
    config::words::{ModeWord, ProtoWord},
    control::WeightView,
    model::{BackendId, BackendState, Epoch, HashField, ServiceName, WhenEmpty},
};

/// The daemon as a whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub instance: String,
    pub pid: u32,
    pub started_ms: u64,
    /// Version of the published tables.
    pub epoch: Epoch,
    #[serde(flatten)]
    pub readiness: Readiness,
    pub config: ConfigView,
    /// Directory of the pinned programs, links and maps.
    pub pins: PathBuf,
    pub interfaces: Vec<InterfaceView>,
    /// All packets that came in by the interfaces.
    pub rx: Traffic,
    /// How packets left, by the name of the reason, over all services.
    pub reasons: BTreeMap<String, Traffic>,
    pub nat: NatView,
    pub ledger: LedgerView,
    #[serde(default)]
    pub scheduling: SchedulingView,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<PeersView>,
    pub services: u32,
    /// Backends by state.
    pub backends: BTreeMap<StateWord, u32>,
    /// Slots in use, of the limit.
    pub slots: Usage,
    /// How full the kernel's maps are, by their name in `limits`.
    #[serde(default)]
    pub maps: BTreeMap<String, Usage>,
    /// Sources that can't be had: what they said last holds.
    #[serde(default)]
    pub stale: Vec<SourceView>,
}

/// Whether the daemon does what it was configured for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Readiness {
    /// The tables are published, and the first round of health checks is done.
    pub ready: bool,
    /// What is waited for.
    pub waiting: Vec<String>,
}

/// The configuration that runs, and the last attempt to change it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigView {
    pub file: PathBuf,
    /// When what runs was read.
    pub loaded_ms: u64,
    /// Why the last reload failed; what ran before goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceView {
    pub name: String,
    pub ifindex: u32,
    /// `xdp`, `xdp-generic`, `tc`, or empty if nothing is attached.
    pub hook: String,
    /// Why nothing is attached, or why not what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Frames and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    pub used: u64,
    pub limit: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NatView {
    /// Translated flows.
    pub flows: Usage,
    /// Those that no reply was seen for.
    pub half_open: i64,
}

/// Who brought something in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    Config,
    /// The service's `backends_file`.
    File,
    /// One of the service's `sources`.
    Source,
    /// A Kubernetes cluster asks for it.
    Kubernetes,
    /// The CLI or the API.
    Cli,
}

/// One service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    pub name: ServiceName,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: ProtoWord,
    pub mode: ModeWord,
    pub origin: Origin,
    /// What becomes of packets while no backend takes new flows.
    #[serde(default)]
    pub when_empty: WhenEmpty,
    /// What of a packet chooses its backend; absent = all of the five-tuple.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<HashField>,
    /// Interface that the daemon put the VIP on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<String>,
    /// The heartbeat in words: `http /healthz every 1s`; `none` if there is none.
    pub check: String,
    #[serde(flatten)]
    pub scheduling: ServiceScheduling,
    /// Slots of the published table; 0 = not published.
    pub slots: u32,
    pub backends: u32,
    /// Backends that take new flows.
    pub taking: u32,
    /// To the backends.
    pub forwarded: Traffic,
    /// Back from them (`nat`).
    pub replied: Traffic,
    /// New flows so far.
    pub flows: u64,
    /// Translated flows now (`nat`).
    pub live_flows: u64,
    /// Packets that ended otherwise, by the name of the reason.
    pub reasons: BTreeMap<String, Traffic>,
    /// What is wrong with the service as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A backend's state in words; `unknown` = never checked so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateWord {
    Active,
    Draining,
    Soft,
    Down,
    Recovering,
    Maintenance,
    Unknown,
    /// Its breaker is open.
    Open,
    /// Its breaker tries it with a share.
    Trial,
    /// At its limit of connections.
    Full,
    /// A backup that is not needed.
    Standby,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// Take part.
    #[default]
    In,
    /// Keep old flows, take no new ones.
    Drain,
}

/// One backend of one service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendView {
    pub service: ServiceName,
    pub id: BackendId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub origin: Origin,
    /// What is published.
    pub state: StateWord,
    pub admin: Admin,
    pub health: HealthView,
    /// As configured, or as set by the CLI.
    pub weight: u16,
    /// What the table is built from.
    pub effective_weight: f64,
    #[serde(default)]
    pub weighing: WeightView,
    /// Slots that it owns in the published table, of [`ServiceView::slots`].
    pub slots: u32,
    /// The same as a share, 0 to 1.
    pub share: f64,
    pub next_hop: NextHopView,
    pub forwarded: Traffic,
    pub replied: Traffic,
    /// New flows so far.
    pub flows: u64,
    /// Translated flows now (`nat`).
    pub live_flows: u64,
    /// Where the service has breakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// Where it has limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitView>,
    /// 0 = it serves; else it stands in while too few of those with lower numbers can.
    #[serde(default)]
    pub backup: u8,
    /// In services with `quic`; absent = connection ids don't name it, for another backend has the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id: Option<u32>,
    #[serde(default)]
    pub resets: ResetsView,
    #[serde(default)]
    pub handshakes: HandshakeView,
}

/// How TCP handshakes went, of flows drawn at random (one of 16; one of 4 while the weights of a service follow latency).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HandshakeView {
    /// Flows that were drawn.
    pub sampled: u64,
    /// Their SYNs that came again.
    pub syn_retransmits: u64,
    /// From the SYN to the SYN-ACK, where answers come by.
    pub answers: TimesView,
    /// From the SYN to the client's first ACK.
    pub accepts: TimesView,
}

/// Times that were measured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TimesView {
    pub count: u64,
    /// Their sum, microseconds.
    pub total_us: u64,
    /// Histogram: element i counts times from 2^i on and below 2^(i+1) units of 1024 ns. Ends with the last one that is not 0.
    pub steps: Vec<u32>,
}

/// Where packets to a backend are sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NextHopView {
    pub ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a source of backends is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceStateWord {
    /// It has not answered yet.
    Starting,
    /// What is known is what it says.
    Live,
    /// It can't be had; what it said last holds.
    Stale,
}

/// One source of one service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceView {
    pub service: ServiceName,
    /// Type, and what is asked for.
    pub source: String,
    pub state: SourceStateWord,
    pub endpoints: u32,
    /// When it last gave a good answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u64>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Changes that it told since the daemon's start, and times that it failed.
    pub updates: u64,
    pub failures: u64,
}

/// All that `/metrics` shows, of one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub status: Status,
    pub services: Vec<ServiceView>,
    pub backends: Vec<BackendView>,
    pub sources: Vec<SourceView>,
    pub publications: Publications,
}

/// How publishing goes.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Publications {
    pub count: u64,
    pub failures: u64,
    /// Building the last plan, and writing it to the maps, microseconds.
    pub last_plan_us: u64,
    pub last_apply_us: u64,
    /// Differences that re-reading the maps found, and repaired.
    pub repairs: u64,
    pub reloads: u64,
    pub reload_failures: u64,
    /// Lines of the flow log that were written, and that were dropped because its place was slow or not there.
    #[serde(default)]
    pub flows_logged: u64,
    #[serde(default)]
    pub flows_dropped: u64,
    /// Beginnings of flows that the kernel half had no room to tell of.
    #[serde(default)]
    pub flows_lost: u64,
}

impl StateWord {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Soft => "soft",
            Self::Down => "down",
            Self::Recovering => "recovering",
            Self::Maintenance => "maintenance",
            Self::Unknown => "unknown",
            Self::Open => "open",
            Self::Trial => "trial",
            Self::Full => "full",
            Self::Standby => "standby",
        }
    }
}

impl From<BackendState> for StateWord {
    fn from(s: BackendState) -> Self {
        match s {
            BackendState::Absent => Self::Unknown,
            BackendState::Active | BackendState::Settling => Self::Active,
            BackendState::Draining => Self::Draining,
            BackendState::Soft => Self::Soft,
            BackendState::Down => Self::Down,
            BackendState::Recovering => Self::Recovering,
            BackendState::Maintenance => Self::Maintenance,
        }
    }
}

impl std::fmt::Display for StateWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Config => "config",
            Self::File => "file",
            Self::Source => "source",
            Self::Kubernetes => "kubernetes",
            Self::Cli => "cli",
        })
    }
}
