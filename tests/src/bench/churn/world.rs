//! A service, with clients that hold connections through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::setting::{self, SERVER_ID};
pub use super::setting::{Protocol, Setting, Way};
use crate::{
    daemon::{Daemon, LIMIT, Process},
    peer::{self, Held, HeldReport, QuicServer, ServerId},
    stage::Stage,
};

/// Backends there are; the last is no member of the service at the start.
pub const BACKENDS: [(&str, u8); 4] = [("b1", 11), ("b2", 12), ("b3", 13), ("b4", 14)];
/// Time for a handshake: generous where a busy machine is slow.
pub const HANDSHAKE: Duration = Duration::from_secs(2);
/// A request that takes longer has broken its connection.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A client, a balancer, four backends and the service `web`.
#[derive(Debug)]
pub struct Churn {
    // Ends before the namespaces that it runs in.
    pub daemon: Daemon,
    agents: Vec<(&'static str, Process)>,
    /// The second of two balancers.
    pub other: Option<Daemon>,
    pub stage: Stage,
    pub vip: SocketAddr,
    way: Way,
    protocols: &'static [Protocol],
    quic: BTreeMap<&'static str, QuicServer>,
    /// The balancers' key, and what agents say.
    folder: tempfile::TempDir,
    config: String,
}

/// The two balancers' addresses, ...
pub const BALANCERS: [&str; 2] = ["10.77.0.2", "10.77.0.3"];
/// ... and those of IPv6.
const BALANCERS_V6: [&str; 2] = ["fd77::2", "fd77::3"];

impl Churn {
    /// `idle`: the longest silence of a flow that is promised to find its backend again.
    pub fn new(group: &str, way: Way, idle: Duration) -> Result<Self> {
        Self::of(group, &Setting::plain(way, idle))
    }

    /// Two balancers that know each other, between which the client's kernel chooses by the flow's addresses and ports.
    pub fn pair(group: &str, way: Way, idle: Duration) -> Result<Self> {
        Self::of(group, &Setting { pair: true, ..Setting::plain(way, idle) })
    }

    /// The same with more lines in the configuration.
    pub fn with(group: &str, way: Way, idle: Duration, lines: &str) -> Result<Self> {
        Self::of(group, &Setting { lines, ..Setting::plain(way, idle) })
    }

    /// Waits until all is at rest and every backend gets its share.
    pub fn of(group: &str, setting: &Setting<'_>) -> Result<Self> {
        let hosts: Vec<_> = BACKENDS.into_iter().chain(setting.pair.then_some(("second", 3))).collect();
        let (mut stage, folder, vip) = (Stage::build(group, &hosts)?, tempfile::tempdir()?, setting.vip());
        let mut agents = Vec::new();
        for (name, _) in BACKENDS {
            stage.serve(name)?;
            agents.extend(setting.prepare(&stage, name, &folder.path().join(name))?.map(|agent| (name, agent)));
            if setting.way.keeps_vip() {
                stage.serve_at(name, vip)?;
            }
        }
        let key = folder.path().join("key");
        std::fs::write(&key, "0123456789abcdef")?;
        let own = |n| if setting.pair { setting::peers(n, &key) } else { String::new() };
        let config = setting.config(&stage)?;
        let text = format!("{}{}{config}", own(0), setting.lines);
        let mut daemon = Daemon::new(&stage.balancer.ns, &text)?;
        daemon.launch()?;
        let mut other = None;
        if setting.pair {
            // One of them answers for the VIP.
            let config = format!("{}{}{}", own(1), setting.lines, config.replace("announce: {address: eth0}, ", ""));
            let second = other.insert(Daemon::new(&stage.backends["second"].ns, &config)?);
            second.launch()?;
            second.wait_ready(LIMIT)?;
        }
        daemon.wait_ready(Duration::from_secs(90))?;
        let (way, protocols, quic) = (setting.way, setting.protocols(), BTreeMap::new());
        let mut churn = Self { daemon, agents, other, stage, vip, way, protocols, quic, folder, config: text };
        BACKENDS.iter().try_for_each(|(name, _)| churn.serve_quic(name))?;
        if setting.pair {
            let key = format!("net/{}/fib_multipath_hash_policy", if setting.v6 { "ipv6" } else { "ipv4" });
            churn.stage.client.ns.sysctl(&key, "1")?;
            churn.route(&BALANCERS)?;
        }
        // From then on flows are promised something.
        std::thread::sleep(HANDSHAKE);
        churn.daemon.until("every backend gets its share of new connections", || {
            let counts = churn.asked(90)?;
            Ok(counts.len() == 3 && counts.values().all(|n| *n >= 15))
        })?;
        Ok(churn)
    }

