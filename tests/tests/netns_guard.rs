//! Who may use a service, and by which ports: the real daemon and real TCP.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged},
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
            let who = ask(vip, port)?.with_context(|| format!("{vip} port {port}")).logged(&daemon)?;
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
    guarded_by(group, &|_| guard.to_owned())
}

/// The same with a guard for each family.
fn guarded_by(group: &str, guard: &dyn Fn(bool) -> String) -> Result<(Stage, Daemon)> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    let daemon = Daemon::start(&stage.balancer.ns, &guarded_config(&stage, guard)?)?;
    Ok((stage, daemon))
}

fn guarded_config(stage: &Stage, guard: &dyn Fn(bool) -> String) -> Result<String> {
    let mut config = "interfaces: [{name: eth0, hook: xdp}]\nservices:\n".to_owned();
    for (v6, family) in [(false, 4), (true, 6)] {
        let backends = BACKENDS.map(|(name, _)| stage.address(name, v6).map(|a| format!("\"{a}\"")));
        let backends = backends.into_iter().collect::<Result<Vec<_>>>()?.join(", ");
        config += &format!(
            "  - {{name: web{family}, vip: \"{}\", port: {PORT}, announce: {{address: eth0}}, {}, backends: [{backends}]}}\n",
            GUARDED[usize::from(v6)],
            guard(v6)
        );
        config +=
            &format!("  - {{name: other{family}, vip: \"{}\", port: 80, health: none, backends: [{backends}]}}\n", ANY[usize::from(v6)]);
    }
    Ok(config)
}

/// The first connection is let in and goes on, the next is not: by `source_rate` or `rate`.
fn one_connection(group: &str, key: &str, reason: &str) -> Result<()> {
    let (stage, mut daemon) = guarded(group, &format!("protect: {{{key}: 1/h}}"))?;
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
    // What was opened is remembered by the kernel: neither without a daemon nor with the next one is there another to be had.
    let another = |when: &str| -> Result<()> {
        for vip in GUARDED {
            let vip = at(vip, PORT)?;
            let other = stage.client.ns.enter(|| TcpStream::connect_timeout(&vip, SILENCE))?;
            ensure!(other.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut), "a connection to {vip} {when}: {other:?}");
        }
        Ok(())
    };
    daemon.stop(nix::sys::signal::Signal::SIGKILL)?;
    another("without a daemon")?;
    daemon.launch()?;
    daemon.wait_ready(PATIENCE * 3)?;
    another("after a restart")
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

/// Who is asked for, by a new connection.
fn answers(stage: &Stage, vip: SocketAddr) -> Result<bool> {
    Ok(stage.client.ns.enter(|| peer::get(vip, "/", SILENCE))?.is_ok())
}

#[test]
fn lists_say_who_may_use_a_service_and_are_changed_at_once() -> Result<()> {
    let other = |v6: bool| format!("protect: {{deny: [\"{}\"]}}", if v6 { "fd99::/16" } else { "10.99.0.0/16" });
    let (stage, mut daemon) = guarded_by("mesh-lists", &other)?;
    let (v4, v6) = (stage.client.v4, stage.client.v6);
    let own = |v6_too: bool| if v6_too { v6.to_string() } else { v4.to_string() };
    let change = |daemon: &Daemon, guard: &dyn Fn(bool) -> String| -> Result<()> {
        daemon.write_config(&guarded_config(&stage, guard)?)?;
        daemon.ok(&["reload"]).map(drop)
    };
    let vips = [at(GUARDED[0], PORT)?, at(GUARDED[1], PORT)?];
    for vip in vips {
        ensure!(answers(&stage, vip)?, "{vip}: nobody has denied the client");
    }
    // The client alone is let in by a longer prefix than all that is denied.
    change(&daemon, &|v6| format!("protect: {{allow: [\"{}\"]}}", own(v6)))?;
    for vip in vips {
        let held = Held::open(&stage.client.ns, vip, 1, Duration::from_millis(10), PATIENCE)?;
        ensure!(held.finish().iter().all(|life| life.broken.is_none()), "{vip}: the client is allowed");
    }
    let told = daemon.json(&["explain", "10.77.0.250:1000", &vips[0].to_string()])?;
    ensure!(told["reason"] == "denied" && told["service"] == "web4", "{told}");
    // What stands is cut off as well.
    let held = vips.map(|vip| Held::open(&stage.client.ns, vip, 1, Duration::from_millis(10), SILENCE));
    change(&daemon, &|v6| format!("protect: {{deny: [\"{}\"]}}", own(v6)))?;
    for (vip, service) in vips.into_iter().zip(["web4", "web6"]) {
        daemon.until("the client is denied", || Ok(refused(&daemon, service, "denied")? > 0))?;
        ensure!(!answers(&stage, vip)?, "{vip}: the client is denied");
    }
    // A daemon that starts anew finds the lists as they are, and nobody gets in meanwhile.
    daemon.stop(nix::sys::signal::Signal::SIGKILL)?;
    ensure!(!answers(&stage, vips[0])?, "the client is denied without a daemon");
    daemon.launch()?;
    daemon.wait_ready(PATIENCE * 3)?;
    for vip in vips {
        ensure!(!answers(&stage, vip)?, "{vip}: the client is denied after a restart");
    }
    for held in held {
        ensure!(held?.finish().iter().all(|life| life.broken.is_some()), "what stood goes on, though its source is denied");
    }
    change(&daemon, &|_| "protect: {}".to_owned())?;
    for vip in vips {
        let end = std::time::Instant::now() + PATIENCE;
        while !answers(&stage, vip)? {
            ensure!(std::time::Instant::now() < end, "{vip}: nobody is denied any more; log:\n{}", daemon.log());
        }
    }
    Ok(())
}
