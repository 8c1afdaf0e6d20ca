//! The hosts of the demo and what runs on them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    daemon::{Process, peer_binary},
    netns::{Fabric, Host},
    peer,
};

pub const PORT: u16 = 8080;

/// Client, balancer and backends on one Ethernet.
#[derive(Debug)]
pub struct Stage {
    // Servers end before the namespaces that they run in.
    servers: BTreeMap<&'static str, [Process; 2]>,
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

    /// Starts a backend's servers (IPv4 and IPv6) and waits until they answer.
    pub fn serve(&mut self, name: &'static str) -> Result<()> {
        let host = self.backends.get(name).with_context(|| format!("no host {name}"))?;
        let start = |addr: IpAddr| {
            let listen = SocketAddr::new(addr, PORT);
            Process::spawn(host.ns.command(peer_binary()?).arg(name).arg(listen.to_string()))
        };
        self.servers.insert(name, [start(host.v4.into())?, start(host.v6.into())?]);
        let end = Instant::now() + Duration::from_secs(10);
        for addr in [IpAddr::from(host.v4), host.v6.into()] {
            while host.ns.enter(|| peer::get((addr, PORT).into(), "/", Duration::from_secs(1)))?.is_err() {
                ensure!(Instant::now() < end, "the server of {name} does not answer");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// Kills a backend's servers (SIGKILL).
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.servers.get_mut(name).with_context(|| format!("no server {name}"))?.iter_mut().try_for_each(Process::kill)
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
