//! Weights that follow what backends say, and schedulers that are switched while connections are open.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::Daemon,
    peer::{Held, Load},
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

#[test]
fn a_backends_agent_says_what_it_can_take() -> Result<()> {
    let stage = stage("mesh-agent")?;
    let line = Arc::new(Mutex::new("50%\n"));
    let (said, at) = (line.clone(), SocketAddr::new(stage.address("b1", false)?.ip(), AGENT));
    let listener = stage.backends["b1"].ns.enter(|| TcpListener::bind(at))??;
    // Ends with this process: it holds nothing but its listener.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let line = said.lock().map_or("", |line| *line);
            let _ = (&stream).write_all(line.as_bytes());
        }
    });
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, "weights: {agent: 9999, agent_interval: 100ms},")?)?;
    let slots = |name: &str| -> Result<u64> { backend(&daemon, name)?["slots"].as_u64().context("no slots") };
    daemon.until("half of its weight", || Ok((195..=215).contains(&slots("b1")?)))?;
    ensure!(backend(&daemon, "b1")?["weighing"]["agent"] == 0.5);
    let silent = backend(&daemon, "b2")?;
    ensure!(silent["weighing"]["why"].to_string().contains("its agent: "), "nobody answers there: {silent}");
    *line.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = "drain #deploying\n";
    daemon.until("no new flows", || Ok(slots("b1")? == 0))?;
    let shown = daemon.ok(&["backend", "show", "web", "b1"])?;
    ensure!(shown.contains("its agent says so (deploying)"), "{shown}");
    *line.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = "ready 100%\n";
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
