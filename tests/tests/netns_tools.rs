//! Servers and clients that everybody knows: nginx behind the VIP, curl and wrk in front of it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    daemon::{Daemon, Process, mesh_binary, wait, wait_for},
    netns::{Fabric, Host},
    peer,
    world::World,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];
const BACKENDS: [(&str, u8); 3] = [("b1", 11), ("b2", 12), ("b3", 13)];

/// nginx in the host's namespace, which answers with its name; its files go with the directory. It says how loaded it is: by files called `busy` and `mute`.
fn nginx(host: &Host, name: &str, directory: &TempDir) -> Result<Process> {
    let home = directory.path().join(name);
    fs::create_dir(&home)?;
    let file = home.join("nginx.conf");
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {}/{kind};", home.display())).concat();
    let config = format!(
        "daemon off; master_process off; pid {home}/pid; error_log {home}/error.log; worker_processes 1; events {{}}\n\
         http {{ access_log off; {temporary} server {{ listen 80; listen [::]:80; location / {{ default_type text/plain; return 200 {name}; }} \
         location = /healthz {{ if (-f {home}/mute) {{ add_header x-other 1; return 200; }} if (-f {home}/busy) {{ add_header x-load 90%; return 200; }} \
         add_header x-load 0.5; return 200; }} }} }}\n",
        home = home.display()
    );
    fs::write(&file, config)?;
    let mut command = host.ns.command("nginx");
    let server =
        Process::spawn(command.arg("-e").arg(home.join("start.log")).arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let end = Instant::now() + Duration::from_secs(10);
    let own = (host.v4, 80).into();
    while host.ns.enter(|| peer::get(own, "/", Duration::from_secs(1)))?.is_err() {
        ensure!(
            Instant::now() < end,
            "nginx of {name} does not answer: {}",
            fs::read_to_string(home.join("start.log")).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn config(backends: &[(&str, Host)]) -> String {
    let mut text = String::from("interfaces: [{name: eth0, hook: xdp}]\nservices:\n");
    for (vip, v6) in VIPS.into_iter().zip([false, true]) {
        let addresses = backends.iter().map(|(_, host)| if v6 { format!("\"[{}]:80\"", host.v6) } else { format!("\"{}:80\"", host.v4) });
        text += &format!(
            "  - {{name: web{}, vip: \"{vip}\", port: 80, announce: {{address: eth0}}, health: {{type: http, interval: 200ms, timeout: 200ms}}, backends: [{}]}}\n",
            if v6 { "6" } else { "4" },
            addresses.collect::<Vec<_>>().join(", ")
        );
    }
    text
}

fn url(vip: &str) -> String {
    if vip.contains(':') { format!("http://[{vip}]/") } else { format!("http://{vip}/") }
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

#[test]
fn curl_and_wrk_reach_nginx_through_the_vip() -> Result<()> {
    let fabric = Fabric::new("mesh-tools")?;
    let (client, balancer) = (fabric.host("client", 1)?, fabric.host("balancer", 2)?);
    let directory = tempfile::tempdir()?;
    let backends: Vec<(&str, Host)> = BACKENDS.into_iter().map(|(name, n)| Ok((name, fabric.host(name, n)?))).collect::<Result<_>>()?;
    let _servers: Vec<Process> = backends.iter().map(|(name, host)| nginx(host, name, &directory)).collect::<Result<_>>()?;
    let daemon = Daemon::start(&balancer.ns, &config(&backends))?;
    for vip in VIPS {
        let mut who = BTreeSet::new();
        for _ in 0..30 {
            who.insert(said(client.ns.command("curl").args(["--silent", "--show-error", "--fail", "--max-time", "5"]).arg(url(vip)))?);
        }
        ensure!(who.len() == BACKENDS.len(), "only {who:?} answered curl at {vip}; log:\n{}", daemon.log());
        // Keep-alive connections, as many requests as they get through in two seconds.
        let report = said(client.ns.command("wrk").args(["-t", "1", "-c", "16", "-d", "2s", "--timeout", "5s"]).arg(url(vip)))?;
        ensure!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "wrk met errors at {vip}:\n{report}");
        let requests = report.lines().find_map(|line| line.trim().split_once(" requests in ")).and_then(|(n, _)| n.parse::<u64>().ok());
        ensure!(requests.is_some_and(|n| n > 100), "wrk did not get through at {vip}:\n{report}");
    }
    Ok(())
}

#[test]
fn a_header_of_nginx_says_how_loaded_it_is_and_the_weight_follows() -> Result<()> {
    let fabric = Fabric::new("mesh-header")?;
    let balancer = fabric.host("balancer", 2)?;
    let directory = tempfile::tempdir()?;
    let backends: Vec<(&str, Host)> = BACKENDS.into_iter().map(|(name, n)| Ok((name, fabric.host(name, n)?))).collect::<Result<_>>()?;
    let _servers: Vec<Process> = backends.iter().map(|(name, host)| nginx(host, name, &directory)).collect::<Result<_>>()?;
    let addresses: Vec<_> = backends.iter().map(|(name, host)| format!("{{name: {name}, address: \"{}:80\"}}", host.v4)).collect();
    let config = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nservices:\n  - {{name: web, vip: \"{}:80\", announce: {{address: eth0}}, slots: 1024, weights: {{by: load}}, \
         health: {{type: http, path: /healthz, load_header: x-load, interval: 200ms, timeout: 200ms}}, backends: [{}]}}\n",
        VIPS[0],
        addresses.join(", ")
    );
    let daemon = Daemon::start(&balancer.ns, &config)?;
    let shown = |name: &str| daemon.json(&["backend", "show", "web", name]);
    let share = |name: &str| -> Result<f64> { shown(name)?["share"].as_f64().context("no share") };
    daemon.until("all say what they have to do, and serve alike", || {
        Ok((0.30..0.36).contains(&share("b1")?) && shown("b1")?["weighing"]["load"] == 0.5)
    })?;
    let busy = directory.path().join("b1/busy");
    fs::write(&busy, "")?;
    daemon.until("less for the busy one", || Ok(share("b1")? < 0.27))?;
    let told = daemon.ok(&["backend", "show", "web", "b1"])?;
    ensure!(told.contains("it reports a load of 0.90"), "{told}");
    fs::write(directory.path().join("b2/mute"), "")?;
    daemon.until("whoever says nothing is told of", || {
        Ok(shown("b2")?["weighing"]["why"].to_string().contains("its answers have no header `x-load`"))
    })?;
    ensure!(shown("b2")?["state"] == "active", "a header that is missing is no failure");
    fs::remove_file(&busy)?;
    daemon.until("it has less to do", || Ok(shown("b1")?["weighing"]["load"] == 0.5))
}

/// `mesh events -f` beside a daemon, with what it prints in a file. It ends with the daemon at the latest.
fn follow(world: &World, output: &[&str], file: &Path) -> Result<Child> {
    let mut command = world.stage.balancer.ns.command(mesh_binary()?);
    command.arg("--socket").arg(world.daemon.socket()).args(["events", "-f"]).args(output);
    let errors = fs::File::create(file.with_extension("errors"))?;
    command.stdin(Stdio::null()).stdout(fs::File::create(file)?).stderr(errors).spawn().context("failed to start mesh")
}

/// The lines that are whole by now.
fn lines(file: &Path) -> Result<Vec<String>> {
    Ok(fs::read_to_string(file)?.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| line.trim_end().to_owned()).collect())
}

fn documents(file: &Path) -> Result<Vec<Value>> {
    lines(file)?.iter().map(|line| serde_json::from_str(line).with_context(|| format!("no document: {line}"))).collect()
}

#[test]
fn events_are_followed_as_they_come() -> Result<()> {
    let mut world = World::new("mesh-follow", "mode: nat, health: {type: tcp, detector: rise_fall, interval: 200ms, timeout: 5s}")?;
    let directory = tempfile::tempdir()?;
    let (table, json) = (directory.path().join("table"), directory.path().join("json"));
    let mut readers = [follow(&world, &[], &table)?, follow(&world, &["-o", "json"], &json)?];
    wait_for("both have printed what was before", || Ok(lines(&table)?.len() > 2 && lines(&json)?.len() > 2))?;
    let backend = world.stage.address("b2", false)?.to_string();
    let fell = |e: &Value| e["event"] == "backend_state" && e["backend"] == backend.as_str() && e["to"] == "down";
    ensure!(!documents(&json)?.iter().any(fell), "nobody has killed it yet");
    let before = lines(&table)?.len();
    world.stage.kill("b2")?;
    wait_for("the fall in JSON", || Ok(documents(&json)?.iter().any(fell)))?;
    let all = documents(&json)?;
    let event = all.iter().find(|e| fell(e)).context("it is gone")?;
    let evidence = event["evidence"].as_str().context("no evidence")?;
    ensure!(event["from"] == "active" && evidence.contains("in a row") && evidence.contains("refused"), "{event}");
    ensure!(all.is_sorted_by_key(|e| e["seq"].as_u64()), "{all:?}");
    let shown = |line: &String| line.contains("down") && line.contains(evidence) && (line.contains(&backend) || line.contains("b2"));
    wait_for("the fall in words", || Ok(lines(&table)?[before..].iter().any(shown)))?;

    // A reader that is told to end just ends, and nobody else minds. (Children of a background shell ignore SIGINT.)
    kill(Pid::from_raw(i32::try_from(readers[0].id())?), Signal::SIGTERM)?;
    let ended = wait(&mut readers[0], Duration::from_secs(20))?;
    ensure!(ended.code().is_none_or(|code| code == 0), "{ended}");
    world.stage.serve("b2")?;
    wait_for("the other one goes on", || {
        Ok(documents(&json)?.iter().skip(all.len()).any(|e| e["backend"] == backend.as_str() && e["from"] == "down"))
    })?;
    // And who still reads when the daemon goes is told so.
    world.daemon.stop(Signal::SIGTERM)?;
    let ended = wait(&mut readers[1], Duration::from_secs(20))?;
    let errors = fs::read_to_string(json.with_extension("errors"))?;
    ensure!(ended.code().is_some_and(|code| code != 0) && !errors.is_empty(), "{ended}: {errors}");
    Ok(())
}
