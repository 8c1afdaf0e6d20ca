//! The real daemon and real traffic, with backends that a source finds: the source and the daemon both die, and traffic must not notice.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    daemon::{Daemon, LIMIT, Process},
    peer::Load,
    stage::Stage,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const VIP: &str = "10.77.0.100:80";

/// nginx in the balancer's namespace, with a list of backends.
fn registry(stage: &Stage, dir: &Path) -> Result<Process> {
    let text = format!(
        "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/log;\nevents {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {0}/a;\n\
         proxy_temp_path {0}/b;\n  fastcgi_temp_path {0}/c;\n  uwsgi_temp_path {0}/d;\n  scgi_temp_path {0}/e;\n\
         server {{ listen 127.0.0.1:8080; root {0}; }}\n}}\n",
        dir.display()
    );
    let config = dir.join("nginx.conf");
    fs::write(&config, text)?;
    Process::spawn(stage.balancer.ns.command("nginx").arg("-c").arg(config).stderr(std::process::Stdio::null()))
}

fn list(stage: &Stage, dir: &Path, names: &[&str]) -> Result<()> {
    let entry = |name: &&str| Ok(format!("{{\"address\": \"{}\", \"name\": \"{name}\"}}", stage.address(name, false)?));
    let entries = names.iter().map(entry).collect::<Result<Vec<_>>>()?;
    fs::write(dir.join("new"), format!("[{}]", entries.join(", ")))?;
    Ok(fs::rename(dir.join("new"), dir.join("web.json"))?)
}

fn source(daemon: &Daemon) -> Result<Value> {
    let all = daemon.json(&["source", "ls"])?;
    all.get(0).cloned().with_context(|| format!("no source in {all}"))
}

fn until(daemon: &Daemon, what: &str, holds: impl Fn(&Daemon) -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds(daemon)? {
        if Instant::now() > end {
            bail!("not within {LIMIT:?}: {what}; log:\n{}", daemon.log());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn taking(daemon: &Daemon, count: u64) -> Result<bool> {
    Ok(daemon.json(&["service", "show", "web"])?["taking"] == count)
}

#[test]
fn a_source_that_dies_empties_no_service_even_if_the_daemon_dies_as_well() -> Result<()> {
    let mut stage = Stage::build("mesh-source", &[("b1", 11), ("b2", 12)])?;
    stage.serve("b1")?;
    stage.serve("b2")?;
    let dir = tempfile::Builder::new().prefix("mesh-registry-").tempdir()?;
    let mut nginx = registry(&stage, dir.path())?;
    list(&stage, dir.path(), &["b1"])?;
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n- name: web\n  vip: {VIP}\n  announce: {{address: eth0}}\n\
         \x20 health: {{type: tcp, interval: 100ms, timeout: 5s, detector: rise_fall}}\n  sources:\n  - {{type: http, url: 'http://127.0.0.1:8080/web.json', interval: 100ms}}\n"
    );
    let mut daemon = Daemon::start(&stage.balancer.ns, &config)?;
    until(&daemon, "b1 takes flows", |d| taking(d, 1))?;
    list(&stage, dir.path(), &["b1", "b2"])?;
    until(&daemon, "b2 takes flows", |d| taking(d, 2))?;
    let view = source(&daemon)?;
    ensure!(view["state"] == "live" && view["endpoints"] == 2, "{view}");

    let vip: SocketAddr = VIP.parse()?;
    let load = Load::start(&stage.client.ns, vip, 4, Duration::from_millis(2), Duration::from_secs(5))?;
    nginx.kill()?;
    until(&daemon, "the source is stale", |d| Ok(source(d)?["state"] == "stale"))?;
    daemon.wait_written("b2")?;
    daemon.stop(Signal::SIGKILL)?;
    std::thread::sleep(Duration::from_millis(500));
    daemon.launch()?;
    daemon.wait_ready(LIMIT)?;
    let view = source(&daemon)?;
    ensure!(view["state"] == "stale" && view["endpoints"] == 2 && view["answered_ms"].is_u64(), "{view}");
    ensure!(taking(&daemon, 2)?, "{}", daemon.ok(&["backend", "ls"])?);
    std::thread::sleep(Duration::from_millis(500));
    let answers = load.finish();
    let errors: Vec<_> = answers.iter().filter_map(|a| a.from.as_ref().err()).collect();
    ensure!(
        answers.len() > 50 && errors.is_empty(),
        "{} of {} requests failed: {errors:?}; log:\n{}",
        errors.len(),
        answers.len(),
        daemon.log()
    );

    list(&stage, dir.path(), &["b2"])?;
    let _again = registry(&stage, dir.path())?;
    until(&daemon, "the source is back, and b1 is gone", |d| {
        Ok(source(d)?["state"] == "live" && source(d)?["endpoints"] == 1 && taking(d, 1)?)
    })?;
    println!("{}", daemon.ok(&["source", "ls", "-o", "wide"])?);
    Ok(())
}
