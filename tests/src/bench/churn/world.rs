//! A service that nobody translates, with clients that hold connections through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;

use crate::{
    daemon::{Daemon, LIMIT, Process, mesh_binary},
    netns::Host,
    peer::{self, Held, HeldReport},
    stage::Stage,
};

/// Backends there are; the last is no member of the service at the start.
pub const BACKENDS: [(&str, u8); 4] = [("b1", 11), ("b2", 12), ("b3", 13), ("b4", 14)];
/// Time for a handshake: generous where a busy machine is slow.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A request that takes longer has broken its connection.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How packets reach a backend: all but the first leave them as they are, so that the backend has to own the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    Nat,
    Dsr,
    Tunnel,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A client, a balancer, four backends and the service `web`.
#[derive(Debug)]
pub struct Churn {
    // Ends before the namespaces that it runs in.
    pub daemon: Daemon,
    _agents: Vec<Process>,
    /// The second of two balancers.
    pub other: Option<Daemon>,
    pub stage: Stage,
    pub vip: SocketAddr,
    way: Way,
    _key: Option<tempfile::TempDir>,
    config: String,
}

/// The two balancers' addresses.
pub const BALANCERS: [&str; 2] = ["10.77.0.2", "10.77.0.3"];

impl Churn {
    /// `idle`: the longest silence of a flow that is promised to find its backend again.
    pub fn new(group: &str, way: Way, idle: Duration) -> Result<Self> {
        Self::with(group, way, idle, "")
    }

