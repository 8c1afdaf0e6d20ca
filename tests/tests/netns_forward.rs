//! Real TCP and UDP through the loaded program, every mode and family.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged},
    peer::{self, Held},
    stage::{PORT, Stage},
};
use serde_json::Value;

const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
const PATIENCE: Duration = Duration::from_secs(20);
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];

fn stage(group: &str) -> Result<Stage> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
    }
    Ok(stage)
}

/// Services for TCP and UDP, IPv4 and IPv6. In `dsr` the backend listens on the VIP and its port.
fn config(stage: &Stage, hook: &str, mode: &str) -> Result<String> {
    let port = if mode == "dsr" { PORT } else { 80 };
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        for protocol in ["tcp", "udp"] {
            let family = if v6 { "6" } else { "4" };
            text += &format!(
                "  - {{name: {protocol}{family}, vip: \"{vip}\", port: {port}, protocol: {protocol}, mode: {mode}, announce: {{address: eth0}}, \
                 health: {{type: tcp, port: {PORT}, interval: 1s, timeout: 1s}}, backends: ["
            );
            for (name, _) in BACKENDS {
                text += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, v6)?);
            }
            text += "]}\n";
        }
    }
    Ok(text)
}

fn vip(vip: &str, port: u16) -> Result<SocketAddr> {
    Ok((vip.parse::<IpAddr>()?, port).into())
}

/// All of these requests must be answered, and every backend must have answered some.
fn all_answer(stage: &Stage, to: SocketAddr, tries: usize) -> Result<()> {
    let ask = |i| peer::get(to, "/", PATIENCE).with_context(|| format!("request {i} to {to}"));
    let who = stage.client.ns.enter(|| (0..tries).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of {tries} requests to {to} only {who:?} answered");
    Ok(())
}

/// The same by UDP: each datagram from a new socket, and the answer must come from the VIP (the socket is connected).
fn all_answer_udp(stage: &Stage, to: SocketAddr, tries: usize) -> Result<()> {
    let ask = |i| peer::ask_udp(to, &format!("question {i}"), 2, PATIENCE);
    let who = stage.client.ns.enter(|| (0..tries).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of {tries} datagrams to {to} only {who:?} answered");
    Ok(())
}

/// Bodies that take many full-size segments come whole.
fn bulk(stage: &Stage, to: SocketAddr) -> Result<()> {
    let body = stage.client.ns.enter(|| peer::get(to, "/bytes/3000000", PATIENCE))??;
    ensure!(body.len() == 3_000_000, "{} bytes of 3,000,000", body.len());
    Ok(())
}

/// Every packet that came in left in exactly one way.
fn accounts_balance(daemon: &Daemon) -> Result<()> {
    let status = daemon.json(&["status"])?;
    let rx = status.pointer("/rx/packets").and_then(Value::as_u64).with_context(|| format!("no packets received in {status}"))?;
    let reasons = status["reasons"].as_object().with_context(|| format!("no reasons in {status}"))?;
    let out: u64 = reasons.values().filter_map(|traffic| traffic["packets"].as_u64()).sum();
    // Probes go on while the per-CPU counters are read one after the other.
    ensure!(rx > 0 && rx.abs_diff(out) <= 64, "{rx} packets came in, but reasons are known for {out}: {status}");
    Ok(())
}

fn exercise(stage: &Stage, daemon: &Daemon, port: u16) -> Result<()> {
    for address in VIPS {
        let to = vip(address, port)?;
        all_answer(stage, to, 60)?;
        all_answer_udp(stage, to, 60)?;
        bulk(stage, to)?;
    }
    accounts_balance(daemon)
}

fn forwards_nat(group: &str, hook: &str) -> Result<()> {
    let stage = stage(group)?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, "nat")?)?;
    exercise(&stage, &daemon, 80).logged(&daemon)
}

fn forwards_dsr(group: &str, hook: &str) -> Result<()> {
    let mut stage = stage(group)?;
    for (name, _) in BACKENDS {
        for address in VIPS {
            stage.backends[name].own_quietly(address.parse()?)?;
            stage.serve_at(name, vip(address, PORT)?)?;
        }
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, "dsr")?)?;
    exercise(&stage, &daemon, PORT).logged(&daemon)
}

#[test]
fn nat_by_xdp() -> Result<()> {
    forwards_nat("mesh-nat-xdp", "xdp")
}

#[test]
fn dsr_by_xdp() -> Result<()> {
    forwards_dsr("mesh-dsr-xdp", "xdp")
}

#[test]
fn nat_by_tc() -> Result<()> {
    forwards_nat("mesh-nat-tc", "tc")
}

#[test]
fn dsr_by_tc() -> Result<()> {
    forwards_dsr("mesh-dsr-tc", "tc")
}

#[test]
fn nat_by_generic_xdp_on_request() -> Result<()> {
    forwards_nat("mesh-nat-gen", "xdp-generic")
}

/// What is for the balancer itself reaches it.
#[test]
fn traffic_for_the_node_passes() -> Result<()> {
    let stage = stage("mesh-pass")?;
    let _daemon = Daemon::start(&stage.balancer.ns, &config(&stage, "xdp", "nat")?)?;
    let own: SocketAddr = (stage.balancer.v4, 8081).into();
    let listener = stage.balancer.ns.enter(|| TcpListener::bind(own))??;
    let _stream = stage.client.ns.enter(|| TcpStream::connect_timeout(&own, PATIENCE))??;
    listener.accept()?;
    // A port of the VIP's address that is no service is the host's, too: it refuses.
    let other = vip(VIPS[0], 81)?;
    let refused = stage.client.ns.enter(|| TcpStream::connect_timeout(&other, PATIENCE))?;
    ensure!(refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused), "port 81 of the VIP should refuse");
    Ok(())
}

/// Each backend has connections from each of the addresses, and answers find their client.
#[test]
fn nat_comes_from_several_addresses() -> Result<()> {
    const MORE: [&str; 2] = ["10.77.0.102", "fd77::102"];
    let stage = stage("mesh-nat-srcs")?;
    for (address, bits) in MORE.into_iter().zip([24, 64]) {
        stage.balancer.ns.ip(&format!("address add {address}/{bits} dev eth0{}", if bits == 64 { " nodad" } else { "" }))?;
    }
    let (v4, v6) = (stage.balancer.v4, stage.balancer.v6);
    let sources = format!("nat: {{sources: [{v4}, {}, \"{v6}\", \"{}\"]}}\n", MORE[0], MORE[1]);
    let daemon = Daemon::start(&stage.balancer.ns, &(sources + &config(&stage, "xdp", "nat")?))?;
    for (address, own, more) in [(VIPS[0], IpAddr::from(v4), MORE[0]), (VIPS[1], v6.into(), MORE[1])] {
        let held = Held::open(&stage.client.ns, vip(address, 80)?, 150, Duration::from_millis(10), PATIENCE)?;
        let wanted = BTreeSet::from([own, more.parse()?]);
        for (name, _) in BACKENDS {
            let seen = stage
                .peers_of(name)?
                .iter()
                .map(SocketAddr::ip)
                .filter(|source| source.is_ipv6() == own.is_ipv6())
                .collect::<BTreeSet<_>>();
            ensure!(seen == wanted, "{name} is asked from {seen:?}; log of the daemon:\n{}", daemon.log());
        }
        for life in held.finish() {
            ensure!(life.broken.is_none(), "{life:?}");
        }
    }
    Ok(())
}
