//! As written -> as meant. Everything wrong is gathered, so that one look at the errors mends the file.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    diagnostic::{Diagnostic, Place},
    health::resolve_listener,
    placed::Placed,
    resolved::{Api, Config, FlowLog, Instance, Interface, Limits, Log, Nat, NatTimeouts, Service},
    service::resolve_service,
    translated,
    words::Span,
    written,
};
use crate::{
    flow_log::FlowSink,
    model::{Answers, Mode, ServiceName},
};

/// What was found in a text.
#[derive(Debug)]
pub struct Findings<'a> {
    text: &'a str,
    file: Option<&'a Path>,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    /// `text`: what places point into; empty for values that were never written in a file.
    pub fn new(text: &'a str, file: Option<&'a Path>) -> Self {
        Self { text, file, errors: Vec::new(), warnings: Vec::new() }
    }

    pub fn error<T>(&mut self, at: &Placed<T>, message: impl Into<String>, help: impl Into<String>) {
        let d = self.place(at, Diagnostic::new(message, help));
        self.errors.push(d);
    }

    pub fn warn<T>(&mut self, at: &Placed<T>, message: impl Into<String>, help: impl Into<String>) {
        let d = self.place(at, Diagnostic::new(message, help));
        self.warnings.push(d);
    }

    /// The value, or `None` and an error at `at`.
    pub fn ok<T, V, E: ToString>(&mut self, at: &Placed<T>, result: Result<V, E>, help: &str) -> Option<V> {
        result.map_err(|e| self.error(at, e.to_string(), help)).ok()
    }

    fn place<T>(&self, at: &Placed<T>, d: Diagnostic) -> Diagnostic {
        let place = at.place.as_ref().map(|range| Place::of(self.text, range));
        let d = d.at(place);
        match self.file {
            Some(file) => d.in_file(file),
            None => d,
        }
    }
}

/// `None` only with an error in `findings`. Relative paths are relative to `base`.
pub fn resolve(file: &written::File, base: &Path, findings: &mut Findings<'_>) -> Option<Config> {
    let instance = match &file.instance {
        Some(name) => findings.ok(name, name.value.parse(), "")?,
        None => Instance::default(),
    };
    let api = Api {
        socket: file.api.socket.clone().unwrap_or_else(|| instance.default_socket()),
        group: file.api.group.as_ref().map(|g| g.value.clone()),
        heartbeat: file.api.heartbeat.as_ref().and_then(|h| resolve_listener(h, base, findings)),
    };
    if let Some(peers) = file.peers.as_ref().filter(|_| file.hash_key.is_none()) {
        let help = "set the same `hash_key` on every node";
        findings.warn(&peers.value.listen, "without `hash_key` no other node can go on with this node's flows", help);
    }
    Some(Config {
        interfaces: interfaces(&file.interfaces, findings),
        services: services(&file.services, file.peers.is_some(), base, findings),
        kubernetes: file.kubernetes.as_ref().and_then(|k| super::kubernetes::cluster(k, base, findings)).map(Arc::new),
        peers: file.peers.as_ref().and_then(|p| super::peers::resolve(&p.value, base, findings)),
        nat: nat(&file.nat, findings),
        ledger: super::ledger::resolve(&file.ledger, findings),
        limits: limits(&file.limits, findings),
        hash_key: file.hash_key.as_ref().and_then(|k| hash_key(k, findings)),
        bpffs: file.bpffs.clone().unwrap_or_else(|| PathBuf::from("/sys/fs/bpf")),
        state_dir: file.state_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/mesh")),
        api,
        metrics: file.metrics.listen.as_ref().and_then(|l| {
            findings.ok(
                l,
                l.value.parse().map_err(|_| format!("`{l}` is no address to listen on")),
                "write ADDRESS:PORT, such as 127.0.0.1:9470",
            )
        }),
        log: log_levels(&file.log, findings),
        flow_log: flow_log(&file.flow_log, findings),
        instance,
    })
}

fn interfaces(written: &[Placed<super::forms::InterfaceForm>], findings: &mut Findings<'_>) -> Vec<Interface> {
    let mut seen: Vec<Interface> = Vec::new();
    for form in written {
        let written::Interface { name, hook } = &form.value.0;
        // IFNAMSIZ is 16 with the closing zero; the kernel takes neither `/` nor blanks.
        if !(1..=15).contains(&name.value.len()) || name.value.contains(|c: char| c == '/' || c.is_whitespace()) {
            findings.error(form, format!("`{name}` can't be the name of an interface"), "`ip -brief link` lists those that exist");
        } else if seen.iter().any(|i| i.name == name.value) {
            findings.error(form, format!("interface `{name}` is listed twice"), "remove one of the two");
        } else {
            seen.push(Interface { name: name.value.clone(), hook: *hook });
        }
    }
    seen
}

