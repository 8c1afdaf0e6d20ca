//! The configuration as it is meant: valid by construction.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    balanced::SignalWord,
    words::{Hook, LogFormat},
};
use crate::{
    discovery::{ClusterSpec, SourceSpec},
    flow_log::FlowSink,
    health::{self, CheckKind, breaker::Rules, detector::PulseKind},
    model::{ConnectionLimits, Endpoint, Mode, ServiceName, VipAddr, Ways, WhenEmpty},
    table::Scheduler,
    weights::Locality,
};

/// All that the daemon is told by its file.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub instance: Instance,
    pub interfaces: Vec<Interface>,
    pub services: BTreeMap<ServiceName, Service>,
    /// A cluster that asks for further ones.
    pub kubernetes: Option<Arc<ClusterSpec>>,
    pub peers: Option<super::Peers>,
    pub nat: Nat,
    pub ledger: super::Ledger,
    pub limits: Limits,
    pub hash_key: Option<[u64; 2]>,
    pub bpffs: PathBuf,
    pub state_dir: PathBuf,
    pub api: Api,
    /// Where `/metrics`, `/livez` and `/readyz` are served over TCP.
    pub metrics: Option<SocketAddr>,
    pub log: Log,
    pub flow_log: Option<FlowLog>,
}

impl Config {
    /// Other nodes may have flows of the same slots: they find the same by the same key.
    pub fn shares_flows(&self) -> bool {
        self.peers.is_some() && self.hash_key.is_some()
    }
}

/// Name of a balancer on its node: 1 to 31 of `a-z A-Z 0-9 - _`, for it becomes part of paths.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instance(String);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: String,
    pub hook: Hook,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub vip: VipAddr,
    pub mode: Mode,
    pub ways: Ways,
    pub when_empty: WhenEmpty,
    /// Interface that the daemon puts the VIP on.
    pub announce: Option<String>,
    pub scheduler: Scheduler,
    /// Size of the table as a power of two; `None` = by its members.
    pub log2_slots: Option<u8>,
    pub weights: Weights,
    pub locality: Option<Locality>,
    /// When new flows are kept from a backend where too much goes wrong.
    pub breaker: Option<Rules>,
    /// How many flows each backend may have that says nothing else.
    pub limits: ConnectionLimits,
    /// Backups stand in while less than this percent of the others' weight can be used; 0 = while none can.
    pub backup_below: u8,
    /// Heartbeat; `None` = backends count as live.
    pub check: Option<Check>,
    /// Backends report themselves.
    pub heartbeat: Option<Heartbeat>,
    /// Backends that the file itself names; no two with the same id.
    pub backends: Vec<Endpoint>,
    /// File that lists further ones.
    pub backends_file: Option<PathBuf>,
    /// Where further ones are found.
    pub sources: Vec<SourceSpec>,
}

/// What is expected of backends that report themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// How long a beat holds.
    pub ttl: Duration,
    /// A beat adds a backend that nobody has named.
    pub register: bool,
    /// After so long without one, who was added so is forgotten.
    pub forget: Duration,
}

/// What backends get beyond their configured weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Weights {
    /// What moves them.
    pub by: SignalWord,
    /// Port of each backend's agent, and from one question to the next.
    pub agent: Option<(u16, Duration)>,
}

/// The heartbeat of a service's backends.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    pub kind: CheckKind,
    /// Port that is probed; `None` = the backend's own.
    pub port: Option<u16>,
    /// The VIP is asked, by the way of the service's packets, where a backend is of its family.
    pub through_vip: bool,
    /// Address that is probed from; `None` = the kernel chooses.
    pub source: Option<IpAddr>,
    /// Time from one probe to the next, more than zero.
    pub interval: Duration,
    /// Percent of the interval by which a probe comes earlier or later.
    pub jitter: u8,
    /// Time after which a probe has failed, more than zero.
    pub timeout: Duration,
    /// Successes in a row that bring a backend back, at least 1.
    pub rise: u32,
    /// Failures in a row that take a backend out, at least 1.
    pub fall: u32,
    /// What else counts.
    pub judgement: Judgement,
}

