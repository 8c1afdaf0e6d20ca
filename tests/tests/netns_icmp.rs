//! Control messages between real stacks: pings of every size, path MTU discovery through the balancer, refusals.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged, Process, mesh_binary},
    netns::{Namespace, run},
    peer,
    stage::{PORT, Stage},
};
use nix::sys::socket::{setsockopt, sockopt};

const PATIENCE: Duration = Duration::from_secs(20);
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
/// A port of the VIPs whose backends don't listen.
const DEAF: u16 = 9999;
/// One whose service has no backend.
const EMPTY: u16 = 9998;
/// One whose backend is behind a router.
const BEYOND: u16 = 9997;
const BEHIND: [&str; 2] = ["10.79.0.2", "fd79::2"];
/// One of a service that takes datagrams in outer headers.
const WRAPPED: u16 = 9996;

fn config(stage: &Stage, hook: &str, mode: &str) -> Result<String> {
    let port = port(mode);
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let (family, backend) = (if v6 { 6 } else { 4 }, stage.address("b1", v6)?);
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if mode == "dnat" { format!("reply_via: \"{client}\", ") } else { String::new() };
        text += &format!(
            "  - {{name: web{family}, vip: \"{vip}\", port: {port}, mode: {mode}, {via}announce: {{address: eth0}}, backends: [\"{backend}\"]}}\n"
        );
        text += &format!(
            "  - {{name: deaf{family}, vip: \"{vip}\", port: {DEAF}, protocol: udp, mode: nat, health: none, backends: [{{address: \"{}\", port: 9}}]}}\n",
            backend.ip()
        );
        text += &format!(
            "  - {{name: beyond{family}, vip: \"{vip}\", port: {BEYOND}, protocol: udp, mode: nat, health: none, backends: [{{address: \"{}\", port: 9}}]}}\n",
            BEHIND[usize::from(v6)]
        );
        if mode == "tunnel" {
            text += &format!(
                "  - {{name: wrapped{family}, vip: \"{vip}\", port: {WRAPPED}, protocol: udp, mode: tunnel, health: none, backends: [\"{}\"]}}\n",
                backend.ip()
            );
        }
        for protocol in ["tcp", "udp"] {
            text += &format!(
                "  - {{name: empty-{protocol}{family}, vip: \"{vip}\", port: {EMPTY}, protocol: {protocol}, mode: nat, health: none, \
                 when_empty: reject, backends: []}}\n"
            );
        }
    }
    Ok(text)
}

/// Where backends own the VIP, their port is its own.
fn port(mode: &str) -> u16 {
    if matches!(mode, "dsr" | "tunnel") { PORT } else { 80 }
}

/// A host behind another one, which becomes its router, with addresses of these nets.
fn behind(router: &Namespace, group: &str, name: &str, nets: [&str; 2]) -> Result<Namespace> {
    let host = Namespace::new(group, name)?;
    let [v4, v6] = nets;
    router.sysctl("net/ipv4/ip_forward", "1")?;
    router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    router.ip(&format!("link add {name}0 type veth peer name eth0 netns {}", host.name()))?;
    for (ns, dev, n) in [(router, &*format!("{name}0"), 1), (&host, "eth0", 2)] {
        ns.ip(&format!("address add {v4}.{n}/24 dev {dev}"))?;
        ns.ip(&format!("address add {v6}::{n}/64 dev {dev} nodad"))?;
        ns.ip(&format!("link set {dev} up"))?;
    }
    host.ip(&format!("route add default via {v4}.1"))?;
    host.ip(&format!("route add default via {v6}::1"))?;
    Ok(host)
}

/// A host behind the client: by a link that carries less in that direction than the host knows.
fn far_behind(stage: &Stage, group: &str) -> Result<Namespace> {
    let client = &stage.client;
    let far = behind(&client.ns, group, "far", ["10.78.0", "fd78"])?;
    client.ns.ip("link set far0 mtu 1300")?;
    for host in stage.backends.values() {
        host.ns.ip(&format!("route add 10.78.0.0/24 via {}", client.v4))?;
        host.ns.ip(&format!("route add fd78::/64 via {}", client.v6))?;
    }
    Ok(far)
}

