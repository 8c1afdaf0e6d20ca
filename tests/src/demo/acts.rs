//! The script: steady traffic, a failure, a comeback, a drain, a new backend, and the daemon's own death.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{
    scoreboard::Scoreboard,
    screen::Screen,
    summary::{Share, Summary},
};
use crate::{
    daemon::{Daemon, LIMIT},
    netns::remove_stale,
    peer::{Held, Load},
    stage::Stage,
};

const GROUP: &str = "mesh-demo";
const VIP_V4: &str = "10.77.0.100";
const VIP_V6: &str = "fd77::100";
const BACKENDS: [(&str, u8, u16); 3] = [("b1", 11, 1), ("b2", 12, 1), ("b3", 13, 2)];
const NEWCOMER: (&str, u8) = ("b4", 14);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// A backend that takes longer to its first request does not come.
const SOON: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Leave the topology up.
    pub keep: bool,
}

/// Runs the demo; `stop` ends it early (with an error), and everything is cleaned up all the same.
pub fn perform(options: Options, stop: &AtomicBool) -> Result<Summary> {
    let mut screen = Screen::new();
    let stale = clean()?;
    if stale > 0 {
        screen.note(&format!("removed {stale} namespaces of an earlier run"));
    }
    screen.headline("building the stage: a client, a balancer and four backends, each a network namespace on one Ethernet");
    let hosts: Vec<_> = BACKENDS.iter().map(|&(name, n, _)| (name, n)).chain([NEWCOMER]).collect();
    let mut stage = Stage::build(GROUP, &hosts)?;
    for (name, ..) in BACKENDS {
        stage.serve(name)?;
    }
    let mut play = Play::start(stage, screen, stop)?;
    play.acts()?;
    Ok(play.end(options))
}

/// Takes down what earlier runs have left (killed, or kept). Returns how many namespaces there were.
pub fn clean() -> Result<usize> {
    let stale = remove_stale(GROUP)?;
    for name in &stale {
        // The links ended with their interfaces; the pins are files.
        let _ = std::fs::remove_dir_all(std::path::Path::new("/sys/fs/bpf/mesh").join(name));
    }
    Ok(stale.len())
}

fn config(stage: &Stage) -> Result<String> {
    let mut text = String::from("interfaces: [eth0]\nservices:\n");
    for (service, vip, v6) in [("web", VIP_V4, false), ("web6", VIP_V6, true)] {
        text += &format!(
            "  - name: {service}\n    vip: \"{vip}\"\n    port: 80\n    protocol: tcp\n    mode: nat\n    announce: {{address: eth0}}\n    \
             health: {{type: http, path: /, interval: 100ms, timeout: 90ms, rise: 2, fall: 2}}\n    backends:\n"
        );
        for (name, _, weight) in BACKENDS {
            let address = stage.address(name, v6)?;
            text += &format!("      - {{name: {name}, address: \"{address}\", weight: {weight}}}\n");
        }
    }
    Ok(text)
}

/// Everything on stage while traffic flows. Fields end in this order: traffic, daemon, then the hosts.
struct Play<'a> {
    load: Option<Load>,
    load6: Option<Load>,
    held: Option<Held>,
    board: Scoreboard,
    board6: Scoreboard,
    summary: Summary,
    screen: Screen,
    stop: &'a AtomicBool,
    daemon: Daemon,
    stage: Stage,
}

impl<'a> Play<'a> {
    fn start(stage: Stage, mut screen: Screen, stop: &'a AtomicBool) -> Result<Self> {
        screen.headline("starting the daemon");
        let daemon = Daemon::start(&stage.balancer.ns, &config(&stage)?)?;
        for line in daemon.ok(&["service", "ls"])?.lines() {
            screen.note(line);
        }
        let ask = |vip: &str, workers| Load::start(&stage.client.ns, to(vip)?, workers, Duration::from_millis(4), PATIENCE);
        let (load, load6) = (Some(ask(VIP_V4, 8)?), Some(ask(VIP_V6, 2)?));
        Ok(Self {
            load,
            load6,
            held: None,
            board: Scoreboard::default(),
            board6: Scoreboard::default(),
            summary: Summary::default(),
            screen,
            stop,
            daemon,
            stage,
        })
    }

