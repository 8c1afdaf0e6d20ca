//! Datagrams larger than any packet: real stacks cut them up and put them together, with the balancer between, in every mode.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Logged, Process, mesh_binary},
    fixture::{Frame, Piece},
    netns::Namespace,
    stage::{PORT, Stage},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
/// A second address of the client.
const SECOND: [&str; 2] = ["10.77.0.3", "fd77::3"];
const SIZES: [usize; 4] = [1473, 4000, 9000, 20_000];
/// Clients that ask at the same time, and questions of each.
const CLIENTS: u8 = 4;
const QUESTIONS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer is waited for before the question is put again: a busy machine loses a fragment now and then.
const AGAIN: Duration = Duration::from_millis(700);

/// A server that says what it is told, until it goes.
struct Echo {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(ns: &Namespace, at: &[SocketAddr]) -> Result<Self> {
        let mut echo = Self { end: Arc::default(), threads: Vec::new() };
        for address in at {
            let socket = ns.enter(|| UdpSocket::bind(address))?.with_context(|| format!("failed to serve at {address}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let end = Arc::clone(&echo.end);
            echo.threads.push(std::thread::spawn(move || {
                let mut datagram = vec![0; 65_536];
                while !end.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = socket.recv_from(&mut datagram) {
                        let _ = socket.send_to(&datagram[..len], from);
                    }
                }
            }));
        }
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn config(stage: &Stage, hook: &str, mode: &str) -> Result<String> {
    let mut text = format!("interfaces: [{{name: eth0, hook: {hook}}}]\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if mode == "dnat" { format!("reply_via: \"{client}\", ") } else { String::new() };
        let backends = BACKENDS.iter().map(|(name, _)| {
            let address = stage.address(name, v6)?;
            Ok(if matches!(mode, "nat" | "dnat") { format!("\"{address}\"") } else { format!("\"{}\"", address.ip()) })
        });
        text += &format!(
            "  - {{name: echo{}, vip: \"{vip}\", port: {PORT}, protocol: udp, mode: {mode}, {via}announce: {{address: eth0}}, health: none, \
             backends: [{}]}}\n",
            if v6 { 6 } else { 4 },
            backends.collect::<Result<Vec<_>>>()?.join(", ")
        );
    }
    Ok(text)
}

/// What has to be set up by hand in this mode; what runs on the backends.
fn prepare(stage: &Stage, mode: &str) -> Result<(Vec<Echo>, Vec<Process>)> {
    let (mut echoes, mut agents) = (Vec::new(), Vec::new());
    for (name, _) in BACKENDS {
        let host = &stage.backends[name];
        let mut at = vec![stage.address(name, false)?, stage.address(name, true)?];
        if matches!(mode, "dsr" | "tunnel") {
            for vip in VIPS {
                host.own_quietly(vip.parse()?)?;
                at.push((vip.parse::<IpAddr>()?, PORT).into());
            }
        }
        if mode == "tunnel" {
            let mut command = host.ns.command(mesh_binary()?);
            command.args(["agent", "--interface", "eth0", "--vip", VIPS[0], "--vip", VIPS[1]]);
            agents.push(Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
        }
        if mode == "dnat" {
            for client in [stage.client.v4.to_string(), SECOND[0].into()] {
                host.ns.ip(&format!("route add {client}/32 via {}", stage.balancer.v4))?;
            }
            for client in [stage.client.v6.to_string(), SECOND[1].into()] {
                host.ns.ip(&format!("-6 route add {client}/128 via {}", stage.balancer.v6))?;
            }
        }
        echoes.push(Echo::start(&host.ns, &at)?);
    }
    Ok((echoes, agents))
}

/// Asks until the same comes back, or patience is over.
fn ask(from: IpAddr, to: SocketAddr, question: &[u8]) -> Result<()> {
    let socket = UdpSocket::bind((from, 0)).with_context(|| format!("no socket at {from}"))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(AGAIN))?;
    let (mut answer, end) = (vec![0; 65_536], Instant::now() + PATIENCE);
    while Instant::now() < end {
        // An error about an earlier one is told here: what fits is known from then on.
        if socket.send(question).is_err() {
            continue;
        }
        match socket.recv(&mut answer) {
            Ok(len) if answer[..len] == *question => return Ok(()),
            Ok(len) => anyhow::bail!("{len} bytes from {to} that are not what was said to it"),
            // None yet, or a packet on the way did not fit.
            Err(_) => {}
        }
    }
    anyhow::bail!("{} bytes to {to}: no answer within {PATIENCE:?}", question.len())
}

/// Clients at once, each with datagrams of all sizes, whose content is its own.
fn converse(stage: &Stage, v6: bool) -> Result<()> {
    let to: SocketAddr = (VIPS[usize::from(v6)].parse::<IpAddr>()?, PORT).into();
    let own: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
    let sources = [own, SECOND[usize::from(v6)].parse()?];
    let client = |n: u8| {
        let source = sources[usize::from(n % 2)];
        for i in 0..QUESTIONS {
            let size = SIZES[i % SIZES.len()];
            let question: Vec<u8> = (0..size).map(|at| (at / 7) as u8 ^ n.wrapping_mul(41) ^ i as u8).collect();
            ask(source, to, &question).with_context(|| format!("client {n} at {source}, question {i}"))?;
        }
        Ok(())
    };
    stage.client.ns.enter(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked"))))
        })
    })?
}

