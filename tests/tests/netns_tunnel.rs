//! `tunnel` with its agent: real TCP and UDP through every outer header, with segments as large as fit.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged, Process, mesh_binary},
    netns::Host,
    peer,
    stage::{PORT, Stage},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const PATIENCE: Duration = Duration::from_secs(20);
/// Port of iperf3, behind which one backend stands: its two connections belong together.
const BULK: u16 = 5201;

/// A VIP of which a range of ports is served.
const SEVERAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 110);

/// One pair of families and a kind of outer header, with a VIP of its own.
#[derive(Clone, Copy, Debug)]
struct Way {
    inner_v6: bool,
    outer_v6: bool,
    gue: bool,
}

impl Way {
    fn all() -> Vec<Self> {
        (0..8).map(|bits| Self { inner_v6: bits & 1 != 0, outer_v6: bits & 2 != 0, gue: bits & 4 != 0 }).collect()
    }

    fn vip(self) -> IpAddr {
        let n = 100 + u8::from(self.outer_v6) + 2 * u8::from(self.gue);
        if self.inner_v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n.into()).into() } else { Ipv4Addr::new(10, 77, 0, n).into() }
    }

    fn name(self) -> String {
        let family = |v6| if v6 { "6" } else { "4" };
        format!("{}{}in{}", if self.gue { "gue" } else { "ipip" }, family(self.inner_v6), family(self.outer_v6))
    }

    /// Two services for requests, and one for bulk data. Unchecked: both backends are there from the first table on, and a busy machine takes none out.
    fn services(self, stage: &Stage) -> Result<String> {
        let address = |name| Ok::<_, anyhow::Error>(stage.address(name, self.outer_v6)?.ip());
        let both = format!("\"{}\", \"{}\"", address("b1")?, address("b2")?);
        let one = format!("\"{}\"", address("b1")?);
        let mut text = String::new();
        for (kind, port, protocol, backends) in [("tcp", PORT, "tcp", &both), ("udp", PORT, "udp", &both), ("bulk", BULK, "tcp", &one)] {
            text += &format!(
                "  - {{name: {kind}-{}, vip: \"{}\", port: {port}, protocol: {protocol}, mode: tunnel, encap: {}, announce: {{address: eth0}}, \
                 health: none, backends: [{backends}]}}\n",
                self.name(),
                self.vip(),
                if self.gue { "gue" } else { "ipip" },
            );
        }
        Ok(text)
    }
}

