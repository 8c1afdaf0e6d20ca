//! A client, a balancer and backends that fail in turn, with requests going on all the time.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use mesh::{
    control::view::StateWord,
    events::{Event, What},
};

use super::{
    balancer::{Balancer, CHECK_PORT, Mode, Named, PORT, Settings},
    load::{Load, Tally},
    ways::{Victim, Way, mac_of},
    window::{Scene, Window, window},
    wire::Wire,
};
use crate::{
    daemon::{Process, mesh_binary},
    netns::{Fabric, Host},
};

const VIP: [u8; 4] = [10, 77, 0, 100];
const FIRST: u8 = 11;
/// A backend has to be back within this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long nothing may have been sent to a backend before a trial is over.
const QUIET: Duration = Duration::from_millis(120);

/// All of it; ends with this value, the requests first.
#[derive(Debug)]
pub struct World {
    load: Load,
    wire: Wire,
    balancer: Balancer,
    victims: Vec<Victim>,
    turn: usize,
    /// When the last failure began.
    failed_at: u64,
    /// Number of the last event that was looked at.
    seq: u64,
    mode: Mode,
    /// Where clients' packets come from.
    client: Ipv4Addr,
    vip: SocketAddr,
    balancer_mac: [u8; 6],
    balancer_port: usize,
    _hosts: [Host; 2],
    fabric: Fabric,
}

/// What one trial brought.
#[derive(Clone, Copy, Debug)]
pub enum Trial {
    /// It was found out.
    Found(Window),
    /// It was still sent packets when time was up.
    Kept,
}

/// What a balancer said of a trial.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// How often a backend was called dead, by right or not.
    pub dead: usize,
    /// Its events, with the time since the failure.
    pub story: Vec<String>,
}

impl World {
    /// `rate`: requests a second.
    pub fn build(group: &str, mode: Mode, settings: Settings, backends: u8, rate: u32) -> Result<Self> {
        let fabric = Fabric::new(group)?;
        let (client, balancer_host) = (fabric.host("client", 1)?, fabric.host("balancer", 2)?);
        let vip = SocketAddr::from((VIP, PORT));
        let mut victims = (0..backends).map(|i| victim(&fabric, FIRST + i, mode, vip)).collect::<Result<Vec<_>>>()?;
        if mode == Mode::Dnat {
            victims.iter_mut().try_for_each(|victim| victim.answer_by(client.v4, balancer_host.v4))?;
        }
        let named: Vec<_> = victims.iter().map(named).collect();
        let balancer = match mode {
            Mode::Haproxy => Balancer::haproxy(&balancer_host.ns, vip, &named)?,
            Mode::Nat | Mode::Dnat | Mode::Dsr | Mode::Tunnel => Balancer::mesh(&balancer_host.ns, client.v4, mode, settings, vip, &named)?,
        };
        for backend in &named {
            balancer.wait_for(backend, PATIENCE)?;
        }
        let wire = Wire::tap(fabric.switch(), port(&fabric, 1)?)?;
        let load = Load::start(&client.ns, vip, rate)?;
        std::thread::sleep(Duration::from_secs(1));
        let tally = load.take();
        ensure!(tally.done > 0 && tally.failed == 0, "before anything fails, {tally:?}; the balancer's log:\n{}", balancer.log());
        let (balancer_mac, balancer_port) = (mac_of(&balancer_host)?, port(&fabric, 2)?);
        let asks_from = client.v4;
        let _hosts = [client, balancer_host];
        Ok(Self {
            load,
            wire,
            balancer,
            victims,
            turn: 0,
            failed_at: 0,
            seq: 0,
            mode,
            client: asks_from,
            vip,
            balancer_mac,
            balancer_port,
            _hosts,
            fabric,
        })
    }

