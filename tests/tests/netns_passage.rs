//! Probes that take the way of their service: an agent that is dead is found though its backend's server lives, and a server that listens at the VIP
//! alone is found alive.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Process, mesh_binary},
    peer,
    stage::{PORT, Stage},
    world::PATIENCE,
};
use serde_json::Value;

/// The first listens at its VIPs alone; the second's agent is killed.
const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];
/// Of the service that asks backends at their own addresses, for comparison.
const DIRECT: u16 = 90;
/// Of the service whose backends are of the other family.
const MIXED: u16 = 91;

const KINDS: [(&str, &str, &str); 4] = [
    ("tcp", "tcp", "{type: tcp, interval: 100ms}"),
    ("http", "tcp", "{type: http, interval: 100ms}"),
    ("udp", "udp", "{type: udp, send: hello, expect: hello, interval: 100ms}"),
    ("ping", "tcp", "{type: icmp, pulse: icmp, interval: 100ms}"),
];

/// A kind of outer header, and what is asked in it.
struct Row {
    name: String,
    vip: IpAddr,
    text: String,
}

fn vip(v6: bool, n: u16) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100 + n).into() } else { Ipv4Addr::new(10, 77, 0, 100 + n as u8).into() }
}

/// A service for each kind of probe in each outer header, with all backends.
fn rows(stage: &Stage, mode: &str) -> Result<Vec<Row>> {
    let encaps: &[&str] = if mode == "tunnel" { &["ipip", "gue"] } else { &[""] };
    let mut rows = Vec::new();
    for (n, encap) in encaps.iter().enumerate() {
        for v6 in [false, true] {
            for (k, (kind, protocol, health)) in KINDS.iter().enumerate() {
                let vip = vip(v6, (n * KINDS.len() + k) as u16);
                let name = format!("{kind}{}{encap}", if v6 { 6 } else { 4 });
                let backends = backends(stage, v6, &BACKENDS.map(|(name, _)| name))?;
                let way = if mode == "tunnel" { format!("encap: {encap}, ") } else { String::new() };
                let health = if mode == "tunnel" { (*health).to_owned() } else { health.replacen('{', "{through: vip, ", 1) };
                let text = format!(
                    "  - {{name: {name}, vip: \"{vip}\", port: {PORT}, protocol: {protocol}, mode: {mode}, {way}announce: {{address: eth0}}, \
                     health: {health}, backends: [{backends}]}}\n"
                );
                rows.push(Row { name, vip, text });
            }
        }
    }
    Ok(rows)
}

fn backends(stage: &Stage, v6: bool, names: &[&str]) -> Result<String> {
    let mut list = String::new();
    for name in names {
        write!(list, "{{name: {name}, address: \"{}\"}}, ", stage.address(name, v6)?.ip())?;
    }
    Ok(list)
}

fn agent(stage: &Stage, name: &str, vips: &[IpAddr]) -> Result<Process> {
    let mut command = stage.backends[name].ns.command(mesh_binary()?);
    command.args(["agent", "--interface", "eth0"]);
    for vip in vips {
        command.arg("--vip").arg(vip.to_string());
    }
    let agent = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    owns(stage, name, vips)?;
    Ok(agent)
}

