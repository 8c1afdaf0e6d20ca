//! What becomes of new connections while all breakers are open, and while all backends are out, by each policy and with real packets; old ones go on with
//! backends that live.

use std::{
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    bench::churn::unbroken,
    daemon::{Daemon, Process, peer_binary, wait_for},
    netns::run,
    peer::{self, Held},
    stage::{PORT, Stage},
    world::{BACKENDS, PATIENCE},
};
use serde_json::Value;

const VIP: [u8; 4] = [10, 77, 0, 100];
/// Until then nothing is promised to flows of a service.
const HANDSHAKE: Duration = Duration::from_secs(2);
const HELD: usize = 6;

/// One service each, from port 9001 on.
const POLICIES: [&str; 4] = ["drop", "reject", "pass", "fail_static"];

fn address(policy: usize) -> SocketAddr {
    (VIP, 9001 + policy as u16).into()
}

/// What a new connection meets.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Met {
    Answer(String),
    Refused,
    Silence,
}

struct World {
    daemon: Daemon,
    stage: Stage,
    /// Answers at the VIP on the balancer's own host.
    _host: Process,
}

impl World {
    fn new(group: &str, mode: &str) -> Result<Self> {
        let mut stage = Stage::build(group, &BACKENDS)?;
        for (name, _) in BACKENDS {
            let host = &stage.backends[name];
            let own = host.v4;
            let at = if mode == "nat" { own.into() } else { VIP.into() };
            if mode != "nat" {
                host.own_quietly(at)?;
            }
            let services = (0..POLICIES.len()).map(|n| SocketAddr::from((at, address(n).port())));
            let listen: Vec<SocketAddr> = services.chain([(own, PORT).into()]).collect();
            stage.serve_at_all(name, &listen)?;
        }
        let mut config =
            format!("interfaces: [{{name: eth0, hook: xdp}}]\nledger: {{handshake: {}s, idle: 30s}}\nservices:\n", HANDSHAKE.as_secs());
        for (n, policy) in POLICIES.iter().enumerate() {
            let backends: Vec<_> = BACKENDS
                .iter()
                .map(|(name, _)| format!("{{name: {name}, address: \"{}:{}\"}}", stage.backends[name].v4, address(n).port()))
                .collect();
            config += &format!(
                "- {{name: {policy}, vip: '{}', mode: {mode}, announce: {{address: eth0}}, when_empty: {policy}, \
                 health: {{type: tcp, port: {PORT}, interval: 200ms, detector: rise_fall}}, \
                 breaker: {{consecutive: 2, open: 1h, max_open: 1h}}, backends: [{}]}}\n",
                address(n),
                backends.join(", ")
            );
        }
        let daemon = Daemon::start(&stage.balancer.ns, &config)?;
        let vips = (0..POLICIES.len()).map(|n| address(n).to_string());
        let host = Process::spawn(stage.balancer.ns.command(peer_binary()?).arg("host").args(vips))?;
        std::thread::sleep(HANDSHAKE);
        let world = Self { daemon, stage, _host: host };
        for (n, policy) in POLICIES.iter().enumerate() {
            world.until(&format!("all serve {policy}"), || Ok(world.meets(n, 30)?.len() == 3))?;
        }
        Ok(world)
    }

    fn until(&self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        self.daemon.until(what, holds)
    }

    /// What so many new connections to a policy's service meet, each thing once.
    fn meets(&self, policy: usize, count: usize) -> Result<Vec<Met>> {
        let met = self.stage.client.ns.enter(|| (0..count).map(|_| meet(address(policy))).collect::<Result<Vec<_>>>())??;
        let mut once: Vec<Met> = Vec::new();
        met.into_iter().for_each(|m| {
            if !once.contains(&m) {
                once.push(m)
            }
        });
        Ok(once)
    }

    /// Backends answer SYNs to these ports by RST.
    fn refuse(&self, table: &str, ports: &str) -> Result<()> {
        let rule = format!("tcp dport {ports} tcp flags & (syn | ack) == syn reject with tcp reset;");
        let rules = format!("table inet {table} {{ chain in {{ type filter hook input priority 0; {rule} }}\n}}");
        self.stage.backends.values().try_for_each(|host| run(host.ns.command("nft").arg(&rules)))
    }

    fn all_are(&self, state: &str) -> Result<bool> {
        let backends = self.daemon.json(&["backend", "ls"])?;
        let all: Vec<&Value> = backends.as_array().into_iter().flatten().collect();
        Ok(all.len() == 3 * POLICIES.len() && all.iter().all(|b| b["state"] == state))
    }

    /// Each policy does what it says.
    fn policies_hold(&self, when: &str) -> Result<()> {
        let host = || Met::Answer("host".to_owned());
        for (n, wanted) in [Met::Silence, Met::Refused, host()].into_iter().enumerate() {
            self.until(&format!("{}: {wanted:?} while {when}", POLICIES[n]), || Ok(self.meets(n, 1)? == [wanted.clone()]))?;
            let count = if wanted == Met::Silence { 2 } else { 30 };
            let met = self.meets(n, count)?;
            ensure!(met == [wanted], "{} while {when}: {met:?}", POLICIES[n]);
        }
        self.until(&format!("all three are used all the same while {when}"), || {
            let met = self.meets(3, 60)?;
            Ok(met.len() == 3 && met.iter().all(|m| matches!(m, Met::Answer(who) if who != "host")))
        })
    }
}