    /// Two balancers that know each other, between which the client's kernel chooses by the flow's addresses and ports.
    pub fn pair(group: &str, way: Way, idle: Duration) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        std::fs::write(&key, "0123456789abcdef")?;
        let lines = |n: usize| {
            format!(
                "hash_key: 000102030405060708090a0b0c0d0e0f\npeers: {{listen: '{}:7946', nodes: ['{}:7946'], key_file: '{}', interval: 50ms, lost: 1s}}\n",
                BALANCERS[n],
                BALANCERS[1 - n],
                key.display()
            )
        };
        let mut churn = Self::build(group, way, idle, &lines(0), Some(&lines(1)))?;
        churn._key = Some(folder);
        churn.stage.client.ns.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        churn.route(&BALANCERS)?;
        Ok(churn)
    }

    /// From now on the client's packets go by these balancers.
    pub fn route(&self, balancers: &[&str]) -> Result<()> {
        let hops: String = balancers.iter().map(|address| format!(" nexthop via {address}")).collect();
        self.stage.client.ns.ip(&format!("route replace {}/32{hops}", self.vip.ip()))
    }

    /// `mesh backend ...` on all balancers, one after the other.
    pub fn order(&self, words: &[&str]) -> Result<()> {
        let words = [&["backend"], words].concat();
        [Some(&self.daemon), self.other.as_ref()].into_iter().flatten().try_for_each(|daemon| daemon.ok(&words).map(drop))
    }

    /// The same with more lines in the configuration.
    pub fn with(group: &str, way: Way, idle: Duration, lines: &str) -> Result<Self> {
        Self::build(group, way, idle, lines, None)
    }

    fn build(group: &str, way: Way, idle: Duration, lines: &str, second: Option<&str>) -> Result<Self> {
        let hosts: Vec<_> = BACKENDS.into_iter().chain(second.map(|_| ("second", 3))).collect();
        let mut stage = Stage::build(group, &hosts)?;
        let vip: SocketAddr = "10.77.0.100:8080".parse()?;
        let mut agents = Vec::new();
        for (name, _) in BACKENDS {
            stage.serve(name)?;
            let host = &stage.backends[name];
            match way {
                Way::Nat => continue,
                Way::Dsr => host.own_quietly(vip.ip())?,
                Way::Tunnel => {
                    let mut agent = host.ns.command(mesh_binary()?);
                    agent.args(["agent", "--interface", "eth0", "--vip", &vip.ip().to_string()]);
                    agents.push(Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?);
                    until_owned(host, vip)?;
                }
            }
            stage.serve_at(name, vip)?;
        }
        let mut members = String::new();
        for (name, _) in &BACKENDS[..3] {
            members += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, false)?);
        }
        let config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nledger: {{handshake: {}s, idle: {}s, patience: 1s}}\nservices:\n  \
             - {{name: web, vip: '{vip}', mode: {}, slots: 256, announce: {{address: eth0}}, \
             health: {{type: tcp, interval: 500ms, timeout: 5s}}, backends: [{members}]}}\n",
            HANDSHAKE.as_secs(),
            idle.as_secs(),
            way.name()
        );
        let text = format!("{lines}{config}");
        let mut daemon = Daemon::new(&stage.balancer.ns, &text)?;
        daemon.launch()?;
        let mut other = match second {
            // One of them answers for the VIP.
            Some(lines) => {
                Some(Daemon::new(&stage.backends["second"].ns, &(lines.to_owned() + &config.replace("announce: {address: eth0}, ", "")))?)
            }
            None => None,
        };
        if let Some(other) = &mut other {
            other.launch()?;
            other.wait_ready(LIMIT)?;
        }
        daemon.wait_ready(Duration::from_secs(90))?;
        let churn = Self { daemon, _agents: agents, other, stage, vip, way, _key: None, config: text };
        // From then on flows are promised something.
        std::thread::sleep(HANDSHAKE);
        churn.daemon.until("every backend gets its share of new connections", || {
            let counts = churn.asked(90)?;
            Ok(counts.len() == 3 && counts.values().all(|n| *n >= 15))
        })?;
        Ok(churn)
    }

    /// Gives the service these keys more than it had at the start (`name: value, `), in place of those that it was given last.
    pub fn configure(&self, keys: &str) -> Result<()> {
        self.daemon.write_config(&self.config.replace("slots: 256, ", &format!("slots: 256, {keys}")))?;
        self.daemon.ok(&["reload"]).map(drop)
    }

    /// Connections that are asked in turn, with so long a pause after each turn.
    pub fn hold(&self, count: usize, pause: Duration) -> Result<Held> {
        Held::open(&self.stage.client.ns, self.vip, count, pause, PATIENCE)
    }

    /// Who answers new connections.
    pub fn owners(&self, count: usize) -> Result<BTreeSet<String>> {
        Ok(self.asked(count)?.into_keys().collect())
    }

    /// How many of so many new connections each backend answers.
    pub fn asked(&self, count: usize) -> Result<BTreeMap<String, usize>> {
        let vip = self.vip;
        let answers = self.stage.client.ns.enter(|| (0..count).map(|_| peer::get(vip, "/", PATIENCE)).collect::<Result<Vec<_>, _>>())??;
        let mut counts = BTreeMap::new();
        answers.into_iter().for_each(|who| *counts.entry(who).or_default() += 1);
        Ok(counts)
    }

    /// Waits until new connections do (or do not) reach this backend.
    pub fn until_new_reach(&self, name: &str, reached: bool) -> Result<()> {
        let what = format!("new connections {} {name}", if reached { "reach" } else { "do not reach" });
        self.daemon.until(&what, || Ok(self.owners(40)?.contains(name) == reached))
    }

    /// Ends the daemon with this signal and starts it again; what it has loaded and pinned is adopted.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.daemon.stop(signal)?;
        self.daemon.launch()?;
        self.daemon.wait_ready(LIMIT)
    }

    /// Number that the kernel gave the program behind the balancer's link.
    pub fn program(&self) -> Result<u64> {
        let output = self.stage.balancer.ns.command("ip").args(["-j", "link", "show", "dev", "eth0"]).output()?;
        let links: Value = serde_json::from_slice(&output.stdout).context("`ip -j link` printed no JSON")?;
        links[0]["xdp"]["prog"]["id"].as_u64().with_context(|| format!("no XDP program is attached: {links}"))
    }

    /// Starts a backend again that was killed.
    pub fn revive(&mut self, name: &'static str) -> Result<()> {
        self.stage.serve(name)?;
        if self.way == Way::Nat { Ok(()) } else { self.stage.serve_at(name, self.vip) }
    }

    /// Waits until nothing is on its way any more.
    pub fn rest(&self) -> Result<()> {
        let rested = self.daemon.until("every slot is at rest", || Ok(self.moving()? == 0));
        rested.with_context(|| self.daemon.ok(&["ledger", "ls"]).unwrap_or_default())
    }

    pub fn ledger(&self) -> Result<Value> {
        Ok(self.daemon.json(&["status"])?["ledger"].clone())
    }

    /// Slots that are on their way.
    pub fn moving(&self) -> Result<u64> {
        self.ledger()?["moving"].as_u64().context("the status tells of no ledger")
    }
}

/// Waits until the agent has added the VIP, so that a server can listen on it.
fn until_owned(host: &Host, vip: SocketAddr) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let address = vip.ip().to_string();
    while host.ns.command("ip").args(["-o", "address", "show", "dev", "lo", "to", &address]).output()?.stdout.is_empty() {
        ensure!(Instant::now() < end, "the agent does not add {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// All connections are as they were.
pub fn unbroken(reports: &[HeldReport]) -> Result<()> {
    let broken: Vec<_> = reports.iter().filter_map(|r| Some((&r.owner, r.requests, r.broken.as_ref()?))).collect();
    ensure!(!reports.is_empty() && broken.is_empty(), "{} of {} connections broke: {broken:?}", broken.len(), reports.len());
    Ok(())
}