/// A host behind the backend.
fn beyond(stage: &Stage, group: &str) -> Result<Namespace> {
    let (b1, balancer) = (&stage.backends["b1"], &stage.balancer.ns);
    let beyond = behind(&b1.ns, group, "beyond", ["10.79.0", "fd79"])?;
    balancer.ip(&format!("route add 10.79.0.0/24 via {}", b1.v4))?;
    balancer.ip(&format!("route add fd79::/64 via {}", b1.v6))?;
    Ok(beyond)
}

/// As `traceroute` does: datagrams with one hop more each, until one has arrived. The balancer is the first, the router behind it the second, and the backend,
/// where nobody listens, says so. All errors come from the VIP, for what was sent to it.
fn traces(stage: &Stage) -> Result<()> {
    for vip in VIPS {
        let to: SocketAddr = (vip.parse::<IpAddr>()?, BEYOND).into();
        for (hops, error) in [(1, ErrorKind::HostUnreachable), (2, ErrorKind::HostUnreachable), (3, ErrorKind::ConnectionRefused)] {
            let said = stage.client.ns.enter(|| said_about(to, hops))??;
            ensure!(said == error, "a datagram of {hops} hops to {to}: {said:?}, and not {error:?}");
        }
    }
    Ok(())
}

/// The error that a datagram of so many hops leads to.
fn said_about(to: SocketAddr, hops: i32) -> Result<ErrorKind> {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4Ttl, &hops)?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6Ttl, &hops)?;
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    socket.connect(to)?;
    // Who says errors may limit them.
    let end = Instant::now() + PATIENCE;
    loop {
        // One that was said about the last one is told here, too.
        if let Err(e) = socket.send(b"who is there?") {
            return Ok(e.kind());
        }
        match socket.recv(&mut [0; 16]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => ensure!(Instant::now() < end, "nothing is said about {hops} hops to {to}"),
            Err(e) => return Ok(e.kind()),
            Ok(_) => anyhow::bail!("a datagram of {hops} hops to {to} is answered"),
        }
    }
}

/// A datagram that fills the client's link does not fit with an outer header: the balancer says what does, and the client's kernel goes by it.
fn adapts(stage: &Stage, daemon: &Daemon) -> Result<()> {
    for (vip, headers, fits) in [(VIPS[0], 28, 1480), (VIPS[1], 48, 1460)] {
        let to: SocketAddr = (vip.parse::<IpAddr>()?, WRAPPED).into();
        daemon.until(&format!("the client knows what fits to {vip}"), || {
            stage.client.ns.enter(|| -> std::io::Result<()> {
                let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(to)?;
                // An error about an earlier one is told here.
                let _ = socket.send(&vec![7; 1500 - headers]);
                Ok(())
            })??;
            let route = stage.client.ns.command("ip").args(["route", "get", vip]).output()?;
            Ok(String::from_utf8_lossy(&route.stdout).contains(&format!("mtu {fits}")))
        })?;
    }
    Ok(())
}

/// Whole answers get through though segments of the size that was agreed don't: the backend learns what fits.
fn discovers_the_path(far: &Namespace, port: u16) -> Result<()> {
    for vip in VIPS {
        let to: SocketAddr = (vip.parse::<IpAddr>()?, port).into();
        let body = far
            .enter(|| peer::get(to, "/bytes/300000", PATIENCE))?
            .with_context(|| format!("nothing came from {to} over the narrow link"))?;
        ensure!(body.len() == 300_000, "{} bytes of 300,000 from {to}", body.len());
    }
    Ok(())
}

