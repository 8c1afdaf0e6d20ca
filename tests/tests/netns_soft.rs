//! False alarms where nobody translates: new flows go elsewhere while one lasts, and no connection breaks when it comes, nor when it goes.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bench::churn::unbroken,
    daemon::{Daemon, Process},
    netns::run,
    peer,
    stage::Stage,
    world::{BACKENDS, PATIENCE, World},
};

const NODES: [&str; 2] = ["10.77.0.2:7946", "10.77.0.3:7946"];
const VIP: &str = "10.77.0.100:8080";
/// Until then nothing is promised to flows of a service.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Between short connections: no port comes again before all others have had their turn, which takes longer than `idle`.
const PACE: Duration = Duration::from_millis(5);
const ALARMS: usize = 3;
const HELD: usize = 24;

/// A node that alone can take nobody out for being silent, for another one sees all backends well.
struct Alarmed {
    world: World,
    peer: Daemon,
    _agents: Vec<Process>,
    _keys: tempfile::TempDir,
}

impl Alarmed {
    fn new(group: &str, mode: &str) -> Result<Self> {
        let [b1, b2, b3] = BACKENDS;
        let mut stage = Stage::build(group, &[b1, b2, b3, ("peer", 3)])?;
        let names = BACKENDS.map(|(name, _)| name);
        names.iter().try_for_each(|name| stage.serve(name))?;
        let agents = if mode == "dnat" { Vec::new() } else { stage.serve_vip(&names, VIP.parse()?, mode == "tunnel")? };
        // A port that comes again within the ledger's `idle` is to the balancer a flow that goes on, and stays where it was.
        stage.client.ns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let keys = tempfile::tempdir()?;
        let key = keys.path().join("key");
        fs::write(&key, "0123456789abcdef")?;
        let back = if mode == "dnat" { back_by_the_balancer(&stage)? } else { String::new() };
        // Asked directly, so that checks and clients' packets can be told apart.
        let service = format!("mode: {mode}, {back}slots: 256, health: {{type: tcp, interval: 200ms, through: direct}}");
        let service = mesh_tests::world::config(&stage, &names, &service)?;
        let config = |n: usize| {
            format!(
                "ledger: {{handshake: {}s, idle: 30s}}\npeers: {{listen: '{}', nodes: ['{}'], key_file: '{}', interval: 500ms}}\n{service}",
                HANDSHAKE.as_secs(),
                NODES[n],
                NODES[1 - n],
                key.display()
            )
        };
        let peer = Daemon::start(&stage.backends["peer"].ns, &config(1).replace("announce: {address: eth0}, ", ""))?;
        let daemon = Daemon::start(&stage.balancer.ns, &config(0))?;
        let alarmed = Self { peer, world: World { daemon, stage, vip: VIP.parse()? }, _agents: agents, _keys: keys };
        for daemon in [&alarmed.world.daemon, &alarmed.peer] {
            daemon.until("pulses are answered and the other node is heard", || {
                let backends = daemon.json(&["backend", "ls", "web"])?;
                let heard = daemon.json(&["status"])?["peers"]["nodes"][0]["fresh"] == true;
                Ok(heard && backends.as_array().context("no list")?.iter().all(|b| b["health"]["suspicion"]["pulse_rtt_us"].is_u64()))
            })?;
        }
        std::thread::sleep(HANDSHAKE);
        alarmed.world.until("each backend is given new flows", |w| Ok(w.ask(60)?.len() == 3))?;
        Ok(alarmed)
    }

    /// What the balancer itself asks b1 is lost; clients' packets are not, for those come from them, or in IP.
    fn alarm(&self) -> Result<()> {
        let rules =
            "table netdev lost { chain in { type filter hook ingress device eth0 priority 0; ip saddr 10.77.0.2 ip protocol tcp drop; }\n}";
        run(self.world.stage.backends["b1"].ns.command("nft").arg(rules))
    }

    fn all_clear(&self) -> Result<()> {
        run(self.world.stage.backends["b1"].ns.command("nft").arg("delete table netdev lost"))
    }
}

/// Answers to clients come by the balancer, and go on by what is returned.
fn back_by_the_balancer(stage: &Stage) -> Result<String> {
    stage.backends.values().try_for_each(|host| host.route_by(stage.client.v4, stage.balancer.v4))?;
    Ok(format!("reply_via: \"{}\", ", stage.client.v4))
}

/// Ends what runs beside a test, however that ends.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn false_alarms_break_nothing(group: &str, mode: &str) -> Result<()> {
    let alarmed = Alarmed::new(group, mode)?;
    let world = &alarmed.world;
    let hold = || world.hold(HELD, PATIENCE);
    let mut held = vec![hold()?];
    let over = &AtomicBool::new(false);
    let short = std::thread::scope(|scope| -> Result<usize> {
        let vip = world.vip;
        let client = &world.stage.client.ns;
        let short = scope.spawn(move || {
            client.enter(|| {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    peer::get(vip, "/", PATIENCE).with_context(|| format!("after {done} short connections"))?;
                    done += 1;
                    std::thread::sleep(PACE);
                }
                Ok::<_, anyhow::Error>(done)
            })
        });
        let until = Until(over);
        for n in 1..=ALARMS {
            alarmed.alarm()?;
            world.until("b1 is suspected", |w| Ok(w.became("b1", "soft")?.len() == n))?;
            world.until("new flows are kept from b1", |w| Ok(!w.ask(20)?.contains_key("b1")))?;
            held.push(hold()?);
            let who = world.ask(90)?;
            ensure!(who.keys().eq(["b2", "b3"]), "{who:?} took new flows while b1 was suspected");
            let state = world.daemon.json(&["backend", "show", "web", "b1"])?;
            ensure!(state["state"] == "soft", "the alarm is over too early: {state}");
            let clear = Instant::now();
            alarmed.all_clear()?;
            world.until("b1 is trusted again", |w| Ok(w.became("b1", "active")?.len() > n))?;
            // Each flap doubles the time without a doubt that trust takes.
            let (held_back, least) = (clear.elapsed(), Duration::from_millis(900) * (1 << (n - 1)));
            ensure!(held_back >= least, "trusted again after {held_back:?}, alarm {n}");
            world.until("b1 is given new flows again", |w| Ok(w.ask(20)?.contains_key("b1")))?;
            held.push(hold()?);
        }
        drop(until);
        short.join().ok().context("the short connections' thread panicked")??
    })?;
    let reports: Vec<_> = held.into_iter().flat_map(|held| held.finish()).collect();
    unbroken(&reports)?;
    ensure!(reports.iter().filter(|r| r.owner == "b1").count() >= ALARMS && short > 100, "{short} short ones, {reports:?}");
    ensure!(world.became("b1", "down")?.is_empty(), "one node alone has taken b1 out");
    let ledger = world.daemon.json(&["status"])?["ledger"].clone();
    ensure!(ledger["elsewhere"].as_u64() > Some(0), "no flow went elsewhere by entry: {ledger}");
    Ok(())
}

#[test]
fn false_alarms_break_nothing_in_dsr() -> Result<()> {
    false_alarms_break_nothing("mesh-soft-dsr", "dsr")
}

#[test]
fn false_alarms_break_nothing_in_a_tunnel() -> Result<()> {
    false_alarms_break_nothing("mesh-soft-tun", "tunnel")
}

#[test]
fn false_alarms_break_nothing_in_dnat() -> Result<()> {
    false_alarms_break_nothing("mesh-soft-dnat", "dnat")
}
