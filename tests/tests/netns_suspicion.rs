//! What the detector of suspicion finds with default settings, under the real daemon: killed, cut off and silent backends.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    netns::run,
    peer::{self, Held},
    stage::Stage,
    world::{self, BACKENDS, PATIENCE, World},
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A world whose backends are checked so. Pulses mean something once some were answered.
fn checked(group: &str, health: &str) -> Result<World> {
    let world = World::new(group, &format!("mode: nat, health: {health}"))?;
    world.until("pulses are answered", |w| {
        let backends = w.daemon.json(&["backend", "ls", "web"])?;
        let all = backends.as_array().context("no list")?;
        let pulse = |b: &Value| health.contains("pulse: none") || b["health"]["suspicion"]["pulse_rtt_us"].is_u64();
        Ok(all.iter().all(pulse))
    })?;
    Ok(world)
}

fn evidence(world: &World, name: &str, to: &str) -> Result<String> {
    world.until(&format!("{name} is {to}"), |w| Ok(!w.became(name, to)?.is_empty()))?;
    Ok(world.became(name, to)?[0]["evidence"].as_str().unwrap_or_default().to_owned())
}

/// Busy connections, each by itself: who waits for one backend doesn't keep the others quiet. So many that each backend has some: one that has a single
/// connection is asked so little that its silence says nothing.
fn hold(world: &World) -> Result<Vec<Held>> {
    (0..48).map(|_| Held::open(&world.stage.client.ns, world.vip, 1, Duration::from_millis(10), PATIENCE)).collect()
}

/// None of them broke, and b1 had some.
fn unbroken(held: Vec<Held>) -> Result<()> {
    let reports: Vec<_> = held.into_iter().flat_map(Held::finish).collect();
    let owned = reports.iter().filter(|r| r.owner == "b1").count();
    let broken = reports.iter().filter(|r| r.broken.is_some()).count();
    ensure!(owned > 0 && broken == 0, "{broken} broken, {owned} of b1: {reports:?}");
    Ok(())
}

#[test]
fn a_killed_process_is_found_by_refused_pulses() -> Result<()> {
    let mut world = checked("mesh-susp-kill", "tcp")?;
    world.stage.kill("b2")?;
    let evidence = evidence(&world, "b2", "down")?;
    ensure!(evidence.contains("pulses 6.0 + hints 4.0"), "its checks would have taken seconds: {evidence}");
    // Nobody else is doubted, and it comes back as it went.
    for name in ["b1", "b3"] {
        ensure!(world.became(name, "down")?.is_empty(), "{name} is well");
    }
    world.stage.serve("b2")?;
    world.until("b2 is back", |w| Ok(!w.became("b2", "recovering")?.is_empty()))
}

#[test]
fn a_host_that_is_cut_off_is_found_without_any_traffic() -> Result<()> {
    let world = checked("mesh-susp-cut", "http")?;
    world.stage.backends["b3"].unplug()?;
    let evidence = evidence(&world, "b3", "down")?;
    ensure!(evidence.contains("pulses 6.0"), "its checks would have taken seconds: {evidence}");
    world.stage.backends["b3"].plug()?;
    world.until("b3 is back", |w| Ok(!w.became("b3", "recovering")?.is_empty()))
}

#[test]
fn a_balancer_that_hears_nobody_doubts_itself() -> Result<()> {
    let world = checked("mesh-susp-blind", "tcp")?;
    world.stage.balancer.unplug()?;
    let doubted = world.until("it doubts itself", |w| Ok(w.events("vantage")?.iter().any(|e| e["blind"] == true)));
    // It finds the others again, and b1 a moment later.
    world.stage.backends["b1"].unplug()?;
    world.stage.balancer.plug()?;
    doubted?;
    std::thread::sleep(Duration::from_millis(300));
    world.stage.backends["b1"].plug()?;
    world.until("it hears them again", |w| Ok(w.events("vantage")?.iter().any(|e| e["blind"] == false)))?;
    for (name, _) in BACKENDS {
        ensure!(world.became(name, "down")?.is_empty(), "{name} was never away: {:?}", world.events("backend_state")?);
    }
    ensure!(world.ask(60)?.len() == 3, "all three serve");
    Ok(())
}

