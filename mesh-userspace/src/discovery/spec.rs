//! Which sources there are, and what their answers have to fit.

use std::{fmt, net::SocketAddr};

use super::{ConsulSpec, EtcdSpec, HttpSpec, KubernetesSpec, ZooKeeperSpec, dns::DnsSpec};
use crate::{
    config::{self, Findings, placed::Placed, written},
    model::{Endpoint, Mode, ServiceName, VipAddr},
};

/// One source of one service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SourceKey {
    pub service: ServiceName,
    /// What people call it: type and what is asked for, unique within the service.
    pub source: String,
}

impl SourceKey {
    /// The cluster whose services are made here: it is a source of services, and stands beside those of endpoints.
    pub fn cluster() -> Self {
        Self { service: ServiceName::cluster(), source: "cluster".to_owned() }
    }
}

/// A source and the service that it is for.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceSpec {
    pub kind: SourceKind,
    pub fit: Fit,
}

/// Where endpoints are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceKind {
    Dns(DnsSpec),
    Http(HttpSpec),
    Etcd(EtcdSpec),
    ZooKeeper(ZooKeeperSpec),
    Consul(ConsulSpec),
    Kubernetes(KubernetesSpec),
}

/// What a service asks of its endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fit {
    pub vip: VipAddr,
    pub mode: Mode,
    /// Port of endpoints whose source says none.
    pub port: u16,
}

/// An endpoint as a source tells it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Address with or without the port.
    pub address: String,
    pub port: Option<u16>,
    pub weight: Option<i64>,
    pub name: Option<String>,
    /// New flows are to go elsewhere.
    pub drain: bool,
    pub zone: Option<String>,
    pub node: Option<String>,
    pub capacity: Option<u32>,
    /// As of a backend in the configuration.
    pub backup: Option<u32>,
    pub max_connections: Option<u32>,
    pub max_connection_rate: Option<u32>,
    pub quic_server_id: Option<u32>,
}

impl Fit {
    /// The endpoint, or why the service can't have it.
    pub fn endpoint(&self, told: Told) -> Result<Endpoint, String> {
        let port = match told.address.parse::<SocketAddr>() {
            Ok(_) => told.port,
            Err(_) => Some(told.port.unwrap_or(self.port)),
        };
        let Told { address, port: _, weight, name, drain, zone, node, capacity, backup, .. } = told;
        let Told { max_connections, max_connection_rate, quic_server_id, .. } = told;
        let (port, weight, capacity) = (port.map(Into::into), weight.map(Into::into), capacity.map(Into::into));
        let (backup, max_connections) = (backup.map(Into::into), max_connections.map(Into::into));
        let max_connection_rate = max_connection_rate.map(Into::into);
        let (address, quic_server_id) = (address.into(), quic_server_id.map(Into::into));
        let spec =
            written::Backend { address, port, weight, name, zone, capacity, backup, max_connections, max_connection_rate, quic_server_id };
        let mut findings = Findings::new("", None);
        let endpoint = config::resolve_backend(&spec, &Placed::from(()), self.vip, self.mode, &mut findings);
        let endpoint = endpoint.map(|endpoint| Endpoint { drain, node, ..endpoint });
        endpoint.ok_or_else(|| findings.errors.into_iter().map(|d| d.message).collect::<Vec<_>>().join("; "))
    }

    /// Whether an endpoint that once fitted still does: the service may have changed since.
    pub fn admits(&self, endpoint: &Endpoint) -> bool {
        let at = endpoint.id.0;
        (self.mode == Mode::Tunnel || at.is_ipv4() == self.vip.addr.is_ipv4())
            && at.ip() != self.vip.addr
            && (!matches!(self.mode, Mode::Dsr | Mode::Tunnel) || at.port() == self.vip.port)
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.service, self.source)
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(spec) => spec.fmt(f),
            Self::Http(spec) => spec.fmt(f),
            Self::Etcd(spec) => spec.fmt(f),
            Self::ZooKeeper(spec) => spec.fmt(f),
            Self::Consul(spec) => spec.fmt(f),
            Self::Kubernetes(spec) => spec.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Proto, Weight};

    const FIT: Fit = Fit {
        vip: VipAddr { addr: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), port: 80, proto: Proto::Tcp },
        mode: Mode::Nat,
        port: 8080,
    };

    fn told(address: &str, port: Option<u16>) -> Told {
        Told { address: address.to_owned(), port, ..Told::default() }
    }

    #[test]
    fn ports_come_from_the_nearest() {
        let at = |told| FIT.endpoint(told).map(|e| e.id.to_string());
        assert_eq!(at(told("10.0.0.1", None)), Ok("10.0.0.1:8080".into()));
        assert_eq!(at(told("10.0.0.1", Some(1))), Ok("10.0.0.1:1".into()));
        assert_eq!(at(told("10.0.0.1:2", None)), Ok("10.0.0.1:2".into()));
        assert!(at(told("10.0.0.1:2", Some(3))).unwrap_err().contains("twice"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for bad in ["", "web", "127.0.0.1", "192.0.2.10", "2001:db8::1", "0.0.0.0", "224.0.0.1:80", "10.0.0.1:0"] {
            assert!(FIT.endpoint(told(bad, None)).is_err(), "{bad}");
        }
        for weight in [-1, 65_536, i64::MAX] {
            assert!(FIT.endpoint(Told { weight: Some(weight), ..told("10.0.0.1", None) }).is_err());
        }
        let endpoint = FIT.endpoint(Told { weight: Some(7), drain: true, ..told("10.0.0.1", None) }).unwrap();
        assert_eq!((endpoint.weight, endpoint.drain), (Weight(7), true));
        assert!(FIT.admits(&endpoint));
        assert!(!Fit { mode: Mode::Dsr, ..FIT }.admits(&endpoint));
    }
}
