//! The nouns that every room shares: plain values, valid by construction.

mod answers;
mod fields;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use answers::Answers;
pub use fields::{HashField, HashFields};
pub use mesh_common::abi::{BackendState, Mode, Proto, Scheduler};

/// Name of a service, unique within a node: 1 to 63 of `a-z A-Z 0-9 - _ . /`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

/// Why a text is no name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no service name: use 1 to 63 letters, digits, `-`, `_`, `.` or `/`")]
pub struct BadName(String);

impl ServiceName {
    /// What stands for a cluster as a whole where there is a service otherwise.
    pub fn cluster() -> Self {
        Self("kubernetes".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ServiceName {
    type Error = BadName;

    fn try_from(s: String) -> Result<Self, BadName> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if (1..=63).contains(&s.len()) && s.chars().all(fits) { Ok(Self(s)) } else { Err(BadName(s)) }
    }
}

impl FromStr for ServiceName {
    type Err = BadName;

    fn from_str(s: &str) -> Result<Self, BadName> {
        s.to_owned().try_into()
    }
}

impl From<ServiceName> for String {
    fn from(n: ServiceName) -> Self {
        n.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address that clients use: a service is one VIP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VipAddr {
    pub addr: IpAddr,
    /// 0: the service has several, see [`Ways::ports`].
    pub port: u16,
    pub proto: Proto,
}

impl fmt::Display for VipAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.addr) {
            (0, IpAddr::V4(addr)) => write!(f, "{addr}:*/{}", proto_name(self.proto)),
            (0, IpAddr::V6(addr)) => write!(f, "[{addr}]:*/{}", proto_name(self.proto)),
            _ => write!(f, "{}/{}", SocketAddr::new(self.addr, self.port), proto_name(self.proto)),
        }
    }
}

/// What becomes of a service's packets while none of its backends takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenEmpty {
    /// They are dropped, so clients wait and try again.
    #[default]
    Drop,
    /// Clients are told at once: TCP by a RST, UDP by ICMP "port unreachable".
    Reject,
    /// The host gets them.
    Pass,
    /// They go to the backends that failed last: better perhaps than certainly not.
    FailStatic,
}
impl WhenEmpty {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::Pass => "pass",
            Self::FailStatic => "fail_static",
        }
    }
}

/// What single modes have to know besides.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Ways {
    /// `tunnel`: a UDP header follows the outer IP header.
    pub gue: bool,
    /// `tunnel`: source address of the outer header towards backends of its family; `None` = the node's own address towards each backend.
    pub source: Option<IpAddr>,
    /// `dnat`: the router that answers go to; `None` = the host routes them.
    pub reply_via: Option<IpAddr>,
    /// First and last of the ports of a service that has several.
    pub ports: Option<(u16, u16)>,
    /// What of a packet chooses its slot.
    pub hash: HashFields,
    pub protect: Protect,
    #[serde(skip)]
    pub choosing: Choosing,
    /// Bytes of the server ids in QUIC connection ids that name backends.
    pub quic: Option<u8>,
}

/// How new flows are given to backends, where not by the hash alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Choosing {
    pub scheduler: Scheduler,
    /// How long a source stays with the backend of its last new flow.
    pub affinity: Option<Duration>,
}

impl Choosing {
    /// Flows have to be remembered.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// The way of a service's own packets to one backend, by which a check asks the VIP there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Passage {
    pub vip: IpAddr,
    /// Of the VIP's family.
    pub backend: IpAddr,
    pub head: Head,
}

/// What stands in front of a service's packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Head {
    /// Nothing: the backend is told by its MAC (`dsr`).
    Mac,
    /// An outer IP header (`tunnel`), and UDP where it is GUE; from `source`, else from the node's own address.
    Outer { gue: bool, source: Option<IpAddr> },
}

impl fmt::Display for Passage {
    /// `10.0.0.100 by IPIP to 10.0.0.11`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.head {
            Head::Mac => "at the MAC of",
            Head::Outer { gue: false, .. } => "in IP to",
            Head::Outer { gue: true, .. } => "in GUE to",
        };
        write!(f, "{} {how} {}", self.vip, self.backend)
    }
}

/// Who may use a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Protect {
    /// Packets are dropped whose source can't be.
    pub spoofed: bool,
    /// Time for each new connection of one source, and for each of all, in units of 1024 ns; 0 = no limit.
    pub source_limit: u32,
    pub service_limit: u32,
    /// The longest prefix that a source is in says whether it may use the service; one in none may. Empty: everybody may.
    pub sources: Vec<SourceRule>,
}

/// What is said of the sources of one prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct SourceRule {
    /// Its first address.
    pub addr: IpAddr,
    pub bits: u8,
    pub allowed: bool,
}

/// `tcp` or `udp`.
pub const fn proto_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    }
}

/// What tells one backend of a service from another: where it listens. Ordered, so that tables don't depend on the order of discovery.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BackendId(pub SocketAddr);

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Share of new flows relative to the service's other backends; 0 = none. Configured weights are whole numbers up to 65,535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u16);

impl Weight {
    pub const ONE: Self = Self(1);
}

/// Version of the published tables, counted up at each publication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// An instance as its source describes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: BackendId,
    pub weight: Weight,
    /// Name for people; the address stands in where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its source wants new flows to go elsewhere; old ones stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// Where it stands; nearer ones are preferred where the service says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Node that it runs on, where its source knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Flows at once that it can carry; `None` = nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// 0 = it serves; else it stands in while too few of those with lower numbers can.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub backup: u8,
    #[serde(default, skip_serializing_if = "ConnectionLimits::is_none")]
    pub limits: ConnectionLimits,
    /// Its server id in QUIC connection ids, where somebody said; see [`quic_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id: Option<u32>,
}

/// How many flows a backend may have; what is at its limit is given no new ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionLimits {
    /// At once; more than zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// New ones within a second; more than zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
}

impl ConnectionLimits {
    /// There is no limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where they say nothing the `other` ones.
    pub fn or(self, other: Self) -> Self {
        Self { connections: self.connections.or(other.connections), rate: self.rate.or(other.rate) }
    }
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

impl Endpoint {
    /// One of which no more is known.
    pub fn new(id: BackendId, weight: Weight) -> Self {
        Self {
            id,
            weight,
            name: None,
            drain: false,
            zone: None,
            node: None,
            capacity: None,
            backup: 0,
            limits: ConnectionLimits::default(),
            quic_server_id: None,
        }
    }
}

/// The server id of a backend, of `length` bytes: what was said, or the last bytes of its address.
pub fn quic_id(endpoint: &Endpoint, length: u8) -> u32 {
    endpoint.quic_server_id.unwrap_or_else(|| {
        let last = match endpoint.id.0.ip() {
            IpAddr::V4(addr) => addr.to_bits(),
            IpAddr::V6(addr) => addr.to_bits() as u32,
        };
        last & quic_mask(length)
    })
}

/// A server id has no more than `length` bytes.
pub const fn quic_fits(id: u32, length: u8) -> bool {
    id & !quic_mask(length) == 0
}

const fn quic_mask(length: u8) -> u32 {
    if length >= 4 { u32::MAX } else { (1 << (8 * length)) - 1 }
}
