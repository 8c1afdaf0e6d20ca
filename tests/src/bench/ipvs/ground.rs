//! A client that drops what it gets, and a balancer, on two ends of a veth.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};

use super::{Way, Who, service};
use crate::{
    daemon::Daemon,
    netns::{Namespace, run, tx_checksum_off, xdp_pass},
};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub const PORT: u16 = 80;
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const BACKENDS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(10, 1, 0, 11), Ipv4Addr::new(10, 1, 0, 12), Ipv4Addr::new(10, 1, 0, 13), Ipv4Addr::new(10, 1, 0, 14)];
const MACS: [&str; 2] = ["02:00:00:00:01:01", "02:00:00:00:01:02"];

/// Both ends, and what is loaded on the balancer. Ends with this value.
#[derive(Debug)]
pub struct Ground {
    _daemon: Option<Daemon>,
    _balancer: Namespace,
    pub client: Namespace,
}

impl Ground {
    /// The client has the backends' addresses as well, until all is set up.
    pub fn build(group: &str, who: Who, way: Option<Way>) -> Result<Self> {
        let (client, balancer) = (Namespace::new(group, "client")?, Namespace::new(group, "balancer")?);
        client.ip(&format!("link add eth0 address {} type veth peer name eth0 address {} netns {}", MACS[0], MACS[1], balancer.name()))?;
        for (ns, address) in [(&client, CLIENT), (&balancer, BALANCER)] {
            ns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
            ns.ip(&format!("address add {address}/24 dev eth0"))?;
            ns.ip("link set eth0 up")?;
            ns.enter(|| tx_checksum_off("eth0"))??;
        }
        for backend in BACKENDS {
            client.ip(&format!("address add {backend}/24 dev eth0"))?;
        }
        let mut daemon = None;
        match (who, way) {
            (Who::MeshXdp, Some(way)) => daemon = Some(mesh(&balancer, "xdp", way)?),
            (Who::MeshTc, Some(way)) => daemon = Some(mesh(&balancer, "tc", way)?),
            (Who::Ipvs, Some(way)) => ipvs(&balancer, way)?,
            _ => balancer.enter(|| xdp_pass::attach_drop(if_nametoindex("eth0")?))??,
        }
        client.ip(&format!("neighbor replace {VIP} lladdr {} dev eth0 nud permanent", MACS[1]))?;
        client.enter(|| xdp_pass::attach_drop(if_nametoindex("eth0")?))??;
        Ok(Self { _daemon: daemon, _balancer: balancer, client })
    }

    /// Packets that came back to the client so far.
    pub fn arrived(&self) -> Result<u64> {
        let text = self.client.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:")).context("the client has no eth0")?;
        // Bytes, then packets (proc(5)).
        line.split_whitespace().nth(1).context("no counter of packets")?.parse().context("no number of packets")
    }
}

/// mesh, whose daemon ends as soon as all is published.
fn mesh(balancer: &Namespace, hook: &str, way: Way) -> Result<Daemon> {
    let mode = match way {
        Way::Nat => "nat",
        Way::Dsr => "dsr",
        Way::Tunnel => "tunnel",
    };
    let backends: Vec<String> = BACKENDS.iter().map(|b| format!("'{b}:{PORT}'")).collect();
    let config = format!(
        "interfaces: [{{name: eth0, hook: {hook}}}]\nlimits: {{services: 4, slots: 65536, backends: 64, nat_flows: 65536}}\n\
         services:\n- {{name: web, vip: '{}', mode: {mode}, announce: {{address: eth0}}, health: none, backends: [{}]}}\n",
        service(),
        backends.join(", ")
    );
    let mut daemon = Daemon::start(balancer, &config)?;
    daemon.until("the way to every backend is known", || {
        let all = daemon.json(&["backend", "ls"])?;
        Ok(all.as_array().is_some_and(|all| all.len() == BACKENDS.len() && all.iter().all(|b| b["state"] == "active")))
    })?;
    daemon.stop(Signal::SIGKILL)?;
    Ok(daemon)
}

fn ipvs(balancer: &Namespace, way: Way) -> Result<()> {
    balancer.sysctl("net/ipv4/ip_forward", "1")?;
    for key in ["all", "eth0"] {
        balancer.sysctl(&format!("net/ipv4/conf/{key}/send_redirects"), "0")?;
    }
    balancer.ip(&format!("address add {VIP}/24 dev eth0"))?;
    let service = service().to_string();
    run(balancer.command("ipvsadm").args(["-A", "-t", &service, "-s", "rr"]))?;
    let how = match way {
        Way::Nat => "-m",
        Way::Dsr => "-g",
        Way::Tunnel => "-i",
    };
    for backend in BACKENDS {
        balancer.ip(&format!("neighbor replace {backend} lladdr {} dev eth0 nud permanent", MACS[0]))?;
        run(balancer.command("ipvsadm").args(["-a", "-t", &service, "-r", &format!("{backend}:{PORT}"), how]))?;
    }
    Ok(())
}
