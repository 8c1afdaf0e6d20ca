//! How a backend is made to fail, and how it is brought back.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use super::balancer::Settings;
use crate::{
    daemon::{Process, peer_binary},
    netns::{Host, run},
};

/// A way to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The server's process is killed: its host refuses connections.
    Kill,
    /// The host's link goes down.
    Cut,
    /// What the balancer sends to the host is lost; the other way is open.
    Drop,
    /// The server's process is stopped: its host completes handshakes, nobody answers.
    Stop,
    /// The server's process runs a tenth of the time.
    Slow,
}

impl Way {
    /// How long a trial is watched. Who is slow may well stay in use; three checks and the timeout are over by then.
    pub fn limit(self, settings: Settings) -> Duration {
        match (self, settings) {
            (Self::Slow, Settings::Default) => Duration::from_millis(4000),
            (Self::Slow, Settings::Fast) => Duration::from_millis(1500),
            (Self::Kill | Self::Cut | Self::Drop | Self::Stop, _) => Duration::from_secs(20),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Cut => "cut",
            Self::Drop => "drop",
            Self::Stop => "stop",
            Self::Slow => "slow",
        })
    }
}

/// A host with a server that can fail.
#[derive(Debug)]
pub struct Victim {
    pub name: String,
    pub host: Host,
    pub mac: [u8; 6],
    /// Where it listens.
    addresses: Vec<SocketAddr>,
    server: Process,
    /// Takes outer headers off; goes on whatever becomes of the server.
    _agent: Option<Process>,
    /// Answers to the first host go by the second one.
    back: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Victim {
    /// Starts the server on all of `addresses`.
    pub fn new(name: String, host: Host, addresses: Vec<SocketAddr>, agent: Option<Process>) -> Result<Self> {
        host.ns.sysctl("net/ipv4/tcp_max_syn_backlog", "4096")?;
        host.ns.sysctl("net/core/somaxconn", "4096")?;
        let mac = mac_of(&host)?;
        let server = serve(&name, &host, &addresses)?;
        Ok(Self { name, host, mac, addresses, server, _agent: agent, back: None })
    }

    /// From now on answers to `client` go by another host.
    pub fn answer_by(&mut self, client: Ipv4Addr, by: Ipv4Addr) -> Result<()> {
        self.back = Some((client, by));
        self.host.route_by(client, by)
    }

    /// Fails. What is returned goes on until it is dropped.
    pub fn fail(&mut self, way: Way, balancer: [u8; 6]) -> Result<Option<Slowness>> {
        match way {
            Way::Kill => self.server.kill()?,
            Way::Cut => self.host.unplug()?,
            Way::Drop => self.lose_frames_of(balancer)?,
            Way::Stop => self.signal(Signal::SIGSTOP)?,
            Way::Slow => return Ok(Some(Slowness::begin(self.pid()?))),
        }
        Ok(None)
    }

    /// Undoes [`Victim::fail`].
    pub fn heal(&mut self, way: Way) -> Result<()> {
        match way {
            Way::Kill => self.server = serve(&self.name, &self.host, &self.addresses)?,
            Way::Cut => {
                self.host.plug()?;
                self.back.map_or(Ok(()), |(client, by)| self.host.route_by(client, by))?;
            }
            Way::Drop => run(self.host.ns.command("nft").args(["delete", "table", "netdev", "lost"]))?,
            Way::Stop | Way::Slow => self.signal(Signal::SIGCONT)?,
        }
        Ok(())
    }

    /// Whatever stands between Ethernet and IP counts as lost, so that even the address is no longer answered for.
    fn lose_frames_of(&self, balancer: [u8; 6]) -> Result<()> {
        let mac = balancer.map(|b| format!("{b:02x}")).join(":");
        let rules =
            format!("table netdev lost {{ chain in {{ type filter hook ingress device eth0 priority 0; ether saddr {mac} drop; }}\n}}");
        run(self.host.ns.command("nft").arg(rules))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("failed to signal the server of {}", self.name))
    }

    fn pid(&self) -> Result<Pid> {
        let id = self.server.id().with_context(|| format!("the server of {} does not run", self.name))?;
        Ok(Pid::from_raw(i32::try_from(id)?))
    }
}

/// Ethernet address of a host.
pub fn mac_of(host: &Host) -> Result<[u8; 6]> {
    let shown = host.ns.command("ip").args(["-j", "link", "show", "eth0"]).output().context("failed to start ip")?;
    let links: serde_json::Value = serde_json::from_slice(&shown.stdout).context("ip printed no JSON")?;
    let text = links[0]["address"].as_str().context("eth0 has no address")?;
    let bytes: Vec<u8> = text.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes.try_into().ok().with_context(|| format!("`{text}` is no Ethernet address"))
}

fn serve(name: &str, host: &Host, addresses: &[SocketAddr]) -> Result<Process> {
    // Backends have machines of their own; here they share one with the balancer, so what else runs here goes after them.
    let mut command = host.ns.command("nice");
    command.args(["-n", "-10"]).arg(peer_binary()?).arg(name).args(addresses.iter().map(SocketAddr::to_string));
    Process::spawn(&mut command)
}

/// Stops and continues a process by turns.
#[derive(Debug)]
pub struct Slowness {
    over: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

const STOPPED: Duration = Duration::from_millis(45);
const RUNNING: Duration = Duration::from_millis(5);

impl Slowness {
    fn begin(pid: Pid) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let worker = std::thread::spawn(move || {
            // A process that has ended is not signalled any more: its number may be another's by then.
            while !stop.load(Ordering::Relaxed) && fs::exists(format!("/proc/{pid}/stat")).unwrap_or(false) {
                for (signal, span) in [(Signal::SIGSTOP, STOPPED), (Signal::SIGCONT, RUNNING)] {
                    let _ = kill(pid, signal);
                    std::thread::sleep(span);
                }
            }
        });
        Self { over, worker: Some(worker) }
    }
}

impl Drop for Slowness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
