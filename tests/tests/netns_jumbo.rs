//! Frames of nine kilobytes: bulk data both ways, and pings of sizes around the MTU. By XDP they come in several buffers.

use std::{net::IpAddr, process::Stdio};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged, Process, mesh_binary, wait_for},
    netns::run,
    stage::Stage,
};
use serde_json::Value;

const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
/// Port of iperf3, the same at the VIP and behind it.
const PORT: u16 = 5201;
const MTU: u64 = 9000;
const BYTES: u64 = 8 << 20;

/// Every port of the Ethernet, and every host at it.
fn widen(stage: &Stage) -> Result<()> {
    for (host, number) in [(&stage.client, 1), (&stage.balancer, 2), (&stage.backends["b1"], 11)] {
        stage.switch().ip(&format!("link set p{number} mtu {MTU}"))?;
        host.ns.ip(&format!("link set eth0 mtu {MTU}"))?;
    }
    Ok(())
}

fn config(stage: &Stage, hook: &str, mode: &str) -> Result<String> {
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let backend = stage.address("b1", v6)?.ip();
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if mode == "dnat" { format!("reply_via: \"{client}\", ") } else { String::new() };
        text += &format!(
            "  - {{name: bulk{}, vip: \"{vip}\", port: {PORT}, mode: {mode}, {via}announce: {{address: eth0}}, health: none, \
             backends: [{{address: \"{backend}\"}}]}}\n",
            if v6 { 6 } else { 4 }
        );
    }
    Ok(text)
}

/// Answers go back through the balancer.
fn lead_back(stage: &Stage) -> Result<()> {
    stage.backends["b1"].lead_back(stage.client.addresses(), &stage.balancer)
}

/// The sizes on both sides of what one frame carries, of two, and of what no frame carries; to the VIP, which the balancer answers for.
fn pings(stage: &Stage) -> Result<()> {
    for (vip, headers) in VIPS.into_iter().zip([28, 48]) {
        let most = MTU - headers;
        for size in [0, 1472, 1473, 3500, most - 1, most, most + 1, 2 * most, 30_000] {
            let mut ping = stage.client.ns.command("ping");
            run(ping.args(["-c", "1", "-W", "10", "-s", &size.to_string(), vip])).with_context(|| format!("{size} bytes to {vip}"))?;
        }
    }
    Ok(())
}

/// One way with as many bytes; what one segment carried.
fn bulk(stage: &Stage, vip: &str, reverse: bool) -> Result<u64> {
    let b1 = &stage.backends["b1"];
    let mut server = b1.ns.command("iperf3");
    let _server = Process::spawn(server.args(["-s", "-1", "-p", &PORT.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()))?;
    wait_for("iperf3 listens", || {
        let listening = b1.ns.command("ss").args(["-Hltn", "sport", "=", &format!(":{PORT}")]).output()?;
        Ok(!listening.stdout.is_empty())
    })?;
    let mut command = stage.client.ns.command("timeout");
    command.args(["40", "iperf3", "-J", "-c", vip, "-p", &PORT.to_string(), "-n", &BYTES.to_string()]);
    if reverse {
        command.arg("-R");
    }
    let output = command.output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no report")?;
    let number = |at| report.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    // What is still under way at the end is not counted as received.
    let (sent, received) = (number("/end/sum_sent/bytes"), number("/end/sum_received/bytes"));
    ensure!(sent >= BYTES && received > BYTES / 8, "iperf3 to {vip}, reverse {reverse}: {report}");
    Ok(number("/start/tcp_mss_default"))
}

fn by(group: &str, hook: &str, mode: &str) -> Result<()> {
    let stage = Stage::build(group, &[("b1", 11)])?;
    widen(&stage)?;
    let _agent = match mode {
        "tunnel" => {
            let mut agent = stage.backends["b1"].ns.command(mesh_binary()?);
            agent.args(["agent", "--interface", "eth0", "--vip", VIPS[0], "--vip", VIPS[1]]);
            Some(Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?)
        }
        _ => None,
    };
    if mode == "dnat" {
        lead_back(&stage)?;
    }
    // Who translates leaves the VIP to the balancer.
    for vip in VIPS.into_iter().filter(|_| !mode.ends_with("nat")) {
        let (host, vip): (_, IpAddr) = (&stage.backends["b1"], vip.parse()?);
        if mode == "dsr" {
            host.own_quietly(vip)?;
        }
        wait_for("the backend owns the VIP", || Ok(host.ns.enter(|| std::net::UdpSocket::bind((vip, 0)))?.is_ok()))?;
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, mode)?)?;
    let all = || {
        pings(&stage)?;
        for (vip, ip) in VIPS.into_iter().zip([20, 40]) {
            for reverse in [false, true] {
                let segment = bulk(&stage, vip, reverse)?;
                // Headers of IP and TCP, the timestamp option, and the outer header: together as much as the link takes.
                let outer = if mode == "tunnel" { ip } else { 0 };
                ensure!(segment + ip + 20 + 12 + outer == MTU, "segments of {segment} bytes to {vip}");
            }
        }
        let status = daemon.json(&["status"])?;
        let forwarded = status.pointer("/reasons/forwarded/packets").and_then(Value::as_u64).unwrap_or(0);
        // Sent on in large frames: what went in those of 1500 bytes would be six times as many.
        let frames = 2 * BYTES / MTU;
        ensure!(forwarded > frames / 8, "{forwarded} packets were forwarded: {status}");
        let replied = status.pointer("/reasons/replied/packets").and_then(Value::as_u64).unwrap_or(0);
        ensure!(!mode.ends_with("nat") || replied > frames / 8, "{replied} answers came by: {status}");
        Ok(())
    };
    all().with_context(|| format!("{mode} by {hook}")).logged(&daemon)
}

#[test]
fn nat_by_xdp() -> Result<()> {
    by("mesh-jumbo-nx", "xdp", "nat")
}

#[test]
fn dsr_by_xdp() -> Result<()> {
    by("mesh-jumbo-dx", "xdp", "dsr")
}

#[test]
fn tunnel_by_xdp() -> Result<()> {
    by("mesh-jumbo-ux", "xdp", "tunnel")
}

#[test]
fn nat_by_tc() -> Result<()> {
    by("mesh-jumbo-nt", "tc", "nat")
}

#[test]
fn dnat_by_xdp() -> Result<()> {
    by("mesh-jumbo-ax", "xdp", "dnat")
}

#[test]
fn dnat_by_tc() -> Result<()> {
    by("mesh-jumbo-at", "tc", "dnat")
}
