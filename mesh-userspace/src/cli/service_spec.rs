use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Failure;
use crate::{
    config::words::{EncapWord, ModeWord, ProtoWord, Span},
    control::ServiceSpec,
    model::{HashField, ServiceName},
};

/// A service as the command line describes it.
#[derive(Clone, Debug, Args)]
pub struct AddService {
    /// Name of the new service
    pub service: ServiceName,
    /// Address and port that clients connect to
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub vip: String,
    /// In place of one port: `any`, or a range such as 8000-8100
    #[arg(long, value_name = "FIRST-LAST")]
    pub ports: Option<String>,
    /// `tcp` or `udp`
    #[arg(long, default_value_t = ProtoWord::Tcp)]
    pub protocol: ProtoWord,
    /// What of a packet chooses its backend, separated by commas; default: all
    #[arg(long, value_delimiter = ',', value_name = "FIELDS")]
    pub hash: Vec<HashField>,
    /// `nat` (works anywhere), `dnat` (backends answer by way of the balancer), `dsr` or `tunnel` (backends own the VIP)
    #[arg(long, default_value_t = ModeWord::Nat)]
    pub mode: ModeWord,
    /// How `tunnel` wraps packets: `ipip` (default) or `gue`
    #[arg(long, value_name = "KIND")]
    pub encap: Option<EncapWord>,
    /// Source address of the outer header of `tunnel`; default: the node's own towards each backend
    #[arg(long, value_name = "ADDRESS")]
    pub outer_source: Option<std::net::IpAddr>,
    /// Router that the answers of `dnat` go to; default: the node routes them
    #[arg(long, value_name = "ADDRESS")]
    pub reply_via: Option<std::net::IpAddr>,
    /// Who may use the service, and nobody else: a prefix or an address, may be given several times
    #[arg(long, value_name = "PREFIX")]
    pub allow: Vec<String>,
    /// Who may not; of both lists the longest prefix says
    #[arg(long, value_name = "PREFIX")]
    pub deny: Vec<String>,
    /// Drop packets whose source can't be where they come from
    #[arg(long)]
    pub drop_spoofed: bool,
    /// New TCP connections of one source, such as 50/s
    #[arg(long, value_name = "RATE")]
    pub source_rate: Option<String>,
    /// New TCP connections of all sources together, such as 5000/s
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// Bytes of the server ids by which QUIC connection ids name backends
    #[arg(long, value_name = "BYTES")]
    pub quic_server_id_length: Option<u32>,
    /// What becomes of packets while no backend takes new flows; default: drop
    #[arg(long, value_name = "WHAT", value_parser = ["drop", "reject", "pass", "fail_static"])]
    pub when_empty: Option<String>,
    /// Put the VIP on this interface
    #[arg(long, value_name = "INTERFACE")]
    pub announce: Option<String>,
    /// A backend, may be given several times; WEIGHT is 1 by default
    #[arg(short, long = "backend", value_name = "ADDRESS[:PORT][=WEIGHT]")]
    pub backends: Vec<String>,
    /// File with a list of further backends, as the daemon sees it
    #[arg(long, value_name = "FILE")]
    pub backends_file: Option<PathBuf>,
    /// Heartbeat: `tcp` (default of a TCP service), `http` or `none`
    #[arg(long, value_name = "KIND")]
    pub check: Option<String>,
    /// What an `http` check asks for
    #[arg(long, value_name = "PATH", requires = "check")]
    pub check_path: Option<String>,
    /// Host header of an `http` check
    #[arg(long, value_name = "HOST", requires = "check")]
    pub check_host: Option<String>,
    /// Status that counts as live: 200 or 200-399
    #[arg(long, value_name = "STATUS", requires = "check")]
    pub check_status: Option<String>,
    /// Port that is checked; default: the backend's
    #[arg(long, value_name = "PORT", requires = "check")]
    pub check_port: Option<u16>,
    /// From one check to the next, such as 250ms or 1s
    #[arg(long, value_name = "TIME", requires = "check")]
    pub check_interval: Option<Span>,
    /// Time after which a check has failed
    #[arg(long, value_name = "TIME", requires = "check")]
    pub check_timeout: Option<Span>,
    /// Passed checks in a row that bring a backend back
    #[arg(long, value_name = "N", requires = "check")]
    pub rise: Option<u32>,
    /// Failed checks in a row that take a backend out
    #[arg(long, value_name = "N", requires = "check")]
    pub fall: Option<u32>,
}