/// How what is known of a backend is judged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Judgement {
    RiseFall,
    Phi(PhiJudgement),
}

/// Channels of suspicion.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PhiJudgement {
    pub pulse: Option<PulseKind>,
    pub pulse_interval: Duration,
    /// The backend's own traffic counts.
    pub passive: bool,
    pub limits: health::detector::Limits,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nat {
    /// Empty = the node's own address towards each backend.
    pub sources: Vec<IpAddr>,
    /// Source ports, from 1024: ascending ranges without overlap, not more than the kernel half takes. Empty = the largest region that the kernel does not take ports
    /// of its own from.
    pub ports: Vec<RangeInclusive<u16>>,
    pub timeouts: NatTimeouts,
}

/// Idle times after which a translated flow is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatTimeouts {
    pub half_open: Duration,
    pub established: Duration,
    pub closing: Duration,
    pub closed: Duration,
    pub udp: Duration,
}

/// How much the kernel's maps hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub services: u32,
    /// Slots of all tables together; a power of two.
    pub slots: u32,
    pub backends: u32,
    /// Translated flows at once; a power of two.
    pub nat_flows: u32,
    /// Flows that the ledger has room for; a power of two.
    pub ledger: u32,
    /// Flows and sources of services with a scheduler that are remembered at once; a power of two.
    pub flows: u32,
    /// Checks of backends that run at once; `None` = as many as can.
    pub checks: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    pub socket: PathBuf,
    pub group: Option<String>,
    /// Where heartbeats are taken over TCP.
    pub heartbeat: Option<HeartbeatListener>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct HeartbeatListener {
    pub listen: SocketAddr,
    /// A secret.
    pub token: String,
}

impl std::fmt::Debug for HeartbeatListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeartbeatListener").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Which flows are logged, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowLog {
    /// One in this many, at least 1.
    pub sample: u32,
    pub to: FlowSink,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    pub level: log::LevelFilter,
    pub kernel: log::LevelFilter,
    pub format: LogFormat,
}

impl Instance {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The API's socket, where the configuration names none.
    pub fn default_socket(&self) -> PathBuf {
        PathBuf::from(format!("/run/mesh/{}.sock", self.0))
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl std::str::FromStr for Instance {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if (1..=31).contains(&s.len()) && s.chars().all(fits) {
            Ok(Self(s.to_owned()))
        } else {
            Err(format!("`{s}` is no name of an instance: use 1 to 31 letters, digits, `-` or `_`"))
        }
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl Default for Check {
    /// A TCP probe each second.
    fn default() -> Self {
        let (second, half) = (Duration::from_secs(1), Duration::from_millis(500));
        Self {
            kind: CheckKind::Tcp,
            port: None,
            through_vip: false,
            source: None,
            interval: second,
            jitter: 0,
            timeout: half,
            rise: 2,
            fall: 3,
            judgement: Judgement::Phi(PhiJudgement::default()),
        }
    }
}

impl Check {
    /// The silence of a backend's own traffic counts.
    pub fn counts_traffic(&self) -> bool {
        matches!(self.judgement, Judgement::Phi(PhiJudgement { passive: true, .. }))
    }
}

impl Default for PhiJudgement {
    fn default() -> Self {
        let pulse_interval = Duration::from_millis(10);
        Self { pulse: Some(PulseKind::Syn), pulse_interval, passive: true, limits: health::detector::Limits::default() }
    }
}

impl Default for NatTimeouts {
    /// RFC 5382 section 5 asks for at least 2 h 4 min (established) and 4 min (closing), RFC 4787 section 4.3 for at least 2 min (UDP).
    fn default() -> Self {
        Self {
            half_open: Duration::from_secs(15),
            established: Duration::from_secs(7500),
            closing: Duration::from_secs(240),
            closed: Duration::from_secs(10),
            udp: Duration::from_secs(180),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { services: 1024, slots: 1 << 20, backends: 16_384, nat_flows: 1 << 18, ledger: 1 << 16, flows: 1 << 16, checks: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: log::LevelFilter::Info, kernel: log::LevelFilter::Warn, format: LogFormat::Text }
    }
}