fn config(stage: &Stage, hook: &str) -> Result<String> {
    let services = Way::all().into_iter().map(|way| way.services(stage)).collect::<Result<String>>()?;
    let backends = format!("\"{}\", \"{}\"", stage.address("b1", false)?.ip(), stage.address("b2", false)?.ip());
    let several = format!(
        "  - {{name: several, vip: {SEVERAL}, ports: 8000-8100, mode: tunnel, announce: {{address: eth0}}, health: none, \
         backends: [{backends}]}}\n"
    );
    Ok(format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n{services}{several}"))
}

/// An agent on a host, for all VIPs.
fn agent(host: &Host, log: &tempfile::TempDir, name: &str) -> Result<Process> {
    let mut command = host.ns.command(mesh_binary()?);
    command.args(["agent", "--interface", "eth0"]);
    for way in Way::all() {
        command.arg("--vip").arg(way.vip().to_string());
    }
    command.arg("--vip").arg(SEVERAL.to_string());
    let log = std::fs::File::create(log.path().join(name))?;
    Process::spawn(command.stdout(log.try_clone()?).stderr(log))
}

/// Whether the host has this address.
fn owns(host: &Host, address: IpAddr) -> Result<bool> {
    let output = host.ns.command("ip").args(["-o", "address", "show", "dev", "lo", "to", &address.to_string()]).output()?;
    Ok(!output.stdout.is_empty())
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn all_answer(stage: &Stage, to: SocketAddr) -> Result<()> {
    let ask = |i| peer::get(to, "/", PATIENCE).with_context(|| format!("request {i} to {to}"));
    let who = stage.client.ns.enter(|| (0..40).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of 40 requests to {to} only {who:?} answered");
    Ok(())
}

fn all_answer_udp(stage: &Stage, to: SocketAddr) -> Result<()> {
    let ask = |i| peer::ask_udp(to, &format!("question {i}"), 1, PATIENCE);
    let who = stage.client.ns.enter(|| (0..40).map(ask).collect::<Result<BTreeSet<_>>>())??;
    ensure!(who.len() == BACKENDS.len(), "of 40 datagrams to {to} only {who:?} answered");
    Ok(())
}

/// Both directions: what the client sends comes in outer headers, in segments as large as fit.
fn bulk(stage: &Stage, way: Way) -> Result<()> {
    let vip = way.vip();
    let b1 = &stage.backends["b1"];
    let _server =
        Process::spawn(b1.ns.command("iperf3").args(["-s", "-1", "-p", &BULK.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let own: SocketAddr = (b1.v4, BULK).into();
    // The server takes one test; whether it listens is asked of the kernel.
    until("iperf3 listens", || {
        let listening = b1.ns.command("ss").args(["-Hltn", "sport", "=", &format!(":{}", own.port())]).output()?;
        Ok(!listening.stdout.is_empty())
    })?;
    let mut command = stage.client.ns.command("timeout");
    command.args(["20", "iperf3", "-J", "-c", &vip.to_string(), "-p", &BULK.to_string(), "-n", "4M"]);
    let output = command.output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no report")?;
    let number = |at| report.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    // What is still under way at the end is not counted as received.
    let (sent, received) = (number("/end/sum_sent/bytes"), number("/end/sum_received/bytes"));
    ensure!(sent >= 4 << 20 && received > 1 << 19, "iperf3 to {vip}: {report}");
    // Headers of IP and TCP, the timestamp option, and what comes in front, or may where GUE has a list: together as much as the link takes.
    let gue = 8 + if way.outer_v6 { 24 } else { 12 };
    let (outer, inner) = (if way.outer_v6 { 40 } else { 20 } + if way.gue { gue } else { 0 }, if way.inner_v6 { 40 } else { 20 } + 20 + 12);
    ensure!(number("/start/tcp_mss_default") + outer + inner == 1500, "iperf3 to {vip}: {report}");
    Ok(())
}

fn reason(status: &Value, name: &str) -> u64 {
    status.pointer(&format!("/reasons/{name}/packets")).and_then(Value::as_u64).unwrap_or(0)
}

fn carries(group: &str, hook: &str) -> Result<()> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    let logs = tempfile::tempdir()?;
    let mut agents = Vec::new();
    for (name, _) in BACKENDS {
        stage.serve(name)?;
        agents.push(agent(&stage.backends[name], &logs, name)?);
        let vips: Vec<IpAddr> = Way::all().into_iter().map(Way::vip).chain([SEVERAL.into()]).collect();
        for vip in &vips {
            until("the agent adds its VIPs", || owns(&stage.backends[name], *vip))
                .with_context(|| std::fs::read_to_string(logs.path().join(name)).unwrap_or_default())?;
        }
        stage.serve_at_all(name, &vips.into_iter().map(|vip| (vip, PORT).into()).collect::<Vec<SocketAddr>>())?;
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook)?)?;
    for way in Way::all() {
        all_answer(&stage, (way.vip(), PORT).into())
            .and_then(|()| all_answer_udp(&stage, (way.vip(), PORT).into()))
            .and_then(|()| bulk(&stage, way))
            .with_context(|| format!("{way:?} by {hook}"))
            .logged(&daemon)?;
    }
    all_answer(&stage, SocketAddr::from((SEVERAL, PORT))).context("a range of ports")?;
    let status = daemon.json(&["status"])?;
    // 40 requests of several packets, 40 datagrams, and 4 MiB in segments of less than 1500 bytes, each of 8 ways.
    ensure!(reason(&status, "forwarded") > 8 * (40 * 4 + 40 + 2000), "the balancer saw too little: {status}");
    ensure!(reason(&status, "too_big") == 0, "segments did not fit: {status}");
    ends(&stage, agents)
}

/// An agent that ends takes away what it added.
fn ends(stage: &Stage, agents: Vec<Process>) -> Result<()> {
    for (agent, (name, _)) in agents.iter().zip(BACKENDS) {
        let pid = agent.id().context("the agent runs")?;
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
        for way in Way::all() {
            until("the VIPs go with the agent", || Ok(!owns(&stage.backends[name], way.vip())?))?;
        }
    }
    Ok(())
}

#[test]
fn tunnels_by_xdp() -> Result<()> {
    carries("mesh-tun-xdp", "xdp")
}

#[test]
fn tunnels_by_tc() -> Result<()> {
    carries("mesh-tun-tc", "tc")
}
