//! What the daemon may do once it runs, as the kernel tells it of every thread, and that it is enough.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{daemon::Daemon, peer, stage::Stage};

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const PATIENCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

fn service(stage: &Stage, name: &str, vip: &str, health: &str) -> Result<String> {
    let mut text = format!("  - {{name: {name}, vip: \"{vip}\", announce: {{address: eth0}}, health: {health}, backends: [");
    for (backend, _) in BACKENDS {
        text += &format!("{{name: {backend}, address: \"{}\"}}, ", stage.address(backend, false)?);
    }
    Ok(text + "]}\n")
}

fn answers(stage: &Stage, vip: &str) -> Result<BTreeSet<String>> {
    let to: SocketAddr = vip.parse()?;
    (0..40).map(|_| stage.client.ns.enter(|| peer::get(to, "/", PATIENCE))?.with_context(|| format!("a request to {vip}"))).collect()
}

/// A set of capabilities of each thread.
fn threads(pid: u64, set: &str) -> Result<Vec<u64>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks
        .map(|task| {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).context("no such set")?;
            Ok(u64::from_str_radix(mask.trim(), 16)?)
        })
        .collect()
}

/// Has the daemon take a second service with `health`, and checks that clients and the metrics see it.
fn grow(stage: &Stage, daemon: &Daemon, first: &str, health: &str) -> Result<()> {
    daemon.write_config(&format!("{first}{}", service(stage, "more", "10.77.0.101:80", health)?))?;
    daemon.ok(&["reload"])?;
    let end = Instant::now() + LIMIT;
    let taking = |daemon: &Daemon| -> Result<bool> { Ok(daemon.json(&["service", "show", "more"])?["taking"] == BACKENDS.len()) };
    while !taking(daemon).unwrap_or(false) {
        ensure!(Instant::now() < end, "the new service takes no flows; log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(answers(stage, "10.77.0.101:80")?.len() == BACKENDS.len(), "every backend answers for the new service");
    ensure!(daemon.json(&["service", "show", "more"])?["flows"].as_u64() >= Some(40), "counters are read");
    Ok(())
}

/// The host lets everyone ping, as systemd sets it: NET_ADMIN is all that stays.
#[test]
fn no_thread_keeps_more_than_it_needs() -> Result<()> {
    let mut stage = Stage::build("mesh-priv", &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    stage.balancer.ns.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    // What a program that the daemon starts may do is told by the program itself.
    let told = tempfile::NamedTempFile::new()?;
    let exec =
        format!(r#"{{type: exec, interval: 200ms, command: [/bin/sh, -c, "grep Cap /proc/self/status > {}"]}}"#, told.path().display());
    let first = format!("interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n{}", service(&stage, "web", "10.77.0.100:80", &exec)?);
    let daemon = Daemon::start(&stage.balancer.ns, &first)?;
    let pid = daemon.json(&["status"])?["pid"].as_u64().context("no pid")?;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let masks = threads(pid, set)?;
        ensure!(masks.len() > 2 && masks.iter().all(|mask| *mask == NET_ADMIN), "{set}: {masks:x?}; log:\n{}", daemon.log());
    }
    for set in ["CapInh", "CapAmb"] {
        ensure!(threads(pid, set)?.iter().all(|mask| *mask == 0), "{set}: {:x?}", threads(pid, set)?);
    }
    let child = fs::read_to_string(told.path())?;
    ensure!(child.contains("CapEff:\t0000000000001000") && child.contains("CapBnd:\t0000000000001000"), "a check may do more: {child}");
    ensure!(daemon.log().contains("capabilities that stay after the start: NET_ADMIN"), "{}", daemon.log());

    ensure!(answers(&stage, "10.77.0.100:80")?.len() == BACKENDS.len());
    daemon.ok(&["backend", "drain", "web", "b1"])?;
    daemon.ok(&["backend", "undrain", "web", "b1"])?;
    grow(&stage, &daemon, &first, "{type: icmp, interval: 200ms}")
}

/// The host lets nobody ping without NET_RAW, as the kernel starts: it stays, for checks by ICMP.
#[test]
fn net_raw_stays_where_pings_need_it() -> Result<()> {
    let mut stage = Stage::build("mesh-priv-raw", &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    stage.balancer.ns.sysctl("net/ipv4/ping_group_range", "1 0")?;
    let first = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n{}",
        service(&stage, "web", "10.77.0.100:80", "{type: tcp, interval: 200ms}")?
    );
    let daemon = Daemon::start(&stage.balancer.ns, &first)?;
    let pid = daemon.json(&["status"])?["pid"].as_u64().context("no pid")?;
    let masks = threads(pid, "CapPrm")?;
    ensure!(masks.iter().all(|mask| *mask == NET_ADMIN | NET_RAW), "{masks:x?}");
    grow(&stage, &daemon, &first, "{type: icmp, interval: 200ms}")
}
