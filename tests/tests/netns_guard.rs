//! Who may use a service, and by which ports: the real daemon and real TCP.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    peer::{self, Held},
    stage::{PORT, Stage},
    world::PATIENCE,
};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt::SendTimeout},
    time::{TimeVal, TimeValLike},
};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
/// A range of ports, and any port.
const RANGE: [&str; 2] = ["10.77.0.101", "fd77::101"];
const ANY: [&str; 2] = ["10.77.0.102", "fd77::102"];
/// VIPs of services that keep somebody out.
const GUARDED: [&str; 2] = ["10.77.0.100", "fd77::100"];
/// For how long an answer is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(1500);

fn at(address: &str, port: u16) -> Result<SocketAddr> {
    Ok((address.parse::<IpAddr>()?, port).into())
}

/// How many packets `service` has refused for `reason`.
fn refused(daemon: &Daemon, service: &str, reason: &str) -> Result<u64> {
    let shown = daemon.json(&["service", "show", service])?;
    Ok(shown.pointer(&format!("/reasons/{reason}/packets")).and_then(Value::as_u64).unwrap_or(0))
}

/// Backends that own the VIPs, and serve each of the ports.
fn ranged() -> Result<(Stage, Daemon)> {
    let mut stage = Stage::build("mesh-ports", &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
        for vip in RANGE.iter().chain(&ANY) {
            stage.backends[name].own_quietly(vip.parse()?)?;
            let listen: Vec<_> = [8000, 8001, 8100, 8101, 9000].map(|port| at(vip, port)).into_iter().collect::<Result<_>>()?;
            stage.serve_at_all(name, &listen)?;
        }
    }
    let mut config = "interfaces: [{name: eth0, hook: xdp}]\nservices:\n".to_owned();
    for (v6, family) in [(false, 4), (true, 6)] {
        let backends = BACKENDS.map(|(name, _)| stage.address(name, v6).map(|a| format!("\"{}\"", a.ip())));
        let backends = backends.into_iter().collect::<Result<Vec<_>>>()?.join(", ");
        for (name, vip, ports) in [("range", RANGE, "8000-8100"), ("any", ANY, "any")] {
            let vip = vip[usize::from(v6)];
            config += &format!(
                "  - {{name: {name}{family}, vip: \"{vip}\", ports: {ports}, mode: dsr, announce: {{address: eth0}}, \
                 health: {{type: tcp, port: {PORT}}}, backends: [{backends}]}}\n"
            );
        }
        // A port with a service of its own, which has nobody.
        let vip = ANY[usize::from(v6)];
        config +=
            &format!("  - {{name: own{family}, vip: \"{vip}\", port: 9000, mode: nat, health: none, when_empty: reject, backends: []}}\n");
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    Ok((stage, daemon))
}

#[test]
fn a_range_of_ports_and_any_port_are_served_and_no_other() -> Result<()> {
    let (stage, daemon) = ranged()?;
    let ask = |vip, port| -> Result<io::Result<String>> { stage.client.ns.enter(|| Ok(peer::get(at(vip, port)?, "/", PATIENCE)))? };
    for (vip, ports) in RANGE.iter().map(|vip| (vip, &[8000, 8001, 8100][..])).chain(ANY.iter().map(|vip| (vip, &[8000, 8101][..]))) {
        for &port in ports {
            let who = ask(vip, port)?.with_context(|| format!("{vip} port {port}; log:\n{}", daemon.log()))?;
            ensure!(BACKENDS.iter().any(|(name, _)| *name == who), "{vip} port {port}: {who}");
        }
    }
    // The node's own stack, and the port's own service.
    for (vip, port) in RANGE.map(|vip| (vip, 8101)).into_iter().chain(ANY.map(|vip| (vip, 9000))) {
        let answer = ask(vip, port)?;
        ensure!(answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "{vip} port {port}: {answer:?}");
    }
    for service in ["own4", "own6"] {
        ensure!(refused(&daemon, service, "rejected")? > 0, "{service} has refused nobody");
    }
    let told = daemon.json(&["explain", "10.77.0.9:1000", "10.77.0.101:8100"])?;
    ensure!(told["service"] == "range4" && told["verdict"] == "forward", "{told}");
    let told = daemon.json(&["explain", "10.77.0.9:1000", "10.77.0.101:8101"])?;
    ensure!(told["verdict"] == "pass" && told.get("service").is_none(), "{told}");
    Ok(())
}

/// One service of each family behind a guard, at [`GUARDED`].
fn guarded(group: &str, guard: &str) -> Result<(Stage, Daemon)> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    let mut config = "interfaces: [{name: eth0, hook: xdp}]\nservices:\n".to_owned();
    for (v6, family) in [(false, 4), (true, 6)] {
        let backends = BACKENDS.map(|(name, _)| stage.address(name, v6).map(|a| format!("\"{a}\"")));
        let backends = backends.into_iter().collect::<Result<Vec<_>>>()?.join(", ");
        config += &format!(
            "  - {{name: web{family}, vip: \"{}\", port: {PORT}, announce: {{address: eth0}}, {guard}, backends: [{backends}]}}\n",
            GUARDED[usize::from(v6)]
        );
        config +=
            &format!("  - {{name: other{family}, vip: \"{}\", port: 80, health: none, backends: [{backends}]}}\n", ANY[usize::from(v6)]);
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    Ok((stage, daemon))
}

/// The first connection is let in and goes on, the next is not: by `source_rate` or `rate`.
fn one_connection(group: &str, key: &str, reason: &str) -> Result<()> {
    let (stage, daemon) = guarded(group, &format!("protect: {{{key}: 1/h}}"))?;
    for (vip, service) in GUARDED.into_iter().zip(["web4", "web6"]) {
        let vip = at(vip, PORT)?;
        let held = Held::open(&stage.client.ns, vip, 1, Duration::from_millis(10), PATIENCE)?;
        ensure!(refused(&daemon, service, reason)? == 0, "{service} has refused its first connection");
        let other = stage.client.ns.enter(|| TcpStream::connect_timeout(&vip, SILENCE))?;
        ensure!(other.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut), "a second connection to {vip}: {other:?}");
        daemon.until("it is counted", || Ok(refused(&daemon, service, reason)? > 0))?;
        let client: SocketAddr = if vip.is_ipv4() { (stage.client.v4, 1000).into() } else { (stage.client.v6, 1000).into() };
        let told = daemon.json(&["explain", &client.to_string(), &vip.to_string()])?;
        ensure!(told["reason"] == reason && told["service"] == service, "{told}");
        for life in held.finish() {
            ensure!(life.broken.is_none() && life.requests > 10, "the connection that was let in: {life:?}");
        }
    }
    Ok(())
}