/// `peers`: there are other nodes.
fn services(written: &[Placed<written::Service>], peers: bool, base: &Path, findings: &mut Findings<'_>) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    let mut vips = HashMap::new();
    let mut answering: HashMap<IpAddr, Vec<(Answers, ServiceName)>> = HashMap::new();
    for placed in written {
        let Some(service) = resolve_service(&placed.value, base, findings) else { continue };
        if let Some(other) = vips.insert(service.vip, service.name.clone()) {
            findings.error(
                &placed.value.vip,
                format!("service `{}` has the same VIP {} as service `{other}`", service.name, service.vip),
                "a VIP (address, port and protocol) belongs to one service: change one, or join their backends",
            );
        }
        for endpoint in service.backends.iter().filter(|_| service.mode == Mode::Dnat) {
            let there = answering.entry(endpoint.id.0.ip()).or_default();
            let answers = Answers::of(service.vip, service.ways.ports, endpoint.id);
            let ranges = there.iter().filter(|(a, _)| a.are_several() && a.proto() == service.vip.proto).count();
            if let Some((_, other)) = there.iter().find(|(theirs, name)| *name != service.name && theirs.collide(&answers)) {
                findings.error(
                    &placed.value.name,
                    format!("backend {} stands behind `{other}` and `{}`, which are both `dnat`", endpoint.id, service.name),
                    "an answer from there could be of either: give each ports of its own, or use `nat`",
                );
            } else if answers.are_several() && ranges >= Answers::RANGES {
                findings.error(
                    &placed.value.name,
                    format!("backend {} stands behind more than {} `dnat` services of several ports", endpoint.id.0.ip(), Answers::RANGES),
                    "join some of their ranges, or use `nat`",
                );
            }
            there.push((answers, service.name.clone()));
        }
        if services.contains_key(&service.name) {
            findings.error(&placed.value.name, format!("there are two services `{}`", service.name), "give each its own name");
        }
        if peers {
            super::peers::warn_of_choices(placed, &service, findings);
        }
        services.insert(service.name.clone(), service);
    }
    services
}

fn nat(written: &translated::Nat, findings: &mut Findings<'_>) -> Nat {
    let mut sources: Vec<IpAddr> = Vec::new();
    for text in &written.sources {
        let parsed = text.value.parse().map_err(|_| format!("`{text}` is no address"));
        let Some(addr) = findings.ok(text, parsed, "write an IPv4 or IPv6 address of this node") else { continue };
        if sources.contains(&addr) {
            findings.error(text, format!("source address {addr} is listed twice"), "remove one of the two");
        }
        sources.push(addr);
    }
    let most = mesh_common::abi::NAT_SOURCES;
    if let Some(beyond) = written.sources.get(most) {
        findings.error(beyond, format!("there can be at most {most} source addresses"), "remove some");
    }
    let ports = written.ports.as_ref().map(|ports| super::ports::resolve(ports, findings)).unwrap_or_default();
    Nat { sources, ports, timeouts: nat_timeouts(&written.timeouts, findings) }
}

fn nat_timeouts(written: &translated::NatTimeouts, findings: &mut Findings<'_>) -> NatTimeouts {
    let d = NatTimeouts::default();
    // One tick of the kernel's clock is 134 ms; a day is far within 32 bits of them.
    let mut one = |span: &Option<Placed<Span>>, default: Duration| match span {
        None => default,
        Some(s) if (Duration::from_secs(1)..=Duration::from_hours(24 * 30)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), "write 1s to 30d");
            default
        }
    };
    NatTimeouts {
        half_open: one(&written.half_open, d.half_open),
        established: one(&written.established, d.established),
        closing: one(&written.closing, d.closing),
        closed: one(&written.closed, d.closed),
        udp: one(&written.udp, d.udp),
    }
}

fn limits(written: &written::Limits, findings: &mut Findings<'_>) -> Limits {
    let d = Limits::default();
    let mut one = |limit: &Option<Placed<u32>>, default: u32, range: std::ops::RangeInclusive<u32>, power: bool| match limit {
        None => default,
        Some(n) if range.contains(&n.value) && (!power || n.value.is_power_of_two()) => n.value,
        Some(n) => {
            let kind = if power { "a power of two from" } else { "a number from" };
            findings.error(n, format!("{n} can't be this limit"), format!("write {kind} {} to {}", range.start(), range.end()));
            default
        }
    };
    Limits {
        services: one(&written.services, d.services, 1..=65_535, false),
        slots: one(&written.slots, d.slots, 1024..=1 << 28, false),
        backends: one(&written.backends, d.backends, 16..=1 << 22, false),
        nat_flows: one(&written.nat_flows, d.nat_flows, 1024..=1 << 26, true),
        ledger: one(&written.ledger, d.ledger, 64..=1 << 26, true),
        flows: one(&written.flows, d.flows, 64..=1 << 24, true),
        checks: written.checks.is_some().then(|| one(&written.checks, 4096, 16..=4096, false)),
    }
}

fn hash_key(text: &Placed<String>, findings: &mut Findings<'_>) -> Option<[u64; 2]> {
    let digits = text.value.as_str();
    let parsed = match u128::from_str_radix(digits, 16) {
        Ok(key) if digits.len() == 32 && digits.is_ascii() => Ok([(key >> 64) as u64, key as u64]),
        // The secret itself is kept out of the message.
        _ => Err("the hash key is not 32 hexadecimal digits"),
    };
    findings.ok(text, parsed, "`openssl rand -hex 16` makes one")
}

fn flow_log(written: &written::FlowLog, findings: &mut Findings<'_>) -> Option<FlowLog> {
    let to = match &written.to {
        None => FlowSink::Stdout,
        Some(to) => findings.ok(to, to.value.parse(), "write `stdout`, an absolute path, or `unix:` and the absolute path of a socket")?,
    };
    let sample = written.sample.as_ref().map_or(0, |n| n.value);
    if sample == 0
        && let Some(to) = &written.to
    {
        findings.warn(to, "no flow is logged there", "add `sample: 100` to log one flow in a hundred");
    }
    (sample > 0).then_some(FlowLog { sample, to })
}

fn log_levels(written: &written::Log, findings: &mut Findings<'_>) -> Log {
    let d = Log::default();
    let mut one = |level: &Option<Placed<String>>, default| match level {
        None => default,
        Some(l) => {
            let parsed = l.value.parse().map_err(|_| format!("`{l}` is no log level"));
            findings.ok(l, parsed, "use off, error, warn, info, debug or trace").unwrap_or(default)
        }
    };
    let format = written.format.as_ref().map_or(d.format, |f| f.value);
    Log { level: one(&written.level, d.level), kernel: one(&written.kernel, d.kernel), format }
}
