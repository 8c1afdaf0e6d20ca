//! A source of backends as written: one table of keys for all types.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, words::Span};

/// What kind of place backends are asked for at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceWord {
    /// The addresses or the service records of a name.
    Dns,
    /// A list that a web server has.
    Http,
    /// Keys under a prefix.
    Etcd,
    /// Children of a node.
    ZooKeeper,
    /// Instances of a service.
    Consul,
    /// EndpointSlices of a Service.
    Kubernetes,
}

/// Which records of a name are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordWord {
    /// A or AAAA, as the VIP's family is.
    #[default]
    Address,
    /// SRV, with their priorities, weights and ports.
    Srv,
}

/// Where further backends of a service are found, and followed as they change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `dns`, `http`, `etcd`, `zookeeper`, `consul` or `kubernetes`.
    #[serde(rename = "type")]
    pub kind: Placed<SourceWord>,
    /// Port of backends that the source gives none for. Default: the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Placed<u16>>,
    /// Time that an answer may take. Default 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Placed<Span>>,
    /// `dns`: the name that is looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Placed<String>>,
    /// `dns`: `address` (default: A or AAAA, as the VIP's family is) or `srv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Placed<RecordWord>>,
    /// `dns`: who is asked, the first one first; default: the servers in `/etc/resolv.conf`. `zookeeper`: the members, HOST or HOST:PORT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Placed<String>>,
    /// `dns`: an answer is asked for again when its time to live ends, but not before this. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_refresh: Option<Placed<Span>>,
    /// `dns`: and not after this. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_refresh: Option<Placed<Span>>,
    /// `http`: the list. `consul`: an agent or server; default http://127.0.0.1:8500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Placed<String>>,
    /// `http`: time from one answer to the next question. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Placed<Span>>,
    /// `http`: the server may keep a question so long until the list changes. `consul`, `kubernetes`: the same; default 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Placed<Span>>,
    /// `etcd`: members of the cluster. Default http://127.0.0.1:2379.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<Placed<String>>,
    /// `etcd`: what the keys begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Placed<String>>,
    /// `zookeeper`: the node whose children are the backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Placed<String>>,
    /// `zookeeper`: silence after which a session counts as lost. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Placed<Span>>,
    /// `consul`: name of the service. `kubernetes`: NAMESPACE/NAME of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Placed<String>>,
    /// `consul`: tags that instances have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Placed<String>>,
    /// `consul`: where it is not the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<Placed<String>>,
    /// `http`, `etcd`, `consul`: file with the token that says who asks, read for each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<Placed<PathBuf>>,
    /// `http`, `etcd`, `consul`: name that is logged in with; its password is in `password_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Placed<String>>,
    /// `http`, `etcd`, `consul`: file with the password of `user`, read for each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<Placed<PathBuf>>,
    /// `http`, `etcd`, `consul` over `https`: file of the authorities to trust (PEM). Default: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Placed<PathBuf>>,
    /// The same: file of the certificate chain to show (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<Placed<PathBuf>>,
    /// The same: file of that certificate's private key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Placed<PathBuf>>,
    /// The same: name that the certificate must have. Default: the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Placed<String>>,
    /// The same: whether the certificate has to be good. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Placed<bool>>,
    /// `kubernetes`: name of the Service's port. Default: its only one, or the one whose endpoints have the number `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<Placed<String>>,
    /// `kubernetes`: weight of all endpoints together, shared out evenly. Default: each has weight 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Placed<u16>>,
    /// `kubernetes`: only endpoints on the node of this name. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Placed<String>>,
    /// `kubernetes`: file that says where the API server is and who asks. Default: the pod's service account, else as `kubectl` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<Placed<PathBuf>>,
}