impl AddService {
    /// The same as it would stand in the configuration file.
    pub(super) fn spec(&self) -> Result<ServiceSpec, Failure> {
        let mut spec = Map::new();
        spec.insert("name".into(), json!(self.service));
        spec.insert("vip".into(), json!(self.vip));
        spec.insert("protocol".into(), json!(self.protocol));
        spec.insert("mode".into(), json!(self.mode));
        put(&mut spec, "encap", self.encap.map(|encap| json!(encap)));
        put(&mut spec, "outer_source", self.outer_source.map(|source| json!(source)));
        put(&mut spec, "ports", self.ports.as_ref().map(|ports| json!(ports)));
        put(&mut spec, "hash", (!self.hash.is_empty()).then(|| json!(self.hash)));
        put(&mut spec, "reply_via", self.reply_via.map(|via| json!(via)));
        put(&mut spec, "protect", self.protect());
        put(&mut spec, "quic", self.quic_server_id_length.map(|bytes| json!({ "server_id_length": bytes })));
        put(&mut spec, "when_empty", self.when_empty.as_ref().map(|what| json!(what)));
        put(&mut spec, "announce", self.announce.as_ref().map(|interface| json!({ "address": interface })));
        put(&mut spec, "backends_file", self.backends_file.as_ref().map(|file| json!(file)));
        put(&mut spec, "health", self.health());
        let backends: Result<Vec<_>, Failure> = self.backends.iter().map(|text| backend(text)).collect();
        spec.insert("backends".into(), Value::Array(backends?));
        serde_json::from_value(Value::Object(spec)).map_err(|e| Failure::usage(e.to_string()))
    }

    fn protect(&self) -> Option<Value> {
        let mut protect = Map::new();
        put(&mut protect, "allow", (!self.allow.is_empty()).then(|| json!(self.allow)));
        put(&mut protect, "deny", (!self.deny.is_empty()).then(|| json!(self.deny)));
        put(&mut protect, "spoofed", self.drop_spoofed.then(|| json!(true)));
        put(&mut protect, "source_rate", self.source_rate.as_ref().map(|rate| json!(rate)));
        put(&mut protect, "rate", self.rate.as_ref().map(|rate| json!(rate)));
        (!protect.is_empty()).then_some(Value::Object(protect))
    }

    fn health(&self) -> Option<Value> {
        let mut health = Map::new();
        health.insert("type".into(), json!(self.check.as_ref()?));
        put(&mut health, "path", self.check_path.as_ref().map(|v| json!(v)));
        put(&mut health, "host", self.check_host.as_ref().map(|v| json!(v)));
        put(&mut health, "status", self.check_status.as_ref().map(|v| json!(v)));
        put(&mut health, "port", self.check_port.map(|v| json!(v)));
        put(&mut health, "interval", self.check_interval.map(|v| json!(v)));
        put(&mut health, "timeout", self.check_timeout.map(|v| json!(v)));
        put(&mut health, "rise", self.rise.map(|v| json!(v)));
        put(&mut health, "fall", self.fall.map(|v| json!(v)));
        Some(Value::Object(health))
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

fn backend(text: &str) -> Result<Value, Failure> {
    let Some((address, weight)) = text.split_once('=') else {
        return Ok(json!({ "address": text }));
    };
    let bad = || Failure::usage(format!("`{text}`: `{weight}` is no weight; write a whole number from 0 to 65535"));
    let weight: u16 = weight.parse().map_err(|_| bad())?;
    Ok(json!({ "address": address, "weight": weight }))
}
