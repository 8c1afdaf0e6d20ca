//! QUIC connections through services that look at connection ids, in each mode: they outlive everything that happens to the table and to the daemon, and
//! moves of their clients to other ports and addresses.

use std::{
    net::{IpAddr, SocketAddr},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bench::churn::unbroken,
    daemon::{Daemon, LIMIT, Logged, Process, mesh_binary},
    netns::Host,
    peer::{QuicHeld, QuicServer, ServerId},
    stage::{PORT, Stage},
};
use nix::sys::signal::Signal;
use serde_json::Value;

const BACKENDS: [(&str, u8); 4] = [("b1", 11), ("b2", 12), ("b3", 13), ("b4", 14)];
/// Server ids that are given; the others' are the last two bytes of their addresses, of either family.
const GIVEN: [(&str, u32); 2] = [("b1", 0x0101), ("b2", 0xfe02)];
const LENGTH: usize = 2;
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
/// Addresses that the client has besides.
const OTHERS: [&str; 2] = ["10.77.0.200", "fd77::200"];
const PAUSE: Duration = Duration::from_millis(50);
/// More than twice as long as nothing is forwarded while a program is loaded anew on a busy machine: so long a side may wait before it tries again.
const PATIENCE: Duration = Duration::from_secs(150);
const HANDSHAKE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(6);
const HELD: usize = 9;

struct World {
    // Each ends before what it runs in.
    daemon: Daemon,
    servers: Vec<QuicServer>,
    agents: Vec<Process>,
    stage: Stage,
    mode: &'static str,
}

fn vips() -> [SocketAddr; 2] {
    VIPS.map(|vip| (vip.parse::<IpAddr>().expect("an address"), PORT).into())
}

fn id_of(name: &str, number: u8) -> u32 {
    GIVEN.iter().find(|(given, _)| *given == name).map_or(u32::from(number), |(_, id)| *id)
}

fn config(stage: &Stage, mode: &str, quic: bool) -> Result<String> {
    let ledger = format!("ledger: {{handshake: {}s, idle: {}s, patience: 1s}}", HANDSHAKE.as_secs(), IDLE.as_secs());
    let mut text = format!("interfaces: [{{name: eth0, hook: xdp}}]\n{ledger}\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let client: IpAddr = if v6 { stage.client.v6.into() } else { stage.client.v4.into() };
        let via = if mode == "dnat" { format!("reply_via: \"{client}\", ") } else { String::new() };
        let mut members = Vec::new();
        for (name, _) in &BACKENDS[..3] {
            let id = GIVEN.iter().find(|(given, _)| quic && given == name).map(|(_, id)| format!(", quic_server_id: {id:#x}"));
            members.push(format!("{{name: {name}, address: \"{}\"{}}}", stage.address(name, v6)?, id.unwrap_or_default()));
        }
        let quic = if quic { format!("quic: {{server_id_length: {LENGTH}}}, ") } else { String::new() };
        text += &format!(
            "  - {{name: q{}, vip: \"{vip}\", port: {PORT}, protocol: udp, mode: {mode}, {via}{quic}slots: 256, announce: {{address: eth0}}, \
             health: none, backends: [{}]}}\n",
            if v6 { 6 } else { 4 },
            members.join(", ")
        );
    }
    Ok(text)
}

/// What the mode wants of a backend.
fn prepare(stage: &Stage, host: &Host, mode: &str) -> Result<Option<Process>> {
    match mode {
        "dsr" => vips().iter().try_for_each(|vip| host.own_quietly(vip.ip()))?,
        "tunnel" => {
            let mut agent = host.ns.command(mesh_binary()?);
            agent.args(["agent", "--interface", "eth0", "--vip", VIPS[0], "--vip", VIPS[1]]);
            let agent = Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?;
            vips().into_iter().try_for_each(|vip| host.until_owned(vip))?;
            return Ok(Some(agent));
        }
        "dnat" => host.lead_back([OTHERS[0], "10.77.0.1", OTHERS[1], "fd77::1"], &stage.balancer)?,
        _ => {}
    }
    Ok(None)
}

