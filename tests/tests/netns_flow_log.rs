//! The flow log of the real daemon: every connection of a client is in it with its beginning and, where it is translated, its end.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixListener,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_common::{abi::FlowRecord, flow_log::RING};
use mesh_tests::{
    daemon::{Daemon, Process, mesh_binary},
    netns::when_free,
    peer,
    stage::{PORT, Stage},
};
use nix::sys::signal::Signal;
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
        ensure!(line["mode"] == "nat" && line["duration_ms"].is_u64() == (line["event"] != "opened"), "{line}");
        ensure!(line["client"].as_str().is_some_and(|client| client.starts_with(&format!("{}:", stage.client.v4))), "{line}");
    }
    Ok(())
}

/// Services that nobody translates, on one stage.
struct Untranslated {
    daemon: Daemon,
    _agents: Vec<Process>,
    stage: Stage,
    log: tempfile::TempDir,
}

const DSR: &str = "10.77.0.101";
const TUNNEL: &str = "10.77.0.102";

impl Untranslated {
    fn new(group: &str) -> Result<Self> {
        let mut stage = Stage::build(group, &BACKENDS)?;
        let mut agents = Vec::new();
        for (name, _) in BACKENDS {
            stage.serve(name)?;
            let host = &stage.backends[name];
            host.own_quietly(DSR.parse()?)?;
            host.own_quietly(TUNNEL.parse()?)?;
            let mut agent = host.ns.command(mesh_binary()?);
            agent.args(["agent", "--interface", "eth0", "--vip", TUNNEL]);
            agents.push(Process::spawn(agent.stdout(Stdio::null()).stderr(Stdio::null()))?);
            stage.serve_at(name, (DSR.parse::<std::net::IpAddr>()?, PORT).into())?;
            stage.serve_at(name, (TUNNEL.parse::<std::net::IpAddr>()?, PORT).into())?;
        }
        let log = tempfile::tempdir()?;
        let backends = format!("{}, {}", stage.address("b1", false)?.ip(), stage.address("b2", false)?.ip());
        let mut config = format!(
            "interfaces: [{{name: eth0, hook: xdp}}]\nflow_log: {{sample: 1, to: '{}'}}\nservices:\n",
            log.path().join("flows").display()
        );
        for (name, mode, vip, protocol) in [
            ("dsr", "dsr", DSR, "tcp"),
            ("dsr-udp", "dsr", DSR, "udp"),
            ("tunnel", "tunnel", TUNNEL, "tcp"),
            ("tunnel-udp", "tunnel", TUNNEL, "udp"),
        ] {
            config += &format!(
                "  - {{name: {name}, vip: {vip}, port: {PORT}, protocol: {protocol}, mode: {mode}, announce: {{address: eth0}}, \
                 health: {{type: tcp, port: {PORT}, interval: 1s, timeout: 5s}}, backends: [{backends}]}}\n"
            );
        }
        let daemon = Daemon::start(&stage.balancer.ns, &config)?;
        Ok(Self { daemon, _agents: agents, stage, log })
    }

    fn told(&self, service: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.log.path().join("flows")).unwrap_or_default();
        Ok(lines(&text)?.into_iter().filter(|line| line["service"] == service).collect())
    }

    /// Lines that were written and flows that were lost, as the metrics tell.
    fn counts(&self) -> Result<(u64, u64)> {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--fail", "--unix-socket"]).arg(self.daemon.socket()).arg("http://mesh/metrics");
        let page = String::from_utf8(curl.output()?.stdout)?;
        let count = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {page}"))?;
            line.trim().parse::<u64>().with_context(|| format!("{name}{line} is no count"))
        };
        Ok((count("mesh_flow_log_lines_total ")?, count("mesh_flow_log_lost_total ")?))
    }
}

#[test]
fn flows_that_nobody_translates_are_told_of_once() -> Result<()> {
    let world = Untranslated::new("mesh-flowlog-u")?;
    for (vip, tcp, udp) in [(DSR, "dsr", "dsr-udp"), (TUNNEL, "tunnel", "tunnel-udp")] {
        let to = SocketAddr::new(vip.parse()?, PORT);
        world.stage.client.ns.enter(|| {
            (0..REQUESTS).try_for_each(|_| peer::get(to, "/", PATIENCE).map(drop))?;
            // Two datagrams of each flow, each flow of a port of its own: of ports that the kernel draws two may be one.
            (0..2 * REQUESTS).try_for_each(|n| ask_until_answered((world.stage.client.v4, 1024 + u16::try_from(n / 2)?).into(), to))
        })??;
        for (service, protocol, mode) in [(tcp, "tcp", tcp), (udp, "udp", tcp)] {
            world.daemon.until(&format!("{REQUESTS} flows of {service} are told"), || Ok(world.told(service)?.len() >= REQUESTS))?;
            // A flow that was told twice would come a moment later.
            std::thread::sleep(Duration::from_millis(200));
            let told = world.told(service)?;
            ensure!(told.len() == REQUESTS && clients(&told, &["opened"]).len() == REQUESTS, "{told:?}");
            let who: BTreeSet<&str> = told.iter().filter_map(|line| line["backend"].as_str()).collect();
            ensure!(who.len() == BACKENDS.len(), "{who:?}");
            for line in &told {
                let (vip, from) = (format!("{vip}:{PORT}"), format!("{}:", world.stage.client.v4));
                ensure!(line["vip"] == vip && line["protocol"] == protocol && line["mode"] == mode, "{line}");
                ensure!(line["client"].as_str().is_some_and(|c| c.starts_with(&from)) && line["source_port"].is_null(), "{line}");
            }
        }
    }
    ensure!(world.counts()? == (4 * REQUESTS as u64, 0), "{:?}", world.counts()?);
    Ok(())
}

/// One flow, however many datagrams it takes: a full queue on a busy machine loses some, and none is told of twice.
fn ask_until_answered(from: SocketAddr, to: SocketAddr) -> Result<()> {
    let socket = when_free(|| UdpSocket::bind(from))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let answered = (0..20).any(|_| socket.send(b"datagram").is_ok() && socket.recv(&mut [0; 128]).is_ok());
    ensure!(answered, "no answer from {to} to {from}");
    Ok(())
}

/// A daemon that does not read loses what goes beyond the ring, says how much, and reads on; traffic notices nothing.
#[test]
fn what_the_daemon_is_too_slow_for_is_counted() -> Result<()> {
    const MORE: u64 = 500;
    let world = Untranslated::new("mesh-flowlog-l")?;
    let room = u64::from(RING) / (size_of::<FlowRecord>() as u64 + 8);
    let to = SocketAddr::new(DSR.parse()?, PORT);
    world.daemon.signal(Signal::SIGSTOP)?;
    let sent = world.stage.client.ns.enter(|| {
        let from = world.stage.client.v4;
        (0..room + MORE).try_for_each(|n| ask_until_answered((from, 1024 + u16::try_from(n)?).into(), to))?;
        anyhow::Ok(room + MORE)
    });
    world.daemon.signal(Signal::SIGCONT)?;
    let sent = sent??;
    let total = |(told, lost): (u64, u64)| told + lost;
    world.daemon.until(&format!("{sent} flows are told or lost"), || Ok(total(world.counts()?) == sent))?;
    let (told, lost) = world.counts()?;
    ensure!((MORE..MORE + 10).contains(&lost) && told >= room - 2, "{told} told, {lost} lost of {sent}, with room for {room}");
    Ok(())
}