fn reason(daemon: &Daemon, name: &str) -> Result<u64> {
    let status = daemon.json(&["status"])?;
    Ok(status.pointer(&format!("/reasons/{name}/packets")).and_then(Value::as_u64).unwrap_or(0))
}

/// A later fragment whose first one never came is dropped, and told by its own reason.
fn early(stage: &Stage, daemon: &Daemon) -> Result<()> {
    let vip: IpAddr = VIPS[0].parse()?;
    let packet = Frame::bare(stage.client.v4.into(), vip, 17).with(|f| {
        (f.id, f.fragment, f.payload) = (0xbeef, Some(Piece { offset: 185, more: false }), vec![7; 64]);
    });
    let before = reason(daemon, "no_first_fragment")?;
    stage.client.ns.enter(|| -> Result<()> {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        let to: SockaddrStorage = SocketAddr::from((vip, 0)).into();
        for _ in 0..3 {
            sendto(raw.as_raw_fd(), &packet.ip_packet(), &to, MsgFlags::empty())?;
        }
        Ok(())
    })??;
    daemon.until("later fragments without a first are counted", || Ok(reason(daemon, "no_first_fragment")? > before))
}

fn by(group: &str, hook: &str, mode: &str) -> Result<()> {
    let stage = Stage::build(group, &BACKENDS)?;
    stage.client.ns.ip(&format!("address add {}/24 dev eth0", SECOND[0]))?;
    stage.client.ns.ip(&format!("address add {}/64 dev eth0 nodad", SECOND[1]))?;
    let (_echoes, _agents) = prepare(&stage, mode)?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, hook, mode)?)?;
    for v6 in [false, true] {
        converse(&stage, v6).with_context(|| format!("{mode} by {hook}")).logged(&daemon)?;
    }
    // Of each size, its fragments; answers come by in two modes.
    let fragments: usize = SIZES.iter().map(|size| size.div_ceil(1480)).sum::<usize>() * QUESTIONS / SIZES.len() * 2 * usize::from(CLIENTS);
    let seen = reason(&daemon, "forwarded")?;
    ensure!(seen >= fragments as u64, "{seen} packets were forwarded, of {fragments} at least");
    if matches!(mode, "nat" | "dnat") {
        let replied = reason(&daemon, "replied")?;
        ensure!(replied >= fragments as u64, "{replied} packets of answers, of {fragments} at least");
    }
    early(&stage, &daemon)
}

#[test]
fn nat_by_xdp() -> Result<()> {
    by("mesh-frag-nx", "xdp", "nat")
}

#[test]
fn nat_by_tc() -> Result<()> {
    by("mesh-frag-nt", "tc", "nat")
}

#[test]
fn dnat_by_xdp() -> Result<()> {
    by("mesh-frag-dx", "xdp", "dnat")
}

#[test]
fn dsr_by_tc() -> Result<()> {
    by("mesh-frag-st", "tc", "dsr")
}

#[test]
fn tunnel_by_xdp() -> Result<()> {
    by("mesh-frag-tx", "xdp", "tunnel")
}

#[test]
fn tunnel_by_tc() -> Result<()> {
    by("mesh-frag-tt", "tc", "tunnel")
}