    /// From now on the client's packets go by these balancers (of [`BALANCERS`]).
    pub fn route(&self, balancers: &[&str]) -> Result<()> {
        let v6 = self.vip.is_ipv6();
        let hop = |address: &&str| {
            let n = BALANCERS.iter().position(|known| known == address).filter(|_| v6);
            format!(" nexthop via {}", n.map_or(*address, |n| BALANCERS_V6[n]))
        };
        let hops: String = balancers.iter().map(hop).collect();
        let (family, bits) = if v6 { ("-6 ", 128) } else { ("", 32) };
        self.stage.client.ns.ip(&format!("{family}route replace {}/{bits}{hops}", self.vip.ip()))
    }

    /// `mesh backend ...` on all balancers, one after the other, and for all services where it is said for `web`.
    pub fn order(&self, words: &[&str]) -> Result<()> {
        [Some(&self.daemon), self.other.as_ref()].into_iter().flatten().try_for_each(|daemon| self.order_at(daemon, words))
    }

    /// The same on one of them.
    pub fn order_at(&self, daemon: &Daemon, words: &[&str]) -> Result<()> {
        for protocol in self.protocols {
            let words = words.iter().map(|word| if *word == "web" { protocol.service() } else { word });
            daemon.ok(&["backend"].into_iter().chain(words).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    pub fn protocols(&self) -> &'static [Protocol] {
        self.protocols
    }

    /// Address of a backend's host, as services name it.
    pub fn address(&self, name: &str) -> Result<String> {
        Ok(self.stage.address(name, self.vip.is_ipv6())?.ip().to_string())
    }

    /// Each backend's agent, and the file that holds what it says.
    pub fn agents(&self) -> impl Iterator<Item = (&Process, std::path::PathBuf)> {
        self.agents.iter().map(|(name, agent)| (agent, Path::join(self.folder.path(), name)))
    }

    /// Gives the service these keys more than it had at the start (`name: value, `), in place of those that it was given last.
    pub fn configure(&self, keys: &str) -> Result<()> {
        self.daemon.write_config(&self.config.replace("slots: 256, ", &format!("slots: 256, {keys}")))?;
        self.daemon.ok(&["reload"]).map(drop)
    }

    /// Connections that are asked in turn, with so long a pause after each turn.
    pub fn hold(&self, count: usize, pause: Duration) -> Result<Held> {
        self.hold_by(Protocol::Tcp, count, pause)
    }

    /// The same by TCP or UDP.
    pub fn hold_by(&self, protocol: Protocol, count: usize, pause: Duration) -> Result<Held> {
        let open = if protocol == Protocol::Udp { Held::open_udp } else { Held::open };
        open(&self.stage.client.ns, self.vip, count, pause, PATIENCE)
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

    /// Where this protocol's clients find their service.
    pub fn at(&self, protocol: Protocol) -> SocketAddr {
        SocketAddr::new(self.vip.ip(), protocol.port())
    }

    /// Kills a backend's servers.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.quic.remove(name);
        self.stage.kill(name)
    }

    /// Starts a backend again that was killed.
    pub fn revive(&mut self, name: &'static str) -> Result<()> {
        self.stage.serve(name)?;
        if self.way.keeps_vip() {
            self.stage.serve_at(name, self.vip)?;
        }
        self.serve_quic(name)
    }

    /// Has a backend serve QUIC, where there is such a service.
    fn serve_quic(&mut self, name: &'static str) -> Result<()> {
        if !self.protocols.contains(&Protocol::Quic) {
            return Ok(());
        }
        let number = BACKENDS.iter().find(|(known, _)| *known == name).with_context(|| format!("no backend {name}"))?.1;
        let own = if self.way.keeps_vip() { self.vip } else { self.stage.address(name, self.vip.is_ipv6())? };
        let (at, id) = (SocketAddr::new(own.ip(), Protocol::Quic.port()), ServerId { id: number.into(), length: SERVER_ID });
        self.quic.insert(name, QuicServer::start(&self.stage.backends[name].ns, name, at, Some(id))?);
        Ok(())
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

/// All connections are as they were.
pub fn unbroken(reports: &[HeldReport]) -> Result<()> {
    let broken: Vec<_> = reports.iter().filter_map(|r| Some((&r.owner, r.requests, r.broken.as_ref()?))).collect();
    ensure!(!reports.is_empty() && broken.is_empty(), "{} of {} connections broke: {broken:?}", broken.len(), reports.len());
    Ok(())
}
