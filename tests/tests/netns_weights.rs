//! Weights that follow what backends say, and schedulers that are switched while connections are open.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    peer::{Held, Load, get},
    stage::Stage,
    world::{BACKENDS, PATIENCE},
};
use serde_json::Value;

const AGENT: u16 = 9999;

fn config(stage: &Stage, keys: &str) -> Result<String> {
    let one = |(name, _): (&'static str, u8)| Ok(format!("{{name: {name}, address: \"{}\", zone: {name}}}", stage.address(name, false)?));
    let backends: Vec<_> = BACKENDS.map(one).into_iter().collect::<Result<_>>()?;
    Ok(format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: '10.77.0.100:80', announce: {{address: eth0}}, slots: 1024, {keys} \
         backends: [{}]}}\n",
        backends.join(", ")
    ))
}

fn stage(group: &str) -> Result<Stage> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    for (name, _) in BACKENDS {
        stage.serve(name)?;
    }
    Ok(stage)
}

fn backend(daemon: &Daemon, name: &str) -> Result<Value> {
    daemon.json(&["backend", "show", "web", name])
}

/// What a backend's agent answers.
struct Agent(Arc<Mutex<&'static str>>);

impl Agent {
    fn start(stage: &Stage, name: &str, line: &'static str) -> Result<Self> {
        let line = Arc::new(Mutex::new(line));
        let (said, at) = (line.clone(), SocketAddr::new(stage.address(name, false)?.ip(), AGENT));
        let listener = stage.backends[name].ns.enter(|| TcpListener::bind(at))??;
        // Ends with this process: it holds nothing but its listener.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let line = said.lock().map_or("", |line| *line);
                let _ = (&stream).write_all(line.as_bytes());
            }
        });
        Ok(Self(line))
    }

    fn says(&self, line: &'static str) -> Result<()> {
        *self.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = line;
        Ok(())
    }
}

#[test]
fn a_backends_agent_says_what_it_can_take() -> Result<()> {
    let stage = stage("mesh-agent")?;
    let agent = Agent::start(&stage, "b1", "50%\n")?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, "weights: {agent: 9999, agent_interval: 100ms},")?)?;
    let slots = |name: &str| -> Result<u64> { backend(&daemon, name)?["slots"].as_u64().context("no slots") };
    daemon.until("half of its weight", || Ok((195..=215).contains(&slots("b1")?)))?;
    ensure!(backend(&daemon, "b1")?["weighing"]["agent"] == 0.5);
    let silent = backend(&daemon, "b2")?;
    ensure!(silent["weighing"]["why"].to_string().contains("its agent: "), "nobody answers there: {silent}");
    agent.says("drain #deploying\n")?;
    daemon.until("no new flows", || Ok(slots("b1")? == 0))?;
    let shown = daemon.ok(&["backend", "show", "web", "b1"])?;
    ensure!(shown.contains("its agent says so (deploying)"), "{shown}");
    agent.says("ready 100%\n")?;
    daemon.until("its whole weight", || Ok((335..=350).contains(&slots("b1")?)))
}

#[test]
fn a_backend_that_reports_more_load_than_the_others_gets_less() -> Result<()> {
    let stage = stage("mesh-load")?;
    let keys = "health: none, heartbeat: {ttl: 30s}, weights: {by: load},";
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, keys)?)?;
    let beat = |name: &str, load: &str| daemon.ok(&["backend", "heartbeat", "web", name, "--load", load]).map(drop);
    let share = |name: &str| -> Result<f64> { backend(&daemon, name)?["share"].as_f64().context("no share") };
    for (name, _) in BACKENDS {
        beat(name, "0.5")?;
    }
    daemon.until("all serve alike", || Ok((0.30..0.36).contains(&share("b1")?)))?;
    beat("b1", "0.9")?;
    daemon.until("less for the loaded one", || Ok(share("b1")? < 0.25))?;
    let shown = backend(&daemon, "b1")?;
    ensure!(shown["weighing"]["load"] == 0.9 && shown["weighing"]["why"].to_string().contains("reports a load of 0.90"), "{shown}");
    beat("b1", "0.1")?;
    daemon.until("more once it has little to do", || Ok(share("b1")? > 0.36))
}