    /// Has the next backend fail, watches for `limit` at most, and brings it back.
    pub fn trial(&mut self, way: Way, limit: Duration) -> Result<Trial> {
        let n = self.turn % self.victims.len();
        self.turn += 1;
        let backend = named(&self.victims[n]);
        self.balancer.wait_for(&backend, PATIENCE)?;
        // Probes are regular: trials must not be.
        std::thread::sleep(Duration::from_micros((self.turn as u64 * 7919) % 40_000));
        self.wire.clear();
        let victim_port = port(&self.fabric, FIRST + n as u8)?;
        let failed_at = now_ns();
        self.failed_at = failed_at;
        let slowness = self.victims[n].fail(way, self.balancer_mac)?;
        let victim = self.victims[n].mac;
        let outcome = self.watch(&backend, limit, &Scene { way, failed_at, victim, victim_port, balancer_port: self.balancer_port });
        drop(slowness);
        self.victims[n].heal(way)?;
        let outcome = outcome?;
        self.balancer.renew(&backend)?;
        Ok(outcome)
    }

    fn watch(&self, backend: &Named, limit: Duration, scene: &Scene) -> Result<Trial> {
        let end = Instant::now() + limit;
        while !self.balancer.gave_up(backend)? {
            if Instant::now() > end {
                return Ok(Trial::Kept);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        loop {
            let seen = window(&self.wire.frames(), scene, |f| self.mode.of_client(f, self.client, self.vip));
            let quiet = now_ns().saturating_sub(seen.last.max(scene.failed_at));
            if u128::from(quiet) > QUIET.as_nanos() {
                return Ok(Trial::Found(seen));
            }
            if Instant::now() > end {
                return Ok(Trial::Kept);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// What the balancer said since the last call.
    pub fn said(&mut self) -> Result<Said> {
        let events = self.balancer.events(self.seq)?;
        self.seq = events.last().map_or(self.seq, |e| e.seq);
        let dead = events.iter().filter(|e| matches!(e.what, What::BackendState { to: StateWord::Down, .. })).count();
        let ago = |e: &Event| e.time_ms as i64 - (self.failed_at / 1_000_000) as i64;
        Ok(Said { dead, story: events.iter().map(|e| format!("{:>6} ms: {}", ago(e), e.what)).collect() })
    }

    /// What became of the requests since the last call; the youngest are still under way.
    pub fn tally(&self) -> Tally {
        self.load.take()
    }
}

fn victim(fabric: &Fabric, number: u8, mode: Mode, vip: SocketAddr) -> Result<Victim> {
    let name = format!("b{number}");
    let host = fabric.host(&name, number)?;
    let mut addresses = vec![SocketAddr::from((host.v4, PORT))];
    let mut agent = None;
    match mode {
        Mode::Nat | Mode::Dnat => {}
        Mode::Dsr => {
            host.own_quietly(vip.ip())?;
            addresses.push(vip);
        }
        Mode::Tunnel => {
            agent = Some(take_outer_headers_off(&host, vip.ip())?);
            addresses.push(vip);
        }
        Mode::Haproxy => addresses.push((host.v4, CHECK_PORT).into()),
    }
    Victim::new(name, host, addresses, agent)
}

/// Starts `mesh agent`, and waits until the host owns the VIP.
fn take_outer_headers_off(host: &Host, vip: IpAddr) -> Result<Process> {
    let vip = vip.to_string();
    let mut command = host.ns.command(mesh_binary()?);
    command.args(["agent", "--interface", "eth0", "--vip", &vip]).stdout(Stdio::null()).stderr(Stdio::null());
    let agent = Process::spawn(&mut command)?;
    let end = Instant::now() + PATIENCE;
    while host.ns.command("ip").args(["-o", "address", "show", "dev", "lo", "to", &vip]).output()?.stdout.is_empty() {
        ensure!(Instant::now() < end, "no agent has taken {vip} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(agent)
}

fn named(victim: &Victim) -> Named {
    Named { name: victim.name.clone(), address: (victim.host.v4, PORT).into() }
}

/// Interface index of a host's port on the switch.
fn port(fabric: &Fabric, number: u8) -> Result<usize> {
    let index = fabric.switch().enter(|| nix::net::if_::if_nametoindex(format!("p{number}").as_str()))?;
    Ok(index.with_context(|| format!("host {number} has no port"))? as usize)
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
