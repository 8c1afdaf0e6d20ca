//! The flow log of the real daemon: every connection of a client is in it with its beginning and its end.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::net::UnixListener,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{daemon::Daemon, peer, stage::Stage};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const VIP: &str = "10.77.0.100:80";
const REQUESTS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

fn config(stage: &Stage, to: &str) -> Result<String> {
    let mut text = format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nnat: {{timeouts: {{closed: 2s, closing: 2s}}}}\nflow_log: {{sample: 1, to: '{to}'}}\nservices:\n  - {{name: web, vip: \"{VIP}\", announce: \
         {{address: eth0}}, health: {{type: tcp, interval: 1s}}, backends: [",
    );
    for (name, _) in BACKENDS {
        text += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, false)?);
    }
    Ok(text + "]}\n")
}

/// The objects among the lines that are whole: the last one may be under way.
fn lines(text: &str) -> Result<Vec<Value>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let objects = whole.lines().filter(|line| line.starts_with('{'));
    objects.map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

fn clients<'a>(lines: &'a [Value], events: &[&str]) -> BTreeSet<&'a str> {
    let of = lines.iter().filter(|line| events.iter().any(|event| line["event"] == *event));
    of.filter_map(|line| line["client"].as_str()).collect()
}

#[test]
fn a_file_is_told_of_every_connection() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("flows");
    told_of_all("mesh-flowlog", &path.display().to_string(), |_| fs::read_to_string(&path).unwrap_or_default())
}

#[test]
fn standard_output_is_told_of_every_connection() -> Result<()> {
    // The daemon's own log is there too; its lines begin with a time.
    told_of_all("mesh-flowlog-o", "stdout", Daemon::log)
}

#[test]
fn a_socket_is_told_of_every_connection() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("flows.sock");
    let listener = UnixListener::bind(&path)?;
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    // It ends with the daemon, which ends the connection.
    std::thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else { return };
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) += &format!("{line}\n");
        }
    });
    told_of_all("mesh-flowlog-s", &format!("unix:{}", path.display()), |_| said.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Each is told when it begins and when it ends.
fn told_of_all(group: &str, sink: &str, read: impl Fn(&Daemon) -> String) -> Result<()> {
    let mut stage = Stage::build(group, &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage, sink)?)?;
    // What the first sweep finds counts as there before.
    std::thread::sleep(Duration::from_millis(2500));
    let to: SocketAddr = VIP.parse()?;
    for _ in 0..REQUESTS {
        stage.client.ns.enter(|| peer::get(to, "/", PATIENCE))??;
    }
    let end = Instant::now() + LIMIT;
    let told = loop {
        let told = lines(&read(&daemon))?;
        if clients(&told, &["opened"]).len() == REQUESTS && clients(&told, &["closed", "reset", "idle"]).len() == REQUESTS {
            break told;
        }
        ensure!(Instant::now() < end, "{told:?}; log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    let backends: BTreeSet<&str> = told.iter().filter_map(|line| line["backend"].as_str()).collect();
    let wanted: Vec<String> = BACKENDS.iter().map(|(name, _)| Ok(stage.address(name, false)?.to_string())).collect::<Result<_>>()?;
    ensure!(backends.iter().copied().eq(wanted.iter().map(String::as_str)), "{backends:?}");
    for line in &told {
        ensure!(
            line["service"] == "web" && line["vip"] == VIP && line["protocol"] == "tcp" && line["source_port"].as_u64() > Some(1023),
            "{line}"
        );
        ensure!(line["client"].as_str().is_some_and(|client| client.starts_with(&format!("{}:", stage.client.v4))), "{line}");
    }
    Ok(())
}
