//! What to ask a target, how often, and what answer is right.

mod http;
mod load;
mod status;
mod tls;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use http::HttpCheck;
pub use load::{Reported, parse_load};
pub use status::StatusSet;
pub use tls::{TlsCheck, TlsSettings};

use super::{
    Thresholds,
    detector::{Detection, PhiRules},
};
use crate::model::{BackendId, Passage, ServiceName};

/// One backend of one service: each service may ask the same host something else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetKey {
    pub service: ServiceName,
    pub backend: BackendId,
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.backend)
    }
}

/// A check of one target.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    pub kind: CheckKind,
    /// Where to ask: the backend's address, with the probe port if that is another one.
    pub address: SocketAddr,
    /// Address to ask from; `None` = the kernel chooses.
    pub source: Option<IpAddr>,
    /// The VIP is asked, by the way that the service's packets take to this backend; `None` = the backend's own address is.
    pub passage: Option<Passage>,
    /// Priority of the sockets that ask, by which the kernel half knows the passage; 0 = it is not taken.
    pub tag: u32,
    /// From one check's start to the next one's, at least [`Check::MIN_INTERVAL`]. A check never overtakes the one before.
    pub interval: Duration,
    /// Percent of the interval by which a check comes earlier or later.
    pub jitter: u8,
    /// For all of one check: connect, request and answer.
    pub timeout: Duration,
    /// Passed checks in a row that make the target up, at least 1.
    pub rise: u32,
    /// Failed checks in a row that make the target down, at least 1.
    pub fall: u32,
    /// How its answers, and what else is known, are judged.
    pub detection: Detection,
    /// The target's part of its service, for the limits of what may be taken out.
    pub weight: u16,
}

impl Check {
    /// Shortest interval: below it a scheduler's delay looks like a failure.
    pub const MIN_INTERVAL: Duration = Duration::from_millis(10);

    /// A check of `address` every second, up after 2 and down after 3.
    pub fn new(kind: CheckKind, address: SocketAddr) -> Self {
        let second = Duration::from_secs(1);
        Self {
            kind,
            address,
            source: None,
            passage: None,
            tag: 0,
            interval: second,
            jitter: 0,
            timeout: second,
            rise: 2,
            fall: 3,
            detection: Detection::RiseFall,
            weight: 1,
        }
    }

    pub fn thresholds(&self) -> Thresholds {
        Thresholds { rise: self.rise, fall: self.fall }
    }

    /// Has the check, and its pulses, take the passage that is known by these tags.
    pub fn take(&mut self, tag: u32, tag_of_pulses: u32) {
        self.tag = tag;
        if let Detection::Phi(PhiRules { pulse: Some(pulse), .. }) = &mut self.detection {
            pulse.tag = tag_of_pulses;
        }
    }

    /// The two ask and judge alike; weights may differ.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        *self == Self { weight: self.weight, ..other.clone() }
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub enum CheckKind {
    /// A connection is accepted.
    Tcp,
    /// A TLS handshake succeeds.
    Tls(TlsCheck),
    /// A GET is answered as expected, plainly or over TLS.
    Http(Box<HttpCheck>),
    /// `grpc.health.v1.Health/Check` says that it serves: this service, or all of the server if empty.
    Grpc { service: String },
    /// A datagram is answered.
    Udp(UdpCheck),
    /// An echo request is answered; the port says nothing.
    Icmp,
    /// A command ends with status 0.
    Exec(ExecCheck),
    /// Each of these passes; at least one.
    All(Vec<Part>),
    /// One of these passes; at least one.
    Any(Vec<Part>),
}

/// One of several checks that are made together.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    pub kind: CheckKind,
    /// `None` = that of the whole check.
    pub port: Option<u16>,
}

/// A question in one datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UdpCheck {
    pub send: Vec<u8>,
    /// What the answer has to hold; empty = any answer will do.
    pub expect: Vec<u8>,
}

/// A command of this host. It finds the target in MESH_ADDRESS and MESH_PORT; of its environment it has only PATH besides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecCheck {
    pub program: PathBuf,
    pub args: Vec<String>,
}

impl CheckKind {
    /// Whether processes have to be started for it.
    pub fn starts_processes(&self) -> bool {
        match self {
            Self::Exec(_) => true,
            Self::All(parts) | Self::Any(parts) => parts.iter().any(|p| p.kind.starts_processes()),
            _ => false,
        }
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, parts) = match self {
            Self::Tcp => return f.write_str("tcp"),
            Self::Tls(_) => return f.write_str("tls"),
            Self::Http(http) => return write!(f, "http{} {}", if http.tls().is_some() { "s" } else { "" }, http.path()),
            Self::Grpc { service } if service.is_empty() => return f.write_str("grpc"),
            Self::Grpc { service } => return write!(f, "grpc {service}"),
            Self::Udp(_) => return f.write_str("udp"),
            Self::Icmp => return f.write_str("icmp"),
            Self::Exec(exec) => return write!(f, "exec {}", exec.program.display()),
            Self::All(parts) => (" and ", parts),
            Self::Any(parts) => (" or ", parts),
        };
        f.write_str("(")?;
        for (i, Part { kind, port }) in parts.iter().enumerate() {
            let port = port.map(|p| format!(" port {p}")).unwrap_or_default();
            write!(f, "{}{kind}{port}", if i > 0 { word } else { "" })?;
        }
        f.write_str(")")
    }
}

/// Why a check can't be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadCheck {
    #[error("`{0}` is no path to check: it starts with `/`, without spaces or a fragment")]
    Path(String),
    #[error("`{0}` is no host name for a check")]
    Host(String),
    #[error("`{0}` is no header that a check can send")]
    Header(String),
    #[error("`{0}` is no name of a TLS server")]
    ServerName(String),
    #[error("the authorities can't be used: {0}")]
    Ca(String),
    #[error("the certificate can't be used: {0}")]
    Certificate(String),
    #[error("the private key can't be used: {0}")]
    Key(String),
    #[error("TLS can't be used: {0}")]
    Tls(String),
    #[error("`{0}` is no set of HTTP statuses: write `200`, `200-399` or `200-299,404`")]
    Status(String),
}
