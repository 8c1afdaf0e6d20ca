//! All on one node: pods behind veths are clients and backends of its balancer, beside clients from outside. Frames leave by another interface
//! than they came in by.
//!
//! What an XDP program sends into a veth arrives only if the other end has an XDP program too; by TC it arrives anyhow, and pods may leave
//! checksums and segments to be finished later.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Process, peer_binary},
    netns::{Fabric, Host, Namespace, tx_checksum_off},
    peer,
};

const PATIENCE: Duration = Duration::from_secs(20);
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
const PORT: u16 = 8080;

/// A namespace behind `veth` of the node, with addresses of a subnet of its own.
fn pod(node: &Host, group: &str, veth: &str, subnet: u8, xdp: bool) -> Result<Host> {
    let ns = Namespace::new(group, veth)?;
    node.ns.ip(&format!("link add {veth} type veth peer name eth0 netns {}", ns.name()))?;
    let v4 = |n| Ipv4Addr::new(10, 78, subnet, n);
    let v6 = |n| Ipv6Addr::new(0xfd78, subnet.into(), 0, 0, 0, 0, 0, n);
    node.ns.ip(&format!("address add {}/24 dev {veth}", v4(1)))?;
    node.ns.ip(&format!("address add {}/64 dev {veth} nodad", v6(1)))?;
    node.ns.ip(&format!("link set {veth} up"))?;
    ns.ip(&format!("address add {}/24 dev eth0", v4(2)))?;
    ns.ip(&format!("address add {}/64 dev eth0 nodad", v6(2)))?;
    ns.ip("link set eth0 up")?;
    ns.ip(&format!("route add default via {}", v4(1)))?;
    ns.ip(&format!("-6 route add default via {}", v6(1)))?;
    let pod = Host { ns, v4: v4(2), v6: v6(2) };
    if xdp {
        pod.occupy_xdp()?;
        pod.ns.enter(|| tx_checksum_off("eth0"))??;
        node.ns.enter(|| tx_checksum_off(veth))??;
    }
    Ok(pod)
}

fn serve(pod: &Host) -> Result<Process> {
    let addresses: [SocketAddr; 2] = [(pod.v4, PORT).into(), (pod.v6, PORT).into()];
    let server = Process::spawn(pod.ns.command(peer_binary()?).arg("pod").args(addresses.map(|a| a.to_string())))?;
    let end = Instant::now() + PATIENCE;
    while pod.ns.enter(|| peer::get(addresses[1], "/", Duration::from_secs(1)))?.is_err() {
        ensure!(Instant::now() < end, "the server does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(server)
}

fn config(hook: &str, backend: &Host) -> String {
    let interfaces = ["eth0", "client0", "pod0"].map(|name| format!("{{name: {name}, hook: {hook}}}")).join(", ");
    let mut text = format!("interfaces: [{interfaces}]\nservices:\n");
    for (vip, at) in VIPS.into_iter().zip([IpAddr::from(backend.v4), backend.v6.into()]) {
        let family = if at.is_ipv6() { "6" } else { "4" };
        text += &format!(
            "  - {{name: web{family}, vip: \"{vip}\", port: 80, announce: {{address: eth0}}, health: {{type: tcp, interval: 1s, timeout: 1s}}, \
             backends: [\"{}\"]}}\n",
            SocketAddr::from((at, PORT))
        );
    }
    text
}

fn balances(group: &str, hook: &str) -> Result<()> {
    let fabric = Fabric::new(group)?;
    let (outside, node) = (fabric.host("outside", 1)?, fabric.host("node", 2)?);
    let xdp = hook == "xdp";
    let (client, backend) = (pod(&node, group, "client0", 1, xdp)?, pod(&node, group, "pod0", 2, xdp)?);
    let _server = serve(&backend)?;
    let daemon = Daemon::start(&node.ns, &config(hook, &backend))?;
    // From outside to a local pod; from pod to pod; and from the backend by way of its own VIP to itself.
    for (who, host) in [("outside", &outside), ("a pod", &client), ("the backend itself", &backend)] {
        for vip in VIPS {
            let to: SocketAddr = (vip.parse::<IpAddr>()?, 80).into();
            let bodies = host.ns.enter(|| -> Result<(String, usize)> {
                Ok((peer::get(to, "/", PATIENCE)?, peer::get(to, "/bytes/2000000", PATIENCE)?.len()))
            })?;
            let (name, bytes) = bodies.with_context(|| format!("{who} to {to} by {hook}; log of the daemon:\n{}", daemon.log()))?;
            ensure!((name.as_str(), bytes) == ("pod", 2_000_000), "{who} to {to} by {hook}: `{name}` answered, {bytes} bytes came");
        }
    }
    Ok(())
}

#[test]
fn a_node_balances_for_itself_by_xdp() -> Result<()> {
    balances("mesh-node-x", "xdp")
}

#[test]
fn a_node_balances_for_itself_by_tc() -> Result<()> {
    balances("mesh-node-t", "tc")
}