    fn acts(&mut self) -> Result<()> {
        self.steady()?;
        self.hold()?;
        self.failure()?;
        self.comeback()?;
        self.drain()?;
        self.join()?;
        self.headless()
    }

    fn steady(&mut self) -> Result<()> {
        self.screen.headline("steady traffic: HTTP requests to both VIPs, each on a connection of its own");
        let begin = Instant::now();
        self.watch(Duration::from_secs(4))?;
        let shares = self.board.shares_between(begin, Instant::now());
        let answers: usize = shares.values().sum();
        let weights: u16 = BACKENDS.iter().map(|b| b.2).sum();
        for (name, _, weight) in BACKENDS {
            let got = shares.get(name).copied().unwrap_or(0) as f64 / answers.max(1) as f64;
            let share = Share { got, weight: f64::from(weight) / f64::from(weights) };
            self.summary.distribution.insert(name.into(), share);
            // Five standard deviations of a fair draw of so many answers, and one percent for the table's own grain.
            let slack = 0.01 + 5.0 * (share.weight * (1.0 - share.weight) / answers.max(1) as f64).sqrt();
            self.summary.expect((share.got - share.weight).abs() < slack, || {
                format!("{name} answered {:.1} % of requests, its weight asks for {:.1} %", 100.0 * share.got, 100.0 * share.weight)
            });
        }
        self.expect_no_errors(begin, "in steady traffic");
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        self.screen.headline("opening twelve long connections, which are asked again and again until the end");
        self.held = Some(Held::open(&self.stage.client.ns, to(VIP_V4)?, 12, Duration::from_millis(50), Duration::from_secs(3))?);
        Ok(())
    }

    fn failure(&mut self) -> Result<()> {
        self.screen.headline("killing b1 (SIGKILL)");
        let event = Instant::now();
        self.stage.kill("b1")?;
        self.watch(Duration::from_secs(3))?;
        let failover = self.board.settled_after(event, "b1");
        self.summary.failover_ms = millis(failover);
        self.summary.errors_during_failover = self.board.errors_between(event, event + failover + Duration::from_millis(1))
            + self.board6.errors_between(event, Instant::now());
        self.screen.note(&format!("failover after {:.0} ms", millis(failover)));
        self.summary.expect(failover < Duration::from_secs(2), || "requests still failed two seconds after the kill".into());
        let shares = self.board.shares_between(event + Duration::from_secs(2), Instant::now());
        self.summary.expect(!shares.contains_key("b1") && shares.len() == 2, || format!("two backends should answer, not {shares:?}"));
        Ok(())
    }

    fn comeback(&mut self) -> Result<()> {
        self.screen.headline("starting b1 again");
        let event = Instant::now();
        self.stage.serve("b1")?;
        let back = self.watch_for(event, "b1")?;
        self.summary.comeback_ms = back.map_or(0.0, millis);
        self.summary.expect(back.is_some(), || format!("b1 came back, but got no request within {SOON:?}"));
        self.expect_no_errors(event, "when b1 came back");
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.screen.headline("draining b2: new connections go elsewhere, open ones stay");
        let event = Instant::now();
        self.daemon.ok(&["backend", "drain", "web", "b2"])?;
        self.watch(Duration::from_secs(2))?;
        let last = self.board.settled_after(event, "b2");
        self.summary.drain_ms = millis(last);
        self.summary.expect(last < Duration::from_secs(1), || "b2 still got new connections a second after it was drained".into());
        self.expect_no_errors(event, "while b2 was drained");
        Ok(())
    }

    fn join(&mut self) -> Result<()> {
        self.screen.headline("adding b4");
        self.stage.serve(NEWCOMER.0)?;
        let address = self.stage.address(NEWCOMER.0, false)?.to_string();
        let event = Instant::now();
        self.daemon.ok(&["backend", "add", "web", &address, "--name", NEWCOMER.0])?;
        let first = self.watch_for(event, NEWCOMER.0)?;
        self.summary.join_ms = first.map_or(0.0, millis);
        self.summary.expect(first.is_some(), || format!("b4 was added, but got no request within {SOON:?}"));
        self.expect_no_errors(event, "while b4 joined");
        Ok(())
    }