#[test]
fn a_false_alarm_breaks_no_connection() -> Result<()> {
    // Without pulses, and with a patient check, only the silence of its traffic speaks against a backend: that spares it new flows, no more.
    let world = checked("mesh-susp-false", "{type: http, interval: 6s, timeout: 6s, rise: 1, pulse: none}")?;
    let held = hold(&world)?;
    std::thread::sleep(Duration::from_secs(1));
    world.stage.backends["b1"].unplug()?;
    let suspected = world.until("b1 is soft", |w| Ok(!w.became("b1", "soft")?.is_empty()));
    let vip = world.vip;
    let answers = world.stage.client.ns.enter(|| (0..40).map(|_| peer::get(vip, "/", PATIENCE)).collect::<Result<Vec<_>, _>>());
    world.stage.backends["b1"].plug()?;
    suspected?;
    let answers = answers??;
    ensure!(answers.iter().all(|who| who != "b1"), "new flows went to a backend that is silent: {answers:?}");
    world.until("b1 is trusted again", |w| Ok(w.became("b1", "active")?.len() > 1))?;
    unbroken(held)?;
    ensure!(world.became("b1", "down")?.is_empty(), "a pause is no death");
    Ok(())
}

#[test]
fn whose_connections_go_on_is_not_called_dead() -> Result<()> {
    // As in a flood, no question reaches it: neither pulses nor trials. Its check alone would fall in half a minute.
    let world = checked("mesh-susp-busy", "{type: tcp, interval: 2s, timeout: 10s}")?;
    let held = hold(&world)?;
    std::thread::sleep(Duration::from_secs(1));
    let busy = &world.stage.backends["b1"].ns;
    let rules = "add table inet busy; add chain inet busy in { type filter hook input priority 0; }; \
                 add rule inet busy in tcp flags & (syn | ack) == syn drop";
    run(busy.command("nft").arg(rules))?;
    world.until("b1 is soft", |w| Ok(!w.became("b1", "soft")?.is_empty()))?;
    // Ten times as long as it takes to give up on one of which nothing is heard.
    std::thread::sleep(Duration::from_secs(1));
    run(busy.command("nft").arg("delete table inet busy"))?;
    world.until("b1 is trusted again", |w| Ok(w.became("b1", "active")?.len() > 1))?;
    unbroken(held)?;
    ensure!(world.became("b1", "down")?.is_empty(), "who answers lives: {:?}", world.events("backend_state")?);
    Ok(())
}

#[test]
fn rise_and_fall_alone_wait_for_their_checks() -> Result<()> {
    let mut stage = Stage::build("mesh-susp-rf", &BACKENDS)?;
    stage.serve("b1")?;
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: 10.77.0.100, port: 8080, \
         health: {{type: tcp, detector: rise_fall, interval: 50ms}}, backends: [\"{}\"]}}\n",
        stage.address("b1", false)?
    );
    let daemon = Daemon::start(&stage.balancer.ns, &config)?;
    stage.kill("b1")?;
    daemon.until("b1 is down", || {
        let backend = &daemon.json(&["backend", "ls", "web"])?[0];
        ensure!(backend["health"].get("suspicion").is_none(), "nothing is summed: {backend}");
        let down = backend["state"] == "down";
        ensure!(!down || backend["health"]["failures"].as_u64() >= Some(3), "{backend}");
        Ok(down)
    })
}