#[test]
fn one_source_opens_no_more_than_its_rate_and_goes_on_with_what_it_has() -> Result<()> {
    one_connection("mesh-srate", "source_rate", "source_rate")
}

#[test]
fn all_sources_open_no_more_than_the_rate_and_go_on_with_what_they_have() -> Result<()> {
    one_connection("mesh-rate", "rate", "service_rate")
}

/// Connects from an address of the client's choice.
fn connect_from(source: IpAddr, to: SocketAddr) -> nix::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, SendTimeout, &TimeVal::milliseconds(SILENCE.as_millis() as i64))?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

#[test]
fn who_says_to_be_a_vip_is_not_heard() -> Result<()> {
    let (stage, daemon) = guarded("mesh-spoof", "protect: {spoofed: true}")?;
    let client = &stage.client;
    for ((vip, other), service) in GUARDED.into_iter().zip(ANY).zip(["web4", "web6"]) {
        let vip = at(vip, PORT)?;
        let held = Held::open(&client.ns, vip, 1, Duration::from_millis(10), PATIENCE)?;
        client.own_quietly(other.parse()?)?;
        let source: IpAddr = other.parse()?;
        let answer = client.ns.enter(|| connect_from(source, vip))?;
        ensure!(answer.is_err(), "{source} has got a connection to {vip}");
        daemon.until("it is counted", || Ok(refused(&daemon, service, "spoofed")? > 0))?;
        let told = daemon.json(&["explain", &SocketAddr::new(source, 1000).to_string(), &vip.to_string()])?;
        ensure!(told["reason"] == "spoofed" && told["service"] == service, "{told}");
        for life in held.finish() {
            ensure!(life.broken.is_none() && life.requests > 1, "who is somebody: {life:?}");
        }
    }
    Ok(())
}