/// b1 and b2 stand here, and b3 four times as far: 2/1 to 1/4. What goes over first fills the room that the zone's own have, two fifths.
#[test]
fn a_zone_spills_over_when_it_is_overloaded_and_when_it_is_ill() -> Result<()> {
    let mut stage = stage("mesh-spill")?;
    let agents = [Agent::start(&stage, "b1", "100%\n")?, Agent::start(&stage, "b2", "100%\n")?];
    let keys = "health: {type: http, path: /, interval: 200ms, timeout: 2s, rise: 1, fall: 2}, weights: {agent: 9999, agent_interval: 100ms}, \
                locality: {distances: {b1: 1, b3: 4}},";
    let text = config(&stage, keys)?.replace("zone: b2", "zone: b1");
    let daemon = Daemon::start(&stage.balancer.ns, &text)?;
    let says = |line| agents.iter().try_for_each(|agent| agent.says(line));
    // Of the hash space, and of requests that are answered.
    let here = |stage: &Stage, what: &str, slots: std::ops::Range<f64>, requests: std::ops::Range<f64>| -> Result<()> {
        let share = |name: &str| -> Result<f64> { backend(&daemon, name)?["share"].as_f64().context("no share") };
        daemon.until(what, || Ok(slots.contains(&(share("b1")? + share("b2")?))))?;
        let near = asked(stage, 400)?.into_iter().filter(|(name, _)| name != "b3").map(|(_, n)| n).sum::<usize>() as f64 / 400.0;
        ensure!(requests.contains(&near), "{what}: {near} of all requests stay");
        Ok(())
    };
    here(&stage, "eight of nine stay", 0.87..0.91, 0.80..0.97)?;
    says("25%\n")?;
    here(&stage, "all that is too much goes over: 0.35 of eight ninths stay", 0.29..0.33, 0.20..0.42)?;
    says("100%\n")?;
    here(&stage, "eight of nine come back", 0.87..0.91, 0.80..0.97)?;
    stage.kill("b1")?;
    here(&stage, "half of the zone does 1.4 times what it did", 0.60..0.64, 0.51..0.73)?;
    stage.kill("b2")?;
    here(&stage, "nobody is left there", 0.0..0.001, 0.0..0.001)?;
    stage.serve("b1")?;
    stage.serve("b2")?;
    here(&stage, "they come back slowly, and so does what is theirs", 0.30..0.92, 0.15..1.01)?;
    here(&stage, "eight of nine are theirs again", 0.87..0.91, 0.80..0.97)
}

/// How many of so many requests each backend answers.
fn asked(stage: &Stage, n: usize) -> Result<BTreeMap<String, usize>> {
    let vip: SocketAddr = "10.77.0.100:80".parse()?;
    let answers = stage.client.ns.enter(|| (0..n).map(|_| get(vip, "/", PATIENCE)).collect::<Result<Vec<_>, _>>())??;
    let mut counts = BTreeMap::new();
    answers.into_iter().for_each(|who| *counts.entry(who).or_default() += 1);
    Ok(counts)
}

#[test]
fn schedulers_and_distances_are_switched_while_connections_are_open() -> Result<()> {
    let stage = stage("mesh-sched")?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, "")?)?;
    let vip: SocketAddr = "10.77.0.100:80".parse()?;
    let load = Load::start(&stage.client.ns, vip, 2, Duration::from_millis(5), PATIENCE)?;
    let held = Held::open(&stage.client.ns, vip, 16, Duration::from_millis(10), PATIENCE)?;
    for keys in ["maglev", "ring", "consistent-hash"] {
        let text = config(&stage, &format!("scheduler: {keys},"))?;
        let path = daemon.config_path().with_file_name("next.yaml");
        std::fs::write(&path, format!("instance: {}\n{text}", daemon.instance()))?;
        let planned = daemon.json(&["plan", "apply", &path.to_string_lossy()])?;
        ensure!(planned["moved_share"].as_f64() > Some(0.0) && planned["flows_lost"] == 0, "{keys}: {planned}");
        daemon.write_config(&text)?;
        let moved = planned["services"][0]["moved"].clone();
        daemon.until(keys, || {
            let events = daemon.json(&["events"])?;
            let last = events.as_array().into_iter().flatten().rfind(|e| e["event"] == "slots_moved");
            Ok(last.is_some_and(|e| e["moved"] == moved))
        })?;
    }
    daemon.write_config(&config(&stage, "locality: {distances: {b1: 1, b2: 2}, elsewhere: 2},")?)?;
    daemon.until("the near one has half of all", || {
        Ok(backend(&daemon, "b1")?["share"].as_f64().is_some_and(|s| (0.48..0.52).contains(&s)))
    })?;
    let (answers, reports) = (load.finish(), held.finish());
    let errors: Vec<_> = answers.iter().filter_map(|a| a.from.as_ref().err()).collect();
    let broken: Vec<_> = reports.iter().filter(|r| r.broken.is_some()).collect();
    ensure!(errors.is_empty() && broken.is_empty() && answers.len() > 50, "{errors:?} {broken:?} of {}", answers.len());
    Ok(())
}
