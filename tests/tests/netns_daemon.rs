//! The daemon's life: killed, restarted, reloaded, detached; traffic must not notice.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, LIMIT},
    peer::{self, Held, Load},
    stage::Stage,
    world::{self, BACKENDS, PATIENCE, World},
};
use nix::sys::signal::Signal;

const CHECKED: &str = "health: {type: tcp, interval: 1s, timeout: 1s}";

/// Runs `change` while short requests and long connections go on; not one may break.
fn undisturbed(world: &mut World, change: impl FnOnce(&mut Daemon, &Stage) -> Result<()>) -> Result<()> {
    let load = Load::start(&world.stage.client.ns, world.vip, 4, Duration::from_millis(2), PATIENCE)?;
    let held = Held::open(&world.stage.client.ns, world.vip, 12, Duration::from_millis(10), PATIENCE)?;
    std::thread::sleep(Duration::from_millis(300));
    change(&mut world.daemon, &world.stage)?;
    std::thread::sleep(Duration::from_millis(300));
    let (answers, reports) = (load.finish(), held.finish());
    let errors: Vec<_> = answers.iter().filter_map(|a| a.from.as_ref().err()).collect();
    let broken: Vec<_> = reports.iter().filter(|r| r.broken.is_some()).collect();
    ensure!(answers.len() > 50, "only {} requests were made", answers.len());
    ensure!(
        errors.is_empty() && broken.is_empty(),
        "{} of {} requests failed ({errors:?}), {broken:?} broke; log:\n{}",
        errors.len(),
        answers.len(),
        world.daemon.log()
    );
    Ok(())
}

fn backend_names(daemon: &Daemon) -> Result<Vec<String>> {
    let list = daemon.json(&["backend", "ls", "web"])?;
    let rows = list.as_array().with_context(|| format!("no list: {list}"))?;
    Ok(rows.iter().filter_map(|row| row["name"].as_str()).map(str::to_owned).collect())
}

#[test]
fn a_killed_daemon_is_not_missed_and_its_successor_adopts() -> Result<()> {
    let mut world = World::new("mesh-kill9", CHECKED)?;
    undisturbed(&mut world, |daemon, _| {
        for _ in 0..3 {
            daemon.stop(Signal::SIGKILL)?;
            std::thread::sleep(Duration::from_millis(700));
            daemon.launch()?;
            daemon.wait_ready(LIMIT)?;
        }
        Ok(())
    })
}

#[test]
fn sigterm_leaves_forwarding_and_what_the_cli_changed() -> Result<()> {
    let mut world = World::new("mesh-term", CHECKED)?;
    world.daemon.ok(&["backend", "drain", "web", "b2"])?;
    world.daemon.ok(&["backend", "weight", "web", "b3", "5"])?;
    undisturbed(&mut world, |daemon, _| {
        daemon.stop(Signal::SIGTERM)?;
        std::thread::sleep(Duration::from_millis(500));
        daemon.launch()?;
        daemon.wait_ready(LIMIT)
    })?;
    let list = world.daemon.json(&["backend", "ls", "web"])?;
    let row = |name: &str| list.as_array().and_then(|rows| rows.iter().find(|r| r["name"] == name)).cloned().unwrap_or_default();
    ensure!(row("b2")["state"] == "draining", "b2 should still be draining: {list}");
    ensure!(row("b3")["weight"] == 5, "b3 should still weigh 5: {list}");
    Ok(())
}

#[test]
fn a_changed_file_is_taken_and_a_bad_one_is_not() -> Result<()> {
    let mut world = World::new("mesh-reload", CHECKED)?;
    let bad = "interfaces: [eth0]\nservices:\n  - {name: web, vip: nowhere, port: 80, protocol: tcp, mode: nat}\n";
    undisturbed(&mut world, |daemon, _| {
        daemon.write_config(bad)?;
        daemon.signal(Signal::SIGHUP)?;
        let end = Instant::now() + LIMIT;
        while !daemon.log().contains("nowhere") {
            ensure!(Instant::now() < end, "the log does not name what is wrong: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(backend_names(daemon)?.len() == 3, "a bad file must change nothing");
        Ok(())
    })?;
    let good = world::config(&world.stage, &["b1", "b3"], CHECKED)?;
    undisturbed(&mut world, |daemon, _| daemon.write_config(&good))?;
    world.until("b2 left with the file", |w| Ok(!backend_names(&w.daemon)?.contains(&"b2".to_owned())))
}

#[test]
fn a_second_daemon_of_the_instance_is_refused() -> Result<()> {
    let world = World::new("mesh-second", CHECKED)?;
    let config = world.daemon.config_path();
    let second = world.stage.balancer.ns.command(mesh_tests::daemon::mesh_binary()?).args(["run", "--config"]).arg(config).output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success() && said.contains(world.daemon.instance()), "a second daemon started, or said nothing useful: {said}");
    let vip = world.vip;
    world.stage.client.ns.enter(|| peer::get(vip, "/", PATIENCE))??;
    Ok(())
}

#[test]
fn detach_leaves_nothing_behind() -> Result<()> {
    let mut world = World::new("mesh-detach", CHECKED)?;
    let (pins, config) = (world.daemon.pins(), world.daemon.config_path());
    ensure!(pins.exists(), "no pins at {}", pins.display());
    world.daemon.stop(Signal::SIGTERM)?;
    ensure!(pins.exists(), "SIGTERM must leave the pins");
    world.daemon.ok(&["detach", "--config", &config.to_string_lossy()])?;
    ensure!(!Path::new("/sys/fs/bpf/mesh").join(world.daemon.instance()).exists(), "pins are left");
    let shown = |words: &[&str]| -> Result<String> {
        Ok(String::from_utf8_lossy(&world.stage.balancer.ns.command("ip").args(words).output()?.stdout).into_owned())
    };
    ensure!(!shown(&["link", "show", "eth0"])?.contains("xdp"), "a program is left on eth0");
    ensure!(!shown(&["address", "show", "eth0"])?.contains("10.77.0.100"), "the VIP is left on eth0");
    // Twice is as good as once.
    world.daemon.ok(&["detach", "--config", &config.to_string_lossy()])?;
    Ok(())
}

#[test]
fn somebody_elses_program_is_reported_and_left_alone() -> Result<()> {
    let mut stage = Stage::build("mesh-owner", &BACKENDS[..1])?;
    stage.serve("b1")?;
    stage.balancer.occupy_xdp()?;
    let config = world::config(&stage, &["b1"], CHECKED)?;
    let mut daemon = Daemon::new(&stage.balancer.ns, &config)?;
    daemon.launch()?;
    let refused = daemon.wait_ready(Duration::from_secs(15));
    ensure!(refused.is_err(), "it should not have taken the interface over");
    ensure!(daemon.log().contains("eth0"), "the log does not name the interface: {}", daemon.log());
    let shown = stage.balancer.ns.command("ip").args(["link", "show", "eth0"]).output()?;
    ensure!(String::from_utf8_lossy(&shown.stdout).contains("xdp"), "the other program is gone");
    Ok(())
}
