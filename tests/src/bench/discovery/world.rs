//! A client that sends, a balancer that is told of backends, and a host that is all of them.

use std::{
    cell::OnceCell,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh::{api::Client, model::ServiceName};
use tokio::runtime::Runtime;

use super::places::{Place, Running};
use crate::{
    daemon::Daemon,
    netns::{Fabric, Host, Namespace},
    registry::Ground,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Services have ports from here on.
const FIRST_PORT: u16 = 7000;
/// Port of backends.
const BACKEND_PORT: u16 = 9000;
/// Last octets of the backends' addresses: the one after the other, so that most are new to the balancer.
const BACKENDS: std::ops::Range<u8> = 120..180;
/// From one packet of the client to the next.
const PACE: Duration = Duration::from_micros(250);
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds to the first packet.
pub struct Times {
    pub begun_ms: f64,
    pub taken_ms: f64,
}

pub struct World<'g> {
    // What runs ends before what it runs in.
    sender: Flood,
    receiver: Sink,
    places: Vec<(Running<'g>, ServiceName)>,
    turn: usize,
    client: Client,
    daemon: Daemon,
    runtime: Runtime,
    balancer: Namespace,
    _hosts: [Host; 3],
    _fabric: Fabric,
}

impl<'g> World<'g> {
    /// `ground` is made here, and outlives what runs on it.
    pub fn build(group: &str, places: &[Place], ground: &'g OnceCell<Ground>) -> Result<Self> {
        let fabric = Fabric::new(group)?;
        let (client_host, balancer, backend) = (fabric.host("client", 1)?, fabric.host("balancer", 2)?, fabric.host("backend", 11)?);
        for last in BACKENDS {
            backend.ns.ip(&format!("address add 10.77.0.{last}/24 dev eth0"))?;
        }
        let made = Ground::within(&balancer.ns)?;
        let ground = ground.get_or_init(|| made);
        let runtime = balancer.ns.enter(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build())??;
        let mut config = String::from("interfaces: [{name: eth0, hook: xdp}]\nservices:\n");
        let mut running = Vec::new();
        for (place, port) in places.iter().zip(FIRST_PORT..) {
            let started = balancer.ns.enter(|| runtime.block_on(place.start(ground)))?;
            running.push((
                started.with_context(|| format!("failed to start {}", place.name()))?,
                place.name().parse().map_err(anyhow::Error::msg)?,
            ));
            config += &format!(
                "- name: {}\n  vip: {VIP}:{port}\n  protocol: udp\n  announce: {{address: eth0}}\n  health: none\n  {}\n",
                place.name(),
                place.key(ground)
            );
        }
        let daemon = Daemon::start(&balancer.ns, &config)?;
        let client = Client::new(daemon.socket());
        let (sender, receiver) = (Flood::start(&client_host.ns)?, Sink::start(&backend.ns)?);
        let ns = balancer.ns.alias()?;
        Ok(Self {
            sender,
            receiver,
            places: running,
            turn: 0,
            client,
            daemon,
            runtime,
            balancer: ns,
            _hosts: [client_host, balancer, backend],
            _fabric: fabric,
        })
    }

    /// Registers a backend, waits for its first packet, and takes it back.
    pub fn trial(&mut self, place: usize) -> Result<Times> {
        // An address is not used twice within the time that its old flows live, where there are enough of them.
        self.turn += 1;
        let octet = BACKENDS.start + (self.turn % BACKENDS.len()) as u8;
        let backend = SocketAddr::from(([10, 77, 0, octet], BACKEND_PORT));
        let port = FIRST_PORT + place as u16;
        self.backends(place, 0)?;
        self.receiver.forget();
        self.sender.aim(Some(port));
        // The sender is on its way before it matters, and the source is asked or watched again.
        std::thread::sleep(Duration::from_millis(100));
        let (places, balancer) = (&mut self.places, &self.balancer);
        let (running, name) = places.get_mut(place).context("no such place")?;
        let begun = Instant::now();
        balancer.enter(|| running.register(backend))??;
        let taken = Instant::now();
        let Some(first) = self.receiver.first(octet, PATIENCE) else {
            bail!("{name}: no packet came within {PATIENCE:?}; the daemon's log:\n{}", self.daemon.log());
        };
        self.sender.aim(None);
        balancer.enter(|| running.deregister())??;
        let ms = |from: Instant| first.saturating_duration_since(from).as_secs_f64() * 1e3;
        Ok(Times { begun_ms: ms(begun), taken_ms: ms(taken) })
    }

    /// Waits until the service has so many backends.
    fn backends(&self, place: usize, count: u32) -> Result<()> {
        let (_, name) = &self.places[place];
        let end = Instant::now() + PATIENCE;
        loop {
            let service = self.runtime.block_on(self.client.service(name))?;
            if service.backends == count {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{name} has {} backends and not {count}; the daemon's log:\n{}",
                service.backends,
                self.daemon.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Sends to the VIP, each datagram from a port of its own.
struct Flood {
    port: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(ns: &Namespace) -> Result<Self> {
        let (port, stop) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicBool::new(false)));
        let (aim, end, ns) = (Arc::clone(&port), Arc::clone(&stop), ns.alias()?);
        let thread = std::thread::spawn(move || {
            let sent = ns.enter(|| {
                while !end.load(Ordering::Relaxed) {
                    let port = aim.load(Ordering::Relaxed);
                    if port > 0
                        && let Ok(socket) = UdpSocket::bind("0.0.0.0:0")
                    {
                        // One that is lost is followed by the next.
                        let _ = socket.send_to(b"x", (VIP, port));
                    }
                    std::thread::sleep(PACE);
                }
            });
            if let Err(error) = sent {
                eprintln!("the client sends nothing: {error:#}");
            }
        });
        Ok(Self { port, stop, thread: Some(thread) })
    }

    fn aim(&self, port: Option<u16>) {
        self.port.store(port.unwrap_or(0), Ordering::Relaxed);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Notes when packets come, and at which backend: flows of one that is gone may still come to it.
struct Sink {
    came: mpsc::Receiver<(u8, Instant)>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    fn start(ns: &Namespace) -> Result<Self> {
        let (sender, came) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut sink = Self { came, stop, threads: Vec::new() };
        for octet in BACKENDS {
            let socket = ns.enter(|| UdpSocket::bind(SocketAddr::from(([10, 77, 0, octet], BACKEND_PORT))))??;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            let (sender, end) = (sender.clone(), Arc::clone(&sink.stop));
            sink.threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while !end.load(Ordering::Relaxed) {
                    if socket.recv_from(&mut buffer).is_ok() && sender.send((octet, Instant::now())).is_err() {
                        return;
                    }
                }
            }));
        }
        Ok(sink)
    }

    fn forget(&self) {
        while self.came.try_recv().is_ok() {}
    }

    /// When the first packet came to this backend.
    fn first(&self, octet: u8, limit: Duration) -> Option<Instant> {
        let end = Instant::now() + limit;
        loop {
            let (at, when) = self.came.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
            if at == octet {
                return Some(when);
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
