//! The configuration as written: one struct per table of keys, and nothing decided yet.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::sizes::Limits;
use super::{
    balanced::{Affinity, Locality, SchedulerWord, Weights},
    forms::{AnnounceForm, BackendForm, HealthForm, InterfaceForm, StatusForm},
    placed::Placed,
    protect::Protect,
    quic::Quic,
    sourced::Source,
    words::{EncapWord, LogFormat, ModeWord, ProtoWord, Span},
};
pub use super::{
    guarded::{Backend, Breaker},
    reported::{DetectorWord, Heartbeat, HeartbeatListener, PulseWord, ThroughWord},
    translated::Nat,
    words::Interface,
};
use crate::model::{HashField, WhenEmpty};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name of this balancer on the node, part of its socket, pins and state file. Default `default`.
    pub instance: Option<Placed<String>>,
    /// Interfaces whose incoming packets are balanced: `eth0`, or a table of keys.
    #[serde(default)]
    pub interfaces: Vec<Placed<InterfaceForm>>,
    /// What is balanced.
    #[serde(default)]
    pub services: Vec<Placed<Service>>,
    /// A Kubernetes cluster whose Services, Gateways and routes are balanced.
    pub kubernetes: Option<Placed<Kubernetes>>,
    /// Other nodes whose votes count before a backend is taken out.
    pub peers: Option<Placed<super::peers::Written>>,
    /// Translation (mode `nat`).
    #[serde(default)]
    pub nat: Nat,
    /// Moving slots without breaking connections (modes `dsr`, `dnat`, `tunnel`).
    #[serde(default)]
    pub ledger: super::ledger::Written,
    /// Sizes of the kernel's maps; they are fixed while the program is loaded.
    #[serde(default)]
    pub limits: Limits,
    /// Secret of the flow hash, 32 hexadecimal digits; nodes that announce the same VIPs share it. Default: drawn at the first start, and kept with the pinned maps.
    pub hash_key: Option<Placed<String>>,
    /// Where the bpf file system is mounted. Default `/sys/fs/bpf`.
    pub bpffs: Option<PathBuf>,
    /// Where the daemon keeps its state. Default `/var/lib/mesh`.
    pub state_dir: Option<PathBuf>,
    /// The admin API.
    #[serde(default)]
    pub api: Api,
    /// Metrics and health endpoints over TCP.
    #[serde(default)]
    pub metrics: Metrics,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
    /// A sample of flows: when they begin, and of `nat` services also when and how they end.
    #[serde(default)]
    pub flow_log: FlowLog,
}

/// One VIP and the backends behind it; also the body of the API's request to add a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Name, unique on the node.
    pub name: Placed<String>,
    /// Address that clients connect to, with or without the port: `192.0.2.10:80` or `"[2001:db8::10]:80"`.
    pub vip: Placed<String>,
    /// Port that clients connect to, where `vip` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Placed<u16>>,
    /// In place of one port: `any`, or `FIRST-LAST`; backends then have no port of their own, and get each packet at the one it came for. A port that has a service of
    /// its own stays that service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Placed<String>>,
    /// `tcp` (default) or `udp`.
    #[serde(default)]
    pub protocol: ProtoWord,
    /// `nat` (default: works anywhere), `dnat` (backends see the client's address and answer by way of the balancer), `dsr` or `tunnel` (backends own the VIP and answer clients themselves; `tunnel` reaches them over routers).
    #[serde(default)]
    pub mode: Placed<ModeWord>,
    /// `tunnel`: `ipip` (default) or `gue`. The outer header is of the family of the backend's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<Placed<EncapWord>>,
    /// `tunnel`: source address of the outer header towards backends of its family. Default: the node's own address towards each backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_source: Option<Placed<String>>,
    /// `dnat`: address of the router that answers go to. Default: the host routes them (`net.ipv4.ip_forward`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_via: Option<Placed<String>>,
    /// While no backend takes new flows: `drop` (default), `reject` (clients are told at once), `pass` (the host gets the packets) or `fail_static` (backends whose breaker is open, and where there are none, those whose heartbeat failed, are used all the same).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_empty: Option<Placed<WhenEmpty>>,
    /// Who makes the VIP reachable: `none` (default), or `address: IFACE` to have the daemon put it on an interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<Placed<AnnounceForm>>,
    /// Interface of `announce: address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Placed<String>>,
    /// Heartbeat: `tcp` (default of a TCP service), `tls`, `http`, `https`, `grpc`, `icmp`, `none`, or a table of keys. A UDP service must say how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Placed<HealthForm>>,
    /// Backends tell that they live, by `mesh backend heartbeat` or the API; who misses a beat is down. Beside `health` both have to be good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Placed<Heartbeat>>,
    /// How flows are spread. By the hash alone, of which nothing is remembered: `consistent-hash` (default: the fewest flows move), `maglev`, `ring`.
    /// Or chosen as a flow begins, and remembered (`limits.flows`): `random`, `round-robin`, `least-connections`, `least-response-time`, `two-choices`,
    /// `hash-unless-crowded`. It can be changed at any time; flows stay, but for datagrams outside `nat`: where each flow is chosen, a UDP flow that is
    /// not remembered yet is chosen with its next datagram (`mesh plan apply` tells the share).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Placed<SchedulerWord>>,
    /// A source's new flows go where its last one went (`affinity: {timeout: 10m}`), unless that takes no new flows: drained, full, down, of weight 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// What of a packet chooses its backend: some of `source`, `source_port`, `destination`, `destination_port` and `protocol`; with `[source]` one
    /// address meets one backend, in all services with the same backends. Default: all five. A change moves flows, which only `nat` remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Placed<Vec<Placed<HashField>>>>,
    /// Slots of the table, a power of two from 256 to 1048576. Default: by the number of backends, and then a backend more can resize it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<Placed<u32>>,
    /// What backends get beyond their configured weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// How far backends are: nearer ones get more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// What keeps new flows from a backend where too much goes wrong. Default: nothing but its health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Placed<Breaker>>,
    /// Flows that each backend may have at once (`nat`); at its limit it is given no new ones. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<Placed<u32>>,
    /// New flows that each backend may be given within a second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_rate: Option<Placed<u32>>,
    /// Backups stand in while less than this percent of the other backends' weight can be used. Default 0: while none of them can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_below: Option<Placed<u32>>,
    /// Who may use the service, and how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protect: Option<Protect>,
    /// UDP: packets go where the server id in their QUIC connection id says, whatever becomes of their client's address and of the table; beginnings of
    /// connections, and ids that nobody has, go as they would without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<Placed<Quic>>,
    /// Backends: `10.0.0.1:8080`, or a table of keys.
    #[serde(default)]
    pub backends: Vec<Placed<BackendForm>>,
    /// File with a list of further backends (YAML, JSON or TOML), followed as it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends_file: Option<Placed<PathBuf>>,
    /// Where further backends are found, and followed as they change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Placed<Source>>,
}