    fn headless(&mut self) -> Result<()> {
        self.screen.headline("killing the daemon itself (SIGKILL): forwarding goes on without it");
        let event = Instant::now();
        self.daemon.stop(Signal::SIGKILL)?;
        self.watch(Duration::from_secs(2))?;
        self.screen.headline("starting it again: it adopts what runs");
        self.daemon.launch()?;
        self.daemon.wait_ready(LIMIT)?;
        self.watch(Duration::from_secs(2))?;
        self.summary.errors_without_daemon = self.board.errors_between(event, Instant::now());
        self.expect_no_errors(event, "while the daemon was dead and restarted");
        let shares = self.board.shares_between(Instant::now() - Duration::from_secs(1), Instant::now());
        self.summary.expect(!shares.contains_key("b2"), || "b2 was drained, but gets requests after the restart".into());
        Ok(())
    }

    /// Lets traffic flow for a while and shows it.
    fn watch(&mut self, span: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < span {
            ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
            std::thread::sleep(Duration::from_millis(500).min(span.saturating_sub(begin.elapsed())));
            self.collect();
            self.screen.traffic(&self.board, begin);
        }
        Ok(())
    }

    /// Watches the traffic for two seconds, or on a busy machine for longer, and says how long after `event` a backend got its first request.
    fn watch_for(&mut self, event: Instant, name: &str) -> Result<Option<Duration>> {
        loop {
            self.watch(Duration::from_secs(2))?;
            let first = self.board.first_after(event, name);
            if first.is_some() || event.elapsed() > SOON {
                return Ok(first);
            }
        }
    }

    fn collect(&mut self) {
        self.board.add(self.load.as_ref().map(Load::drain).unwrap_or_default());
        self.board6.add(self.load6.as_ref().map(Load::drain).unwrap_or_default());
    }

    fn expect_no_errors(&mut self, since: Instant, when: &str) {
        for (board, family) in [(&self.board, "IPv4"), (&self.board6, "IPv6")] {
            if let Some(error) = board.first_error_between(since, Instant::now()) {
                let count = board.errors_between(since, Instant::now());
                self.summary.problems.push(format!("{count} {family} requests failed {when}: {error}"));
            }
        }
    }

    /// Ends traffic, counts, and clears the stage.
    fn end(mut self, options: Options) -> Summary {
        self.screen.headline("the end");
        let rest = self.load.take().map(Load::finish).unwrap_or_default();
        self.board.add(rest);
        let rest = self.load6.take().map(Load::finish).unwrap_or_default();
        self.board6.add(rest);
        self.count_long_connections();
        let summary = &mut self.summary;
        (summary.requests, summary.errors) = (self.board.requests(), self.board.errors());
        (summary.ipv6_requests, summary.ipv6_errors) = (self.board6.requests(), self.board6.errors());
        summary.expect(self.board6.requests() > 100, || "hardly any IPv6 request was answered".into());
        if options.keep {
            self.leave_up();
        }
        self.summary
    }

    fn count_long_connections(&mut self) {
        let reports = self.held.take().map(Held::finish).unwrap_or_default();
        let summary = &mut self.summary;
        summary.long_connections = reports.len();
        for report in reports {
            match report.broken {
                Some(_) if report.owner == "b1" => summary.killed_connections += 1,
                Some(why) => {
                    summary.broken_connections += 1;
                    summary.problems.push(format!("a long connection to {} broke: {why}", report.owner));
                }
                None => {}
            }
        }
    }

    fn leave_up(&mut self) {
        let directory = self.daemon.keep();
        self.stage.keep();
        let balancer = self.stage.balancer.ns.name().to_owned();
        let client = self.stage.client.ns.name().to_owned();
        self.screen.headline("everything is left up:");
        self.screen.note(&format!("ip netns exec {client} curl http://{VIP_V4}/"));
        self.screen.note(&format!("mesh --socket {} status", directory.join("mesh.sock").display()));
        self.screen.note(&format!("`cargo xtask demo --clean` takes it down ({balancer} and its neighbours)"));
    }
}

fn to(vip: &str) -> Result<std::net::SocketAddr> {
    Ok((vip.parse::<std::net::IpAddr>().with_context(|| format!("`{vip}` is no address"))?, 80).into())
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