fn meet(to: SocketAddr) -> Result<Met> {
    let stream = match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
        Ok(stream) => stream,
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(Met::Refused),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(Met::Silence),
        Err(e) => bail!("{to}: {e}"),
    };
    drop(stream);
    Ok(Met::Answer(peer::get(to, "/", PATIENCE).with_context(|| format!("{to} takes a connection, and then it does not answer"))?))
}

fn policies(group: &str, mode: &str) -> Result<()> {
    let world = World::new(group, mode)?;
    let hold = |n| Held::open(&world.stage.client.ns, address(n), HELD, Duration::from_millis(20), PATIENCE);
    let held = (0..POLICIES.len()).map(hold).collect::<Result<Vec<_>>>()?;
    // Clients are refused, and the probed port is not: that is the breakers' alone.
    world.refuse("shut", "9001-9004")?;
    wait_for("all breakers are open", || {
        let _ = world.stage.client.ns.enter(|| {
            for n in (0..POLICIES.len()).cycle().take(200) {
                let _ = TcpStream::connect_timeout(&address(n), Duration::from_millis(50));
            }
        });
        // Who fails static is used, and shown by what it is.
        let backends = world.daemon.json(&["backend", "ls"])?;
        Ok(backends.as_array().is_some_and(|all| all.iter().all(|b| b["breaker"]["state"] == "open")))
    })?;
    world.stage.backends.values().try_for_each(|host| run(host.ns.command("nft").args(["delete", "table", "inet", "shut"])))?;
    world.policies_hold("all breakers are open")?;
    let reports: Vec<_> = held.into_iter().flat_map(Held::finish).collect();
    unbroken(&reports)?;
    // Now the probed port refuses: all are out, though they could serve.
    world.refuse("out", &PORT.to_string())?;
    world.until("all are down", || world.all_are("down"))?;
    world.policies_hold("all are down")
}

#[test]
fn each_policy_holds_in_nat() -> Result<()> {
    policies("mesh-empty-nat", "nat")
}

#[test]
fn each_policy_holds_in_dsr() -> Result<()> {
    policies("mesh-empty-dsr", "dsr")
}

/// What a datagram meets, on a socket of its own.
fn ask(to: SocketAddr) -> Result<Met> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(to)?;
    socket.send(b"anybody?")?;
    let mut answer = [0; 128];
    match socket.recv(&mut answer) {
        Ok(len) => Ok(Met::Answer(String::from_utf8_lossy(&answer[..len]).split(' ').next().unwrap_or_default().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(Met::Refused),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Met::Silence),
        Err(e) => bail!("{to}: {e}"),
    }
}

/// Senders of datagrams learn of it by ICMP while all backends are out, though those, and the balancer's own host, would take them.
fn datagrams_are_refused(group: &str, mode: &str) -> Result<()> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    let vip = SocketAddr::from((VIP, PORT));
    let names = BACKENDS.map(|(name, _)| name);
    names.iter().try_for_each(|name| stage.serve(name))?;
    let _agents = if mode == "nat" { Vec::new() } else { stage.serve_vip(&names, vip, mode == "tunnel")? };
    let health = format!("health: {{type: tcp, port: {PORT}, interval: 200ms, detector: rise_fall, through: direct}}");
    let config = mesh_tests::world::config(&stage, &names, &format!("protocol: udp, mode: {mode}, when_empty: reject, {health}"))?;
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    let host = stage.balancer.ns.enter(|| UdpSocket::bind(vip))??;
    let met = || stage.client.ns.enter(|| ask(vip))?;
    let served = |met: Met| matches!(met, Met::Answer(who) if names.contains(&who.as_str()));
    daemon.until("datagrams are answered", || Ok(served(met()?)))?;
    let rules = format!("table inet out {{ chain in {{ type filter hook input priority 0; tcp dport {PORT} reject with tcp reset; }}\n}}");
    stage.backends.values().try_for_each(|host| run(host.ns.command("nft").arg(&rules)))?;
    let all_are_down = || {
        let backends = daemon.json(&["backend", "ls"])?;
        Ok(backends.as_array().is_some_and(|all| all.len() == BACKENDS.len() && all.iter().all(|b| b["state"] == "down")))
    };
    daemon.until("all are down", all_are_down)?;
    daemon.until("datagrams are refused", || Ok(met()? == Met::Refused))?;
    host.set_nonblocking(true)?;
    let passed = host.recv(&mut [0; 128]);
    ensure!(passed.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock), "the host was given one: {passed:?}");
    stage.backends.values().try_for_each(|host| run(host.ns.command("nft").args(["delete", "table", "inet", "out"])))?;
    daemon.until("datagrams are answered again", || Ok(served(met()?)))
}

#[test]
fn datagrams_are_refused_in_nat() -> Result<()> {
    datagrams_are_refused("mesh-emud-nat", "nat")
}

#[test]
fn datagrams_are_refused_in_dsr() -> Result<()> {
    datagrams_are_refused("mesh-emud-dsr", "dsr")
}