/// Which probe says that a backend lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProbeWord {
    /// A connection is accepted.
    #[default]
    Tcp,
    /// A TLS handshake succeeds.
    Tls,
    /// A GET is answered with an expected status.
    Http,
    /// The same over TLS.
    Https,
    /// `grpc.health.v1` says that the server or one of its services serves.
    Grpc,
    /// A datagram is answered.
    Udp,
    /// An echo request (ping) is answered.
    Icmp,
    /// A command ends with status 0.
    Exec,
    /// No probe: the backend counts as live.
    None,
}

/// The heartbeat of a service's backends.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `tcp` (default), `tls`, `http`, `https`, `grpc`, `udp`, `icmp`, `exec` or `none`.
    #[serde(default, rename = "type")]
    pub probe: Placed<ProbeWord>,
    /// In place of a type: several checks that all have to pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Placed<Vec<Placed<HealthForm>>>>,
    /// In place of a type: several checks of which one has to pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any: Option<Placed<Vec<Placed<HealthForm>>>>,
    /// Port that is probed. Default: the backend's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Placed<u16>>,
    /// What probes and pulses ask: `vip` (default of `tunnel`: the VIP at the backend, by the way that the service's packets take, so that a
    /// dead agent is seen; also for `dsr`) or `direct` (default of other modes: the backend's own address).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Placed<ThroughWord>>,
    /// Address of this host that probes come from. Default: the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Placed<String>>,
    /// Time from one probe to the next. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Placed<Span>>,
    /// Percent of the interval by which a probe comes earlier or later, at random. Probes of one interval are spread over it in any case. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Placed<u32>>,
    /// Time after which a probe has failed. Default 500ms, or the interval where that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Placed<Span>>,
    /// Successes in a row that bring a backend back. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<Placed<u32>>,
    /// Failures in a row that take a backend out. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<Placed<u32>>,
    /// `phi` (default: probes, pulses and traffic are summed as suspicion) or `rise_fall` (only probes count).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<Placed<DetectorWord>>,
    /// `phi`: what the backend's kernel is asked many times a second: `syn` (default of a TCP service), `icmp` (of a UDP service) or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse: Option<Placed<PulseWord>>,
    /// `phi`: time from one pulse to the next, longer where there are very many backends. Default 10ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse_interval: Option<Placed<Span>>,
    /// `phi`: whether a backend's own traffic counts: its silence, and flows that fail with it alone. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Placed<bool>>,
    /// `phi`: percent of the service's weight that suspicion keeps from new flows at most. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_soft: Option<Placed<u32>>,
    /// `phi`: percent of the service's weight that suspicion takes out at most; refusals and failed probes count without a limit. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_down: Option<Placed<u32>>,
    /// `phi`: with less percent of the weight healthy, suspicion takes nobody else out. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<Placed<u32>>,
    /// `http`: what is asked for. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Placed<String>>,
    /// `http`: the Host header. Default: the backend's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Placed<String>>,
    /// `http`: statuses that count as live, such as `200` or `200-299,404`. Default `200-399`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Placed<StatusForm>>,
    /// `http`: further headers of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Placed<BTreeMap<String, String>>>,
    /// `http`: text that the first 64 KiB of the body have to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Placed<String>>,
    /// `http`: header of the answer with the backend's load, for `weights: {by: load}`: `0.42`, `42%`, or an ORCA report (`TEXT` or `JSON`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_header: Option<Placed<String>>,
    /// `tls`, `https`: name that is asked for and that the certificate must have. Default: the backend's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Placed<String>>,
    /// `tls`, `https`: whether the certificate has to be good. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Placed<bool>>,
    /// `tls`, `https`: file of the authorities to trust (PEM). Default: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Placed<PathBuf>>,
    /// `tls`, `https`: file of the certificate chain to show (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<Placed<PathBuf>>,
    /// `tls`, `https`: file of that certificate's private key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Placed<PathBuf>>,
    /// `grpc`: service that is asked about. Default: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Placed<String>>,
    /// `udp`: what is sent, as text or as `hex:0a0b`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Placed<String>>,
    /// `udp`: what the answer has to hold, as text or as `hex:0a0b`. Default: any answer will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Placed<String>>,
    /// `exec`: absolute path of a program and its arguments; it finds the backend in MESH_ADDRESS and MESH_PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Placed<Vec<String>>>,
}