/// Waits until a host has these addresses: nobody can listen at others.
fn owns(stage: &Stage, name: &str, vips: &[IpAddr]) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    for vip in vips {
        while stage.backends[name].ns.enter(|| TcpListener::bind((*vip, 0)))?.is_err() {
            ensure!(Instant::now() < end, "{name} does not own {vip}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn shown(daemon: &Daemon, service: &str, name: &str) -> Result<Value> {
    daemon.json(&["backend", "show", service, name])
}

/// Waits until a backend is so in all of these services.
fn until_state(daemon: &Daemon, rows: &[Row], name: &str, wanted: &str) -> Result<()> {
    daemon.until(&format!("{name} is {wanted} everywhere"), || {
        let all = daemon.json(&["backend", "ls"])?;
        let all = all.as_array().with_context(|| format!("no list: {all}"))?;
        let is = |row: &Row| all.iter().any(|b| b["service"] == row.name.as_str() && b["name"] == name && b["state"] == wanted);
        Ok(rows.iter().all(is))
    })
}

/// Waits until each backend of these services has answered a pulse.
fn until_pulsed(daemon: &Daemon, rows: &[Row]) -> Result<()> {
    daemon.until("pulses are answered", || {
        let all = daemon.json(&["backend", "ls"])?;
        let pulsed = all.as_array().into_iter().flatten().filter(|b| b["health"]["suspicion"]["pulse_rtt_us"].is_u64());
        Ok(pulsed.filter(|b| rows.iter().any(|row| b["service"] == row.name.as_str())).count() == rows.len() * BACKENDS.len())
    })
}

fn addresses(rows: &[Row]) -> Vec<IpAddr> {
    rows.iter().map(|row| row.vip).collect()
}

fn serve_at(stage: &mut Stage, name: &'static str, vips: &[IpAddr]) -> Result<()> {
    stage.serve_at_all(name, &vips.iter().map(|vip| (*vip, PORT).into()).collect::<Vec<SocketAddr>>())
}

/// Connections of pulses that nobody ended would fill a backend's queue.
fn nothing_is_left_half_open(stage: &Stage, name: &str) -> Result<()> {
    let output = stage.backends[name].ns.command("ss").args(["-Htn", "state", "syn-recv"]).output()?;
    let left = String::from_utf8_lossy(&output.stdout).lines().count();
    ensure!(left < 40, "{left} half-open connections at {name}");
    Ok(())
}

fn tunnel(group: &str, hook: &str) -> Result<()> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    let rows = rows(&stage, "tunnel")?;
    let (direct, mixed) = (vip(false, DIRECT), vip(false, MIXED));
    let vips: Vec<IpAddr> = addresses(&rows).into_iter().chain([direct, mixed]).collect();
    let mut agents = Vec::new();
    for (name, _) in BACKENDS {
        agents.push(agent(&stage, name, &vips)?);
        serve_at(&mut stage, name, &vips)?;
    }
    stage.serve("b2")?;
    stage.serve("b3")?;
    let others = ["b2", "b3"];
    let more = [
        ("direct", direct, "{type: tcp, through: direct, interval: 100ms}", false),
        ("mixed", mixed, "{type: tcp, interval: 100ms}", true),
    ];
    let mut config = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    rows.iter().for_each(|row| config += &row.text);
    for (name, vip, health, v6) in more {
        let backends = backends(&stage, v6, &others)?;
        writeln!(
            config,
            "  - {{name: {name}, vip: {vip}, port: {PORT}, mode: tunnel, announce: {{address: eth0}}, health: {health}, backends: [{backends}]}}"
        )?;
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    for (name, _) in BACKENDS {
        until_state(&daemon, &rows, name, "active")?;
    }
    let asked = |service| Ok::<_, anyhow::Error>(shown(&daemon, service, "b2")?["health"]["asked"].clone());
    ensure!(asked("tcp4ipip")? == "10.77.0.100 in IP to 10.77.0.12", "{}", asked("tcp4ipip")?);
    ensure!(asked("direct")?.is_null() && asked("mixed")?.as_str().is_some_and(|how| how.contains("another family")));
    until_pulsed(&daemon, &rows)?;

    agents[1].kill()?;
    until_state(&daemon, &rows, "b2", "down")?;
    let own = stage.address("b2", false)?;
    ensure!(stage.balancer.ns.enter(|| peer::get(own, "/", PATIENCE))?? == "b2", "its server lives");
    for service in ["direct", "mixed"] {
        ensure!(shown(&daemon, service, "b2")?["state"] == "active", "{service} asks it at its own address");
    }
    for name in ["b1", "b3"] {
        until_state(&daemon, &rows, name, "active")?;
        nothing_is_left_half_open(&stage, name)?;
    }
    agents[1] = agent(&stage, "b2", &vips)?;
    until_state(&daemon, &rows, "b2", "active")
}

#[test]
fn a_dead_agent_is_found_in_tunnels_by_xdp() -> Result<()> {
    tunnel("mesh-pass-xdp", "xdp")
}

#[test]
fn a_dead_agent_is_found_in_tunnels_by_tc() -> Result<()> {
    tunnel("mesh-pass-tc", "tc")
}

#[test]
fn a_backend_of_dsr_is_asked_at_the_vip() -> Result<()> {
    let mut stage = Stage::build("mesh-pass-dsr", &BACKENDS)?;
    let rows = rows(&stage, "dsr")?;
    let vips = addresses(&rows);
    for (name, _) in BACKENDS {
        vips.iter().try_for_each(|vip| stage.backends[name].own_quietly(*vip))?;
        owns(&stage, name, &vips)?;
        serve_at(&mut stage, name, &vips)?;
    }
    let mut config = "interfaces: [{name: eth0, hook: xdp}]\nservices:\n".to_owned();
    rows.iter().for_each(|row| config += &row.text);
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    for (name, _) in BACKENDS {
        until_state(&daemon, &rows, name, "active")?;
        nothing_is_left_half_open(&stage, name)?;
    }
    let asked = shown(&daemon, "http4", "b3")?["health"]["asked"].clone();
    ensure!(asked == "10.77.0.101 at the MAC of 10.77.0.13", "{asked}");
    // Who has lost the VIP is no backend any more, whatever else it serves.
    stage.serve("b2")?;
    for vip in &vips {
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        stage.backends["b2"].ns.ip(&format!("address del {vip}/{prefix} dev lo")).context("the VIP is on lo")?;
    }
    until_state(&daemon, &rows, "b2", "down")?;
    until_state(&daemon, &rows, "b1", "active")
}
