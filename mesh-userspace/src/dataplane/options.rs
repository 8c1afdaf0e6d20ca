//! What the data plane is told: which instance, where it attaches, how large its maps are, and how it translates.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

/// All that [`super::Dataplane::open`] needs to know.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Name of this balancer on the node; part of the path of its pins, so `a-z A-Z 0-9 - _` only.
    pub instance: String,
    /// Mount point of the bpf file system, usually `/sys/fs/bpf`; mounted if it is not.
    pub bpffs: PathBuf,
    /// Interfaces whose incoming packets are balanced.
    pub interfaces: Vec<InterfaceOptions>,
    pub limits: Limits,
    pub nat: NatOptions,
    pub ledger: LedgerTimes,
    /// Other nodes have flows of the same slots.
    pub shared: bool,
    /// Secret of the flow hash. `None` = the one in the pinned maps, or a random one where there are none.
    pub hash_key: Option<[u64; 2]>,
    /// One flow in this many is told of: when it begins, and, where it is translated, when it ends; 0 = none.
    pub flow_sample: u32,
    /// What the kernel half may say, at most.
    pub kernel_log: log::LevelFilter,
}

/// One interface, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceOptions {
    pub name: String,
    pub hook: HookChoice,
}

/// Where on an interface the program goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum HookChoice {
    /// Native XDP where the driver has it and nobody else owns it, else TC.
    #[default]
    Auto,
    /// Native XDP or an error.
    Native,
    /// XDP after the kernel has built its packet.
    Generic,
    /// TC ingress: a tcx link, or below Linux 6.6 a clsact filter.
    Tc,
    /// A clsact filter at TC ingress, whatever the kernel could do better.
    TcFilter,
}

/// Sizes of the maps, fixed while they are loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub services: u32,
    /// Slots of all tables together.
    pub slots: u32,
    /// Backends of all services together.
    pub backends: u32,
    /// Translated flows at once; rounded up to a power of two.
    pub nat_flows: u32,
    /// Flows that the ledger has room for; rounded up to a power of two.
    pub ledger: u32,
    /// Flows and sources of services with a scheduler that are remembered at once; rounded up to a power of two.
    pub flows: u32,
}

/// How `nat` translates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NatOptions {
    /// Source addresses of translated flows. Empty = the node's own address towards each backend.
    pub sources: Vec<IpAddr>,
    /// Source ports: ascending ranges without overlap, [`mesh_common::abi::NAT_RANGES`] at most. Empty = the largest region from 1024 on that the kernel does not
    /// take ports of its own from.
    pub ports: Vec<RangeInclusive<u16>>,
    pub timeouts: NatTimeouts,
    /// Flows without a reply that may exist at once. `None` = a quarter of [`Limits::nat_flows`].
    pub half_open_limit: Option<u32>,
}

/// Idle times after which a translated flow is forgotten, at least one tick (134 ms).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatTimeouts {
    /// No reply was seen.
    pub half_open: Duration,
    pub established: Duration,
    /// One side has closed.
    pub closing: Duration,
    /// Both sides have closed, or one has reset.
    pub closed: Duration,
    pub udp: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { services: 1024, slots: 1 << 20, backends: 16_384, nat_flows: 1 << 18, ledger: 1 << 16, flows: 1 << 16 }
    }
}

/// What is promised to flows that nobody translates while their slot changes its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerTimes {
    /// The longest time from a SYN to the end of its handshake; a change of a table begins so much later.
    pub handshake: Duration,
    /// The longest silence of a flow after which it still finds its backend.
    pub idle: Duration,
    /// So long flows that are left are waited for before they are remembered one by one.
    pub patience: Duration,
}

impl Default for LedgerTimes {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(3), idle: Duration::from_secs(300), patience: Duration::from_secs(60) }
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

impl Options {
    /// An instance with default sizes that is attached nowhere.
    pub fn new(instance: impl Into<String>) -> Self {
        Self {
            instance: instance.into(),
            bpffs: PathBuf::from("/sys/fs/bpf"),
            interfaces: Vec::new(),
            limits: Limits::default(),
            nat: NatOptions::default(),
            ledger: LedgerTimes::default(),
            shared: false,
            hash_key: None,
            flow_sample: 0,
            kernel_log: log::LevelFilter::Warn,
        }
    }
}