/// What of a Kubernetes cluster is balanced. Services, Gateways and routes become services here, and are told their addresses.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// File that says where the API server is and who asks. Default: the pod's service account, else as `kubectl` does.
    pub kubeconfig: Option<Placed<PathBuf>>,
    /// `loadBalancerClass` of Services, and `controllerName` of GatewayClasses, that are ours. Default `mesh/balancer`.
    pub class: Option<Placed<String>>,
    /// Addresses that may be given away: `192.0.2.0/24`, `192.0.2.10-192.0.2.20` or one alone.
    #[serde(default)]
    pub addresses: Vec<Placed<String>>,
    /// Whether Services are looked at: those of type LoadBalancer with our class, and those with the annotation `mesh/balance`. Default true.
    pub services: Option<Placed<bool>>,
    /// Whether the Gateway API is looked at: Gateways of our classes, TCPRoutes and UDPRoutes. Default false.
    pub gateways: Option<Placed<bool>>,
    /// Labels that Istio's Gateways select us by; their VirtualServices' `tcp` routes are followed. Default: Istio is not looked at.
    pub istio: Option<Placed<BTreeMap<String, String>>>,
    /// Name of this node, for node ports and for Services that keep traffic on its node. Default: the environment variable NODE_NAME.
    pub node: Option<Placed<String>>,
    /// `mode` of the services that are made.
    pub mode: Option<Placed<ModeWord>>,
    /// `announce` of the services that are made.
    pub announce: Option<Placed<AnnounceForm>>,
    /// Interface of `announce: address`.
    pub interface: Option<Placed<String>>,
    /// Heartbeat of the services that are made. Default `tcp`; those of UDP have none.
    pub health: Option<Placed<HealthForm>>,
    /// Time that an answer may take. Default 10s.
    pub timeout: Option<Placed<Span>>,
    /// A watch is begun anew, from where it was, after this long. Default 1m.
    pub wait: Option<Placed<Span>>,
}

/// The admin API.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Unix socket. Default `/run/mesh/<instance>.sock`.
    pub socket: Option<PathBuf>,
    /// Group whose members may use the API, besides root and the daemon's own user.
    pub group: Option<Placed<String>>,
    /// Where backends on other hosts may send their heartbeats, and nothing else. Default: only the socket takes them.
    pub heartbeat: Option<HeartbeatListener>,
}

/// Metrics and health endpoints.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Address and port that serve `/metrics`, `/livez` and `/readyz`. Default: none, only the API's socket serves them.
    pub listen: Option<Placed<String>>,
}

/// A sample of the flows of `nat` services, when they begin and when they end.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowLog {
    /// One flow in this many is logged. Default 0: none.
    pub sample: Option<Placed<u32>>,
    /// `stdout` (default), the absolute path of a file, or `unix:PATH` of a socket that somebody listens at; one JSON object a line.
    pub to: Option<Placed<String>>,
}

/// What is logged.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `off`, `error`, `warn`, `info` (default), `debug` or `trace`; the environment variable RUST_LOG goes before it.
    pub level: Option<Placed<String>>,
    /// The same for what the kernel half says. Default `warn`.
    pub kernel: Option<Placed<String>>,
    /// `text` (default: lines for people) or `json` (one object in each line).
    pub format: Option<Placed<LogFormat>>,
}
