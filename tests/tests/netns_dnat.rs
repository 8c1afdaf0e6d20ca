//! `dnat`: real TCP and UDP whose answers come back through the balancer, by the service's router or by the host's own routes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged},
    peer,
    stage::Stage,
};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const PATIENCE: Duration = Duration::from_secs(20);
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];

/// Who routes answers on from the balancer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    /// The service's next hop; the client is its own router here.
    Via,
    /// The balancer's kernel.
    Host,
}

fn config(stage: &Stage, hook: &str, back: Back) -> Result<String> {
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if back == Back::Via { format!("reply_via: \"{client}\", ") } else { String::new() };
        for protocol in ["tcp", "udp"] {
            let family = if v6 { "6" } else { "4" };
            let backends = BACKENDS.iter().map(|(name, _)| Ok(format!("\"{}\"", stage.address(name, v6)?)));
            text += &format!(
                "  - {{name: {protocol}{family}, vip: \"{vip}\", port: 80, protocol: {protocol}, mode: dnat, {via}announce: {{address: eth0}}, \
                 health: {{type: tcp, interval: 1s, timeout: 1s}}, backends: [{}]}}\n",
                backends.collect::<Result<Vec<_>>>()?.join(", ")
            );
        }
    }
    Ok(text)
}

/// What has to be configured by hand: backends' routes to clients, and what a router needs.
fn routes(stage: &Stage, back: Back) -> Result<()> {
    for host in stage.backends.values() {
        host.lead_back(stage.client.addresses(), &stage.balancer)?;
    }
    if back == Back::Host {
        let balancer = &stage.balancer.ns;
        balancer.sysctl("net/ipv4/ip_forward", "1")?;
        balancer.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        for key in ["all", "eth0"] {
            // The VIP is an address of this host, and answers come in as if from it.
            balancer.sysctl(&format!("net/ipv4/conf/{key}/accept_local"), "1")?;
            balancer.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")?;
            balancer.sysctl(&format!("net/ipv4/conf/{key}/send_redirects"), "0")?;
        }
    }
    Ok(())
}

fn all_answer(stage: &Stage, to: SocketAddr) -> Result<()> {
    let ask = |i| peer::get(to, "/", PATIENCE).with_context(|| format!("request {i} to {to}"));
    let who = stage.client.ns.enter(|| (0..40).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of 40 requests to {to} only {who:?} answered");
    let body = stage.client.ns.enter(|| peer::get(to, "/bytes/2000000", PATIENCE))??;
    ensure!(body.len() == 2_000_000, "{} bytes of 2,000,000", body.len());
    Ok(())
}

fn all_answer_udp(stage: &Stage, to: SocketAddr) -> Result<()> {
    let ask = |i| peer::ask_udp(to, &format!("question {i}"), 1, PATIENCE);
    let who = stage.client.ns.enter(|| (0..40).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of 40 datagrams to {to} only {who:?} answered");
    Ok(())
}

fn translates(group: &str, hook: &str, back: Back) -> Result<()> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
    }
    routes(&stage, back)?;
    // It is ready when probes were answered: answers to this node itself are not reversed.
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, back)?)?;
    for vip in VIPS {
        let to: SocketAddr = (vip.parse::<IpAddr>()?, 80).into();
        all_answer(&stage, to).and_then(|()| all_answer_udp(&stage, to)).with_context(|| format!("{to} by {hook}")).logged(&daemon)?;
    }
    let status = daemon.json(&["status"])?;
    let replied = status.pointer("/reasons/replied/packets").and_then(Value::as_u64).unwrap_or(0);
    ensure!(replied > 2 * (40 * 4 + 40), "the balancer saw too few answers: {status}");
    Ok(())
}

#[test]
fn answers_go_by_the_services_router_by_xdp() -> Result<()> {
    translates("mesh-dnat-via", "xdp", Back::Via)
}

#[test]
fn answers_go_by_the_hosts_routes_by_xdp() -> Result<()> {
    translates("mesh-dnat-host", "xdp", Back::Host)
}

#[test]
fn answers_go_by_the_services_router_by_tc() -> Result<()> {
    translates("mesh-dnat-v-tc", "tc", Back::Via)
}

#[test]
fn answers_go_by_the_hosts_routes_by_tc() -> Result<()> {
    translates("mesh-dnat-k-tc", "tc", Back::Host)
}