impl World {
    fn new(group: &str, mode: &'static str, quic: bool) -> Result<Self> {
        let stage = Stage::build(group, &BACKENDS)?;
        let mut agents = Vec::new();
        for host in stage.backends.values() {
            agents.extend(prepare(&stage, host, mode)?);
        }
        stage.client.ns.ip(&format!("address add {}/24 dev eth0", OTHERS[0]))?;
        stage.client.ns.ip(&format!("address add {}/64 dev eth0 nodad", OTHERS[1]))?;
        let mut servers = Vec::new();
        for (name, number) in BACKENDS {
            for (vip, v6) in vips().into_iter().zip([false, true]) {
                let listen = if matches!(mode, "dsr" | "tunnel") { vip } else { stage.address(name, v6)? };
                let id = ServerId { id: id_of(name, number), length: LENGTH };
                servers.push(QuicServer::start(&stage.backends[name].ns, name, listen, Some(id))?);
            }
        }
        let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, mode, quic)?)?;
        // From then on flows are promised something.
        sleep(2 * HANDSHAKE);
        Ok(Self { daemon, servers, agents, stage, mode })
    }

    /// Connections of both families.
    fn hold(&self, count: usize, patience: Duration) -> Result<Vec<QuicHeld>> {
        vips().iter().map(|vip| QuicHeld::open(&self.stage.client.ns, *vip, count, PAUSE, patience)).collect()
    }

    /// All clients get other ports, or other addresses, and are asked from there.
    fn rebind(&self, held: &[QuicHeld], elsewhere: bool) -> Result<()> {
        for (connections, other) in held.iter().zip(OTHERS.into_iter().cycle()) {
            connections.rebind(&self.stage.client.ns, elsewhere.then(|| other.parse()).transpose()?)?;
        }
        asked(held)
    }

    /// `mesh backend ORDER SERVICE ...` for both services.
    fn order(&self, order: &str, words: &[&str]) -> Result<()> {
        ["q4", "q6"].iter().try_for_each(|service| self.daemon.ok(&[&["backend", order, service], words].concat()).map(drop))
    }

    fn drain(&self) -> Result<Value> {
        let drains = self.daemon.json(&["backend", "drains", "q4"])?;
        drains.get(0).cloned().with_context(|| format!("one drain was ordered: {drains}"))
    }
}