fn pings(stage: &Stage) -> Result<()> {
    for (vip, sizes) in VIPS.into_iter().zip([[0, 1, 56, 1471, 1472, 1473, 4000], [0, 1, 56, 1451, 1452, 1453, 4000]]) {
        for size in sizes {
            let mut ping = stage.client.ns.command("ping");
            run(ping.args(["-c", "1", "-W", "10", "-s", &size.to_string(), vip])).with_context(|| format!("{size} bytes to {vip}"))?;
        }
    }
    Ok(())
}

/// What an error makes of a datagram's sender.
fn refused(stage: &Stage, port: u16) -> Result<()> {
    for vip in VIPS {
        let to: SocketAddr = (vip.parse::<IpAddr>()?, port).into();
        let answer = stage.client.ns.enter(|| -> std::io::Result<usize> {
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.connect(to)?;
            // The host that the error comes from may limit its errors.
            let end = Instant::now() + PATIENCE;
            loop {
                socket.send(b"anybody?")?;
                match socket.recv(&mut [0; 16]) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
                    other => return other,
                }
            }
        })?;
        ensure!(answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "a datagram to {to}: {answer:?}");
    }
    Ok(())
}

fn reset(stage: &Stage) -> Result<()> {
    for vip in VIPS {
        let to: SocketAddr = (vip.parse::<IpAddr>()?, EMPTY).into();
        let refused = stage.client.ns.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        ensure!(refused.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "a connection to {to}: {refused:?}");
    }
    Ok(())
}

/// `dnat`: answers come back through the balancer.
fn routes(stage: &Stage) -> Result<()> {
    for host in stage.backends.values() {
        host.lead_back(["10.78.0.0/24", "fd78::/64"], &stage.balancer)?;
    }
    Ok(())
}

fn by(group: &str, hook: &str, mode: &str) -> Result<()> {
    let mut stage = Stage::build(group, &[("b1", 11)])?;
    stage.serve("b1")?;
    let _agent = if mode == "tunnel" {
        let mut command = stage.backends["b1"].ns.command(mesh_binary()?);
        command.args(["agent", "--interface", "eth0", "--vip", VIPS[0], "--vip", VIPS[1]]);
        Some(Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?)
    } else {
        None
    };
    if matches!(mode, "dsr" | "tunnel") {
        for vip in VIPS {
            let (host, vip) = (&stage.backends["b1"], SocketAddr::new(vip.parse()?, PORT));
            // The agent owns what it is told of by itself.
            if mode == "tunnel" {
                host.until_owned(vip)?
            } else {
                host.own_quietly(vip.ip())?
            }
            stage.serve_at("b1", vip)?;
        }
    }
    let far = far_behind(&stage, group)?;
    let _beyond = beyond(&stage, group)?;
    if mode == "dnat" {
        routes(&stage)?;
    }
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, mode)?)?;
    let all = || {
        pings(&stage)?;
        discovers_the_path(&far, port(mode))?;
        refused(&stage, DEAF)?;
        refused(&stage, EMPTY)?;
        reset(&stage)?;
        traces(&stage)?;
        if mode == "tunnel" { adapts(&stage, &daemon) } else { Ok(()) }
    };
    all().logged(&daemon)
}

#[test]
fn nat_by_xdp() -> Result<()> {
    by("mesh-icmp-nx", "xdp", "nat")
}

#[test]
fn nat_by_tc() -> Result<()> {
    by("mesh-icmp-nt", "tc", "nat")
}

#[test]
fn dsr_by_xdp() -> Result<()> {
    by("mesh-icmp-dx", "xdp", "dsr")
}

#[test]
fn dnat_by_xdp() -> Result<()> {
    by("mesh-icmp-tx", "xdp", "dnat")
}

#[test]
fn tunnel_by_xdp() -> Result<()> {
    by("mesh-icmp-ux", "xdp", "tunnel")
}

#[test]
fn tunnel_by_tc() -> Result<()> {
    by("mesh-icmp-ut", "tc", "tunnel")
}