#[test]
fn a_daemon_that_slept_does_not_blame_its_backends() -> Result<()> {
    let world = checked("mesh-susp-sleep", "http")?;
    for _ in 0..3 {
        world.daemon.signal(Signal::SIGSTOP)?;
        // Longer than checks wait for their answers, and than three of them may fail.
        std::thread::sleep(Duration::from_millis(1200));
        world.daemon.signal(Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    for (name, _) in BACKENDS {
        ensure!(world.became(name, "down")?.is_empty(), "{name} was well: {:?}", world.events("backend_state")?);
    }
    ensure!(world.ask(60)?.len() == 3, "all three serve");
    Ok(())
}

/// Two of three fall silent, and only silence speaks against them: `health` says why no more than one may be taken out.
fn one_is_taken_out(group: &str, health: &str) -> Result<()> {
    let world = checked(group, health)?;
    let silent = ["b1", "b2"];
    silent.iter().try_for_each(|name| world.stage.backends[*name].unplug())?;
    let down =
        |w: &World| -> Result<usize> { Ok(silent.iter().filter(|name| w.became(name, "down").is_ok_and(|e| !e.is_empty())).count()) };
    world.until("one is down", |w| Ok(down(w)? > 0))?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(down(&world)? == 1 && world.became("b3", "down")?.is_empty(), "{:?}", world.events("backend_state")?);
    Ok(())
}

#[test]
fn suspicion_takes_out_no_more_than_its_budget() -> Result<()> {
    one_is_taken_out("mesh-susp-budget", "{type: http, interval: 20s, timeout: 5s, rise: 1, max_down: 50}")
}

#[test]
fn in_a_panic_suspicion_takes_nobody_else_out() -> Result<()> {
    one_is_taken_out("mesh-susp-panic", "{type: http, interval: 20s, timeout: 5s, rise: 1, max_soft: 100, max_down: 100, panic: 70}")
}

#[test]
fn who_was_never_checked_gets_nothing() -> Result<()> {
    let [b1, b2, b3] = BACKENDS;
    let mut stage = Stage::build("mesh-susp-new", &[b1, b2, b3, ("b4", 14)])?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    stage.serve("b4")?;
    // It takes connections, and answers nothing: what is known of it is that it was asked.
    run(stage.backends["b4"]
        .ns
        .command("nft")
        .arg("table inet mute { chain out { type filter hook output priority 0; tcp sport 8080 tcp flags & (psh | fin) != 0 drop; }\n}"))?;
    let mut world = World::of(stage, "mode: nat, health: {type: http, interval: 1s, timeout: 1s, fall: 60, pulse: none, passive: false}")?;
    world.daemon.ok(&["backend", "add", "web", "10.77.0.14", "--name", "b4"])?;
    let shown = |w: &World| w.daemon.json(&["backend", "show", "web", "b4"]);
    world.until("b4 was asked in vain", |w| Ok(shown(w)?["health"]["failures"].as_u64() > Some(1)))?;
    let state = shown(&world)?;
    ensure!(state["state"] == "unknown" && state["slots"] == 0, "{state}");
    ensure!(!world.ask(60)?.contains_key("b4"), "it was never found well");
    run(world.stage.backends["b4"].ns.command("nft").arg("delete table inet mute"))?;
    world.until("b4 serves", |w| Ok(w.ask(20)?.contains_key("b4")))?;
    world.stage.kill("b4")
}

/// Clients that come at once: where answers don't come by us, only the ends of handshakes tell the time.
const CLIENTS: usize = 24;
/// One handshake of 16 is watched, and thirty of each backend have to be seen.
const KNOWN: usize = 4000;
/// Nothing is promised to flows of a service before.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// What first spoke against a backend: how many flows fail is a channel of its own, and may make it dead at once.
fn doubted(world: &World, name: &str) -> Result<Option<Value>> {
    let mut events = world.became(name, "soft")?;
    events.extend(world.became(name, "down")?);
    Ok(events.into_iter().min_by_key(|event| event["seq"].as_u64()))
}

/// While the clients' half is all that the balancer sees, a backend that falls silent is noticed by its handshakes that don't end.
fn silence_is_heard_by_half(group: &str, mode: &str) -> Result<()> {
    let vip = "10.77.0.100:8080".parse()?;
    let names = BACKENDS.map(|(name, _)| name);
    let mut stage = Stage::build(group, &BACKENDS)?;
    names.iter().try_for_each(|name| stage.serve(name))?;
    let _agents = stage.serve_vip(&names, vip, mode == "tunnel")?;
    // No pulses, and a patient check: who speaks against it is its traffic.
    let more = format!("mode: {mode}, health: {{type: http, interval: 6s, timeout: 6s, rise: 1, pulse: none, through: direct}}");
    let config = format!("ledger: {{handshake: {}s, idle: 30s}}\n{}", HANDSHAKE.as_secs(), world::config(&stage, &names, &more)?);
    let world = World { daemon: Daemon::start(&stage.balancer.ns, &config)?, stage, vip };
    std::thread::sleep(HANDSHAKE);
    world.until("all serve", |w| Ok(w.ask(60)?.len() == 3))?;
    let (over, answers) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let client = &world.stage.client.ns;
        for _ in 0..CLIENTS {
            scope.spawn(move || {
                client.enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        answers.fetch_add(usize::from(peer::get(vip, "/", Duration::from_millis(300)).is_ok()), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            });
        }
        let noticed = world
            .until("the share of each is known", |_| Ok(answers.load(Ordering::Relaxed) > KNOWN))
            .and_then(|()| world.stage.backends["b1"].unplug())
            .and_then(|()| world.until("b1 is doubted", |w| Ok(doubted(w, "b1")?.is_some())));
        over.store(true, Ordering::Relaxed);
        world.stage.backends["b1"].plug()?;
        noticed
    })?;
    let event = doubted(&world, "b1")?.context("it was, and events stay")?;
    let evidence = event["evidence"].as_str().unwrap_or_default();
    ensure!(event["values"]["traffic"].as_f64() >= Some(1.0), "its silence is not among what speaks against it: {event}");
    ensure!(evidence.contains("pulses 0.0") && evidence.contains("trials 0.0") && evidence.contains("check passes"), "{event}");
    for name in ["b2", "b3"] {
        ensure!(world.became(name, "down")?.is_empty(), "{name} has answered");
    }
    world.until("b1 is given new flows again", |w| Ok(w.ask(30)?.contains_key("b1")))
}

#[test]
fn silence_is_heard_by_half_in_dsr() -> Result<()> {
    silence_is_heard_by_half("mesh-susp-dsr", "dsr")
}

#[test]
fn silence_is_heard_by_half_in_a_tunnel() -> Result<()> {
    silence_is_heard_by_half("mesh-susp-tun", "tunnel")
}
