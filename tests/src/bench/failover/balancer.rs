//! Who balances: mesh, or HAProxy as the peer that it is compared with.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mesh::{
    api::{BackendRef, Client},
    control::view::StateWord,
    events::Event,
    model::{BackendId, ServiceName},
};
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::wire::Frame;
use crate::{
    daemon::{Daemon, Process},
    netns::Namespace,
};

/// How packets are forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Nat,
    /// Answers come back by the balancer, and go on to the client, which stands for a router.
    Dnat,
    Dsr,
    /// IP in IP, with `mesh agent` on the backends.
    Tunnel,
    /// By HAProxy, connection by connection.
    Haproxy,
}

/// How backends are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Settings {
    /// What mesh does where a service says no more than `health: http`.
    Default,
    /// A probe every 10 ms.
    #[value(name = "10ms")]
    Fast,
}

/// Port of clients, and of backends.
pub const PORT: u16 = 8080;
/// HAProxy's checks go to another port of the same server, so that on the wire they can be told from clients' packets.
pub const CHECK_PORT: u16 = 8081;
/// Of a log that is shown, so much.
const LOG_LINES: usize = 30;
/// The balancer's own ports begin here; those of translated flows are below.
const LOCAL_PORTS: u16 = 32_768;

/// A backend as the balancer is told it.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    pub address: SocketAddr,
}

/// A running balancer.
#[derive(Debug)]
pub enum Balancer {
    // The daemon is asked through its own API, by a runtime that has nothing else to do.
    Mesh { daemon: Daemon, client: Client, runtime: Runtime, service: ServiceName },
    Haproxy { process: Process, socket: PathBuf, _directory: tempfile::TempDir },
}

impl Settings {
    /// The `health` of the service.
    fn health(self) -> &'static str {
        match self {
            Self::Default => "http",
            Self::Fast => "{type: http, path: /, interval: 10ms, timeout: 10ms, rise: 2, fall: 3}",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fast => "10ms",
        }
    }
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
            Self::Haproxy => "haproxy",
        }
    }

    /// Whether a frame that the balancer sends carries a client's packet, and no probe.
    pub fn of_client(self, frame: &Frame, client: Ipv4Addr, vip: SocketAddr) -> bool {
        match self {
            Self::Nat => frame.to_addr.port() == PORT && frame.from_addr.port() < LOCAL_PORTS,
            Self::Dnat => frame.to_addr.port() == PORT && *frame.from_addr.ip() == client,
            // Probes may go to the VIP as well.
            Self::Dsr | Self::Tunnel => SocketAddr::from(frame.to_addr) == vip && *frame.from_addr.ip() == client,
            Self::Haproxy => frame.to_addr.port() == PORT,
        }
    }
}