/// Waits until each has been asked twice more.
fn asked(held: &[QuicHeld]) -> Result<()> {
    let before: Vec<u64> = held.iter().map(QuicHeld::turns).collect();
    let end = Instant::now() + LIMIT + PATIENCE;
    while held.iter().zip(&before).any(|(h, before)| h.turns() < before + 2) {
        ensure!(Instant::now() < end, "connections were not asked in time");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether these connections have met this backend.
fn some_with(held: &[QuicHeld], name: &str) -> bool {
    held.iter().all(|connections| connections.so_far().iter().any(|report| report.owner == name))
}

fn owners(held: &[QuicHeld]) -> Vec<String> {
    held.iter().flat_map(QuicHeld::so_far).map(|report| report.owner).collect()
}

fn survives(group: &str, mode: &'static str) -> Result<()> {
    let mut world = World::new(group, mode, true)?;
    let mut held = world.hold(HELD, PATIENCE)?;
    // The hash says who is met: once in ten times there is nobody with one of the two.
    for _ in 0..30 {
        if some_with(&held, "b1") && some_with(&held, "b2") {
            break;
        }
        held = world.hold(HELD, PATIENCE)?;
    }
    ensure!(some_with(&held, "b1") && some_with(&held, "b2"), "too few are met: {:?}", owners(&held));
    world.rebind(&held, false)?;
    world.rebind(&held, true)?;
    // One of three is drained: its connections stay, wherever their clients go.
    world.order("drain", &["b2"])?;
    world.daemon.until("new connections avoid who is drained", || {
        let new = world.hold(8, PATIENCE)?;
        Ok(new.iter().flat_map(QuicHeld::so_far).all(|report| report.owner != "b2"))
    })?;
    world.rebind(&held, false)?;
    if mode != "nat" {
        world.daemon.until("its slots have come to rest", || Ok(world.drain()?["slots"] == 0))?;
        world.rebind(&held, true)?;
        sleep(Duration::from_secs(4));
    }
    ensure!(world.drain()?["state"] == "draining", "its connections live: {}", world.drain()?);
    // One comes, others weigh more and less.
    for (service, v6) in [("q4", false), ("q6", true)] {
        world.daemon.ok(&["backend", "add", service, &world.stage.address("b4", v6)?.to_string(), "--name", "b4"])?;
    }
    held.extend(world.hold(HELD, PATIENCE)?);
    world.order("weight", &["b1", "5"])?;
    world.order("weight", &["b3", "0"])?;
    world.rebind(&held, false)?;
    // The daemon dies; then all that it has loaded is lost, and with it the key of the hash.
    world.daemon.stop(Signal::SIGKILL)?;
    world.rebind(&held, true)?;
    world.daemon.launch()?;
    world.daemon.wait_ready(LIMIT)?;
    world.rebind(&held, false)?;
    world.daemon.leave(Signal::SIGTERM)?;
    world.daemon.launch()?;
    world.daemon.wait_ready(LIMIT)?;
    // Whoever moves speaks at once, and does not wait until it would try again.
    world.rebind(&held, true)?;
    // Who is removed keeps what it has.
    world.order("rm", &["b2"])?;
    world.rebind(&held, false)?;
    sleep(Duration::from_secs(3));
    world.rebind(&held, true)?;
    ensure!(some_with(&held[..2], "b2"), "nobody is with b2: {:?}", owners(&held));
    told(&world)?;
    let reports: Vec<_> = held.into_iter().flat_map(QuicHeld::finish).collect();
    ensure!(reports.len() == 4 * HELD, "{}", reports.len());
    unbroken(&reports).context(world.mode).logged(&world.daemon)?;
    ensure!(world.servers.len() == 8 && (world.mode == "tunnel") != world.agents.is_empty(), "somebody is gone");
    Ok(())
}

/// What the operator is shown.
fn told(world: &World) -> Result<()> {
    let shown = world.daemon.json(&["backend", "show", "q4", "b1"])?;
    ensure!(shown["quic_server_id"] == GIVEN[0].1, "{shown}");
    ensure!(world.daemon.json(&["backend", "show", "q6", "b3"])?["quic_server_id"] == 13, "the end of its address");
    ensure!(world.daemon.ok(&["service", "show", "q4"])?.contains("server ids of 2 bytes"), "it is not told");
    let destination = format!("{}:{PORT}/udp", VIPS[0]);
    let packet = ["explain", "198.51.100.7:4000", &destination, "--connection-id", "0b010155aa55aa55aa55aa55"];
    let told = world.daemon.json(&packet)?;
    let b1 = world.stage.address("b1", false)?.to_string();
    ensure!(told["by"] == "id" && told["backend"]["id"] == b1.as_str(), "{told}");
    ensure!(world.daemon.ok(&packet)?.contains("chosen by  its connection id"), "{}", world.daemon.ok(&packet)?);
    Ok(())
}

#[test]
fn nat_keeps_its_quic_connections() -> Result<()> {
    survives("mesh-quic-nat", "nat")
}

#[test]
fn dsr_keeps_its_quic_connections() -> Result<()> {
    survives("mesh-quic-dsr", "dsr")
}

#[test]
fn dnat_keeps_its_quic_connections() -> Result<()> {
    survives("mesh-quic-dnat", "dnat")
}

#[test]
fn a_tunnel_keeps_its_quic_connections() -> Result<()> {
    survives("mesh-quic-tun", "tunnel")
}

/// What is kept is kept by connection ids: where nobody looks at them, clients that move lose their servers.
#[test]
fn without_ids_connections_break_when_clients_move() -> Result<()> {
    let world = World::new("mesh-quic-none", "dsr", false)?;
    let held = world.hold(HELD, Duration::from_secs(3))?;
    asked(&held)?;
    let before: Vec<_> = held.iter().flat_map(QuicHeld::so_far).collect();
    unbroken(&before)?;
    world.rebind(&held, true)?;
    let broken = held.into_iter().flat_map(QuicHeld::finish).filter(|report| report.broken.is_some()).count();
    ensure!(broken > 0, "of {} connections all were led to their server by chance", 2 * HELD);
    Ok(())
}
