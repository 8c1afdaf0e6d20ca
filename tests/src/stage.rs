//! A client, a balancer and backends, and what runs on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    daemon::{Process, mesh_binary, peer_binary},
    netns::{Fabric, Host, Namespace},
    peer,
};

pub const PORT: u16 = 8080;

/// Client, balancer and backends on one Ethernet.
#[derive(Debug)]
pub struct Stage {
    // Servers end before the namespaces that they run in.
    servers: BTreeMap<&'static str, Vec<Process>>,
    pub backends: BTreeMap<&'static str, Host>,
    pub client: Host,
    pub balancer: Host,
    fabric: Fabric,
}

impl Stage {
    /// `backends`: name and host number.
    pub fn build(group: &str, backends: &[(&'static str, u8)]) -> Result<Self> {
        let fabric = Fabric::new(group)?;
        let client = fabric.host("client", 1)?;
        let balancer = fabric.host("balancer", 2)?;
        let backends = backends.iter().map(|&(name, n)| Ok((name, fabric.host(name, n)?))).collect::<Result<_>>()?;
        Ok(Self { servers: BTreeMap::new(), backends, client, balancer, fabric })
    }

    /// Starts a backend's servers on its own addresses, IPv4 and IPv6, and waits until they answer.
    pub fn serve(&mut self, name: &'static str) -> Result<()> {
        for v6 in [false, true] {
            self.serve_at(name, self.address(name, v6)?)?;
        }
        Ok(())
    }

    /// Starts one server of a backend at an address that its host owns, and waits until it answers.
    pub fn serve_at(&mut self, name: &'static str, listen: SocketAddr) -> Result<()> {
        self.serve_at_all(name, &[listen])
    }

    /// Starts one server of a backend at addresses that its host owns, and waits until it answers at the last of them.
    pub fn serve_at_all(&mut self, name: &'static str, listen: &[SocketAddr]) -> Result<()> {
        let host = self.backends.get(name).with_context(|| format!("no host {name}"))?;
        let server = Process::spawn(host.ns.command(peer_binary()?).arg(name).args(listen.iter().map(ToString::to_string)))?;
        self.servers.entry(name).or_default().push(server);
        let last = *listen.last().context("a server needs an address")?;
        let end = Instant::now() + Duration::from_secs(10);
        while host.ns.enter(|| peer::get(last, "/", Duration::from_secs(1)))?.is_err() {
            ensure!(Instant::now() < end, "the server of {name} at {last} does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Makes these backends own a VIP, and serve at it, as modes want it that do not translate: by an agent where it comes through a `tunnel`. What is
    /// returned runs beside them.
    pub fn serve_vip(&mut self, names: &[&'static str], vip: SocketAddr, tunnel: bool) -> Result<Vec<Process>> {
        let mut agents = Vec::new();
        for name in names {
            let host = self.backends.get(name).with_context(|| format!("no host {name}"))?;
            if tunnel {
                let mut agent = host.ns.command(mesh_binary()?);
                agent.args(["agent", "--interface", "eth0", "--vip", &vip.ip().to_string()]);
                agents.push(Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?);
            } else {
                host.own_quietly(vip.ip())?;
            }
            host.until_owned(vip)?;
            self.serve_at(name, vip)?;
        }
        Ok(agents)
    }

    /// Kills a backend's servers (SIGKILL).
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.servers.remove(name).with_context(|| format!("no server {name}"))?.iter_mut().try_for_each(Process::kill)
    }

    /// The namespace of the Ethernet. The port of host number N is called `pN`.
    pub fn switch(&self) -> &Namespace {
        self.fabric.switch()
    }

    /// Where a backend's connections come from: the other end of each that its server has.
    pub fn peers_of(&self, name: &str) -> Result<BTreeSet<SocketAddr>> {
        let host = self.backends.get(name).with_context(|| format!("no host {name}"))?;
        let output = host.ns.command("ss").args(["-Htn", "state", "established", "sport", "=", &format!(":{PORT}")]).output()?;
        ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let peers = text.lines().filter_map(|line| line.split_whitespace().last());
        peers.map(|peer| peer.parse().with_context(|| format!("`{peer}` is no address"))).collect()
    }

    /// Address that a backend serves at.
    pub fn address(&self, name: &str, v6: bool) -> Result<SocketAddr> {
        let host = self.backends.get(name).with_context(|| format!("no host {name}"))?;
        Ok(if v6 { (host.v6, PORT).into() } else { (host.v4, PORT).into() })
    }

    /// Leaves everything behind when this value goes.
    pub fn keep(&mut self) {
        self.servers.values_mut().flatten().for_each(Process::keep);
        let hosts = self.backends.values_mut().chain([&mut self.client, &mut self.balancer]);
        hosts.for_each(|host| host.ns.keep());
        self.fabric.keep();
    }
}
