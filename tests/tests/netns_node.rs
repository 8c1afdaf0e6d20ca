//! All on one node: pods behind veths are clients and backends of its balancer, beside clients from outside. Frames leave by another interface
//! than they came in by.
//!
//! What an XDP program sends into a veth arrives only if the other end has an XDP program too; by TC it arrives anyhow, and pods may leave
//! checksums and segments to be finished later.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged, Process, mesh_binary, peer_binary, wait_for},
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

/// What the node has to be told where it routes answers: in `dsr` and `tunnel` they come from the pod as the VIP's, and in `dnat` as the VIP's from the
/// balancer. The VIP is an address of this node.
fn routes_answers(node: &Host) -> Result<()> {
    node.ns.sysctl("net/ipv4/ip_forward", "1")?;
    node.ns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    for key in ["all", "eth0", "client0", "pod0"] {
        node.ns.sysctl(&format!("net/ipv4/conf/{key}/accept_local"), "1")?;
        node.ns.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")?;
    }
    Ok(())
}

/// Has the pod serve at its own addresses and, where the mode leaves the destination as it is, at the VIPs.
fn serve(pod: &Host, mode: &str) -> Result<Vec<Process>> {
    let mut addresses: Vec<SocketAddr> = vec![(pod.v4, PORT).into(), (pod.v6, PORT).into()];
    let mut running = Vec::new();
    if mode == "tunnel" {
        let mut agent = pod.ns.command(mesh_binary()?);
        agent.args(["agent", "--interface", "eth0", "--vip", VIPS[0], "--vip", VIPS[1]]);
        running.push(Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?);
    }
    for vip in VIPS.into_iter().filter(|_| keeps_destination(mode)) {
        let at: SocketAddr = (vip.parse::<IpAddr>()?, PORT).into();
        if mode == "dsr" {
            pod.own_quietly(at.ip())?;
        }
        // The agent adds them in its own time.
        pod.until_owned(at)?;
        addresses.push(at);
    }
    running.push(Process::spawn(pod.ns.command(peer_binary()?).arg("pod").args(addresses.iter().map(ToString::to_string)))?);
    for at in addresses {
        wait_for("the server answers", || Ok(pod.ns.enter(|| peer::get(at, "/", Duration::from_secs(1)))?.is_ok()))?;
    }
    Ok(running)
}

fn keeps_destination(mode: &str) -> bool {
    matches!(mode, "dsr" | "tunnel")
}

fn config(hook: &str, mode: &str, backend: &Host) -> String {
    let interfaces = ["eth0", "client0", "pod0"].map(|name| format!("{{name: {name}, hook: {hook}}}")).join(", ");
    let mut text = format!("interfaces: [{interfaces}]\nservices:\n");
    for (vip, at) in VIPS.into_iter().zip([IpAddr::from(backend.v4), backend.v6.into()]) {
        let family = if at.is_ipv6() { "6" } else { "4" };
        let backend = if keeps_destination(mode) { at.to_string() } else { SocketAddr::from((at, PORT)).to_string() };
        text += &format!(
            "  - {{name: web{family}, vip: \"{vip}\", port: {}, mode: {mode}, announce: {{address: eth0}}, \
             health: {{type: tcp, interval: 1s, timeout: 1s}}, backends: [\"{backend}\"]}}\n",
            port(mode)
        );
    }
    text
}

fn port(mode: &str) -> u16 {
    if keeps_destination(mode) { PORT } else { 80 }
}

fn balances(group: &str, hook: &str, mode: &str) -> Result<()> {
    let fabric = Fabric::new(group)?;
    let (outside, node) = (fabric.host("outside", 1)?, fabric.host("node", 2)?);
    let xdp = hook == "xdp";
    let (client, backend) = (pod(&node, group, "client0", 1, xdp)?, pod(&node, group, "pod0", 2, xdp)?);
    if mode != "nat" {
        routes_answers(&node)?;
    }
    let _running = serve(&backend, mode)?;
    let daemon = Daemon::start(&node.ns, &config(hook, mode, &backend))?;
    // From outside to a local pod; from pod to pod; and from the backend by way of its own VIP to itself. In `dnat` that would be a packet from itself, which
    // no host believes; where the backend owns the VIP it asks nobody else.
    let mut clients = vec![("outside", &outside), ("a pod", &client)];
    clients.extend((mode != "dnat").then_some(("the backend itself", &backend)));
    for (who, host) in clients {
        for vip in VIPS {
            let to: SocketAddr = (vip.parse::<IpAddr>()?, port(mode)).into();
            let bodies = host.ns.enter(|| -> Result<(String, usize)> {
                Ok((peer::get(to, "/", PATIENCE)?, peer::get(to, "/bytes/2000000", PATIENCE)?.len()))
            })?;
            let (name, bytes) = bodies.with_context(|| format!("{who} to {to} by {hook}")).logged(&daemon)?;
            ensure!((name.as_str(), bytes) == ("pod", 2_000_000), "{who} to {to} by {hook}: `{name}` answered, {bytes} bytes came");
        }
    }
    // All of it came by another interface than it left by, and was sent on by the balancer.
    let status = daemon.json(&["status"])?;
    let sent = status.pointer("/reasons/forwarded/packets").and_then(serde_json::Value::as_u64).unwrap_or(0);
    ensure!(sent > 4 * 20, "the balancer saw {sent} packets: {status}");
    Ok(())
}

#[test]
fn a_node_balances_for_itself_by_xdp() -> Result<()> {
    balances("mesh-node-x", "xdp", "nat")
}

#[test]
fn a_node_balances_for_itself_by_tc() -> Result<()> {
    balances("mesh-node-t", "tc", "nat")
}

#[test]
fn sources_are_kept_on_one_node_by_xdp() -> Result<()> {
    balances("mesh-node-nx", "xdp", "dnat")
}

#[test]
fn sources_are_kept_on_one_node_by_tc() -> Result<()> {
    balances("mesh-node-nt", "tc", "dnat")
}

#[test]
fn pods_own_the_vip_by_xdp() -> Result<()> {
    balances("mesh-node-dx", "xdp", "dsr")
}

#[test]
fn pods_own_the_vip_by_tc() -> Result<()> {
    balances("mesh-node-dt", "tc", "dsr")
}

#[test]
fn pods_are_reached_by_tunnels_by_xdp() -> Result<()> {
    balances("mesh-node-ux", "xdp", "tunnel")
}

#[test]
fn pods_are_reached_by_tunnels_by_tc() -> Result<()> {
    balances("mesh-node-ut", "tc", "tunnel")
}