impl Balancer {
    pub fn mesh(ns: &Namespace, client: Ipv4Addr, mode: Mode, settings: Settings, vip: SocketAddr, backends: &[Named]) -> Result<Self> {
        let back = if mode == Mode::Dnat { format!("reply_via: \"{client}\", ") } else { String::new() };
        let list: Vec<_> = backends.iter().map(|b| format!("{{name: {}, address: \"{}\"}}", b.name, b.address)).collect();
        let config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n- {{name: web, vip: \"{vip}\", mode: {}, {back}announce: {{address: eth0}}, health: {}, backends: [{}]}}\n",
            mode.name(),
            settings.health(),
            list.join(", ")
        );
        let daemon = Daemon::start(ns, &config)?;
        let client = Client::new(daemon.socket());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to make a runtime for the API")?;
        Ok(Self::Mesh { daemon, client, runtime, service: "web".parse().map_err(anyhow::Error::msg)? })
    }

    /// HAProxy with what is usual for short outages: failed connections are tried again with another server.
    pub fn haproxy(ns: &Namespace, vip: SocketAddr, backends: &[Named]) -> Result<Self> {
        ns.ip(&format!("address add {}/24 dev eth0", vip.ip()))?;
        let directory = tempfile::Builder::new().prefix("mesh-bench-").tempdir()?;
        let socket = directory.path().join("admin");
        let servers: String = backends
            .iter()
            .map(|b| {
                format!("  server {} {} check port {CHECK_PORT} inter 100ms fall 3 on-marked-down shutdown-sessions\n", b.name, b.address)
            })
            .collect();
        let text = format!(
            "global\n  maxconn 4000\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 10s\n  timeout server 10s\n\
             \x20 retries 3\n  option redispatch 1\nfrontend f\n  bind {vip}\n  default_backend b\nbackend b\n  balance random\n  option httpchk GET /\n{servers}",
            socket.display()
        );
        let config = directory.path().join("haproxy.cfg");
        fs::write(&config, text)?;
        let mut command = ns.command("haproxy");
        let process = Process::spawn(command.args(["-db", "-f"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null()))?;
        Ok(Self::Haproxy { process, socket, _directory: directory })
    }

    /// Whether it sends new flows to a backend, as many as ever.
    pub fn uses(&self, backend: &Named) -> Result<bool> {
        Ok(self.state(backend)? == StateWord::Active)
    }

    /// Waits until it does. Who was called dead falsely has a small share for a while, and is begun anew instead.
    pub fn wait_for(&self, backend: &Named, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut patience = Instant::now() + Duration::from_secs(5);
        while !self.uses(backend)? {
            ensure!(Instant::now() < end, "{} was not used within {limit:?}; the balancer's log:\n{}", backend.name, self.log());
            if Instant::now() > patience {
                patience = Instant::now() + Duration::from_secs(5);
                self.renew(backend)?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether it has given a backend up: nothing is sent to it.
    pub fn gave_up(&self, backend: &Named) -> Result<bool> {
        Ok(self.state(backend)? == StateWord::Down)
    }

    fn state(&self, backend: &Named) -> Result<StateWord> {
        match self {
            Self::Mesh { client, runtime, service, .. } => {
                let wanted = BackendRef::Id(BackendId(backend.address));
                Ok(runtime.block_on(client.backend(service, &wanted))?.state)
            }
            Self::Haproxy { socket, .. } => proxy_state(socket, &backend.name),
        }
    }

    /// Has the balancer forget a backend's past, so that the next failure of it finds the same balancer as the first. HAProxy keeps none.
    pub fn renew(&self, backend: &Named) -> Result<()> {
        let Self::Mesh { client, runtime, service, .. } = self else { return Ok(()) };
        let spec = serde_json::from_value(json!({ "address": backend.address.to_string(), "name": backend.name }))?;
        runtime.block_on(async {
            client.remove_backend(service, &BackendRef::Id(BackendId(backend.address))).await?;
            client.add_backend(service, &spec).await
        })?;
        Ok(())
    }

    /// Events after number `since`; HAProxy has none.
    pub fn events(&self, since: u64) -> Result<Vec<Event>> {
        match self {
            Self::Mesh { client, runtime, .. } => Ok(runtime.block_on(client.events(since))?),
            Self::Haproxy { .. } => Ok(Vec::new()),
        }
    }

    /// The last of what it has to say if something is wrong.
    pub fn log(&self) -> String {
        match self {
            Self::Mesh { daemon, .. } => {
                let log = daemon.log();
                let lines: Vec<_> = log.lines().collect();
                lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
            }
            Self::Haproxy { process, .. } => format!("haproxy is process {:?}", process.id()),
        }
    }
}

/// One line of `show stat` is a server: proxy, name, ..., status in field 18.
fn proxy_state(socket: &Path, name: &str) -> Result<StateWord> {
    let mut answer = String::new();
    // Until it listens, nobody is up.
    let Ok(mut stream) = UnixStream::connect(socket) else { return Ok(StateWord::Unknown) };
    stream.write_all(b"show stat\n")?;
    stream.read_to_string(&mut answer)?;
    let line = answer.lines().map(|l| l.split(',').collect::<Vec<_>>()).find(|f| f.first() == Some(&"b") && f.get(1) == Some(&name));
    let status = line.and_then(|f| f.get(17).map(|s| (*s).to_owned())).with_context(|| format!("HAProxy knows no server {name}"))?;
    Ok(match status.as_str() {
        "UP" => StateWord::Active,
        "DOWN" => StateWord::Down,
        // `UP 1/3` on the way down, `DOWN 1/2` on the way up.
        _ => StateWord::Unknown,
    })
}
