//! From a configuration to a running daemon: everything is opened before anything is changed.

use std::{
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    announcing,
    asking::Passages,
    core::{Adopted, Core},
    daemon::{Daemon, PeerRoom},
    handle::Handle,
    inputs::Inputs,
    saver::Saver,
    shutdown::Signals,
    sourcing,
    view::ConfigView,
};
use crate::{
    api::{Endpoints, Server},
    config::{self, Config, Hook, Loaded},
    dataplane::{
        self, Dataplane, HookChoice, InterfaceOptions, KernelLog, KernelLogError, NatOptions, Options, ProbePlane,
        net::{Announcer, NextHops, Teller},
    },
    discovery::{Files, Memory},
    events::{What, unix_ms},
    flow_log::FlowLog,
    health::{self, Monitor, PulseSockets},
    peers,
    privilege::Opener,
    state::Store,
};

/// Announcements are reported one at a time; the task may wait for the loop.
const REPORTS: usize = 1;

/// Runs the daemon of this configuration until a signal ends it. `loaded` is what `path` says; `opener` does what needs privileges, and ends before
/// the first input is taken.
pub async fn run(path: PathBuf, loaded: Loaded, opener: Opener) -> Result<()> {
    let Loaded { config, warnings } = loaded;
    let path = std::path::absolute(&path).with_context(|| format!("failed to find {}", path.display()))?;
    let signals = Signals::listen().context("failed to listen for signals")?;
    let store = Store::open(&config.state_dir, &config.instance)?;
    let found = store.load()?;
    let endpoints = Endpoints {
        socket: config.api.socket.clone(),
        group: config.api.group.clone(),
        metrics: config.metrics,
        heartbeat: config.api.heartbeat.clone(),
    };
    let runtime = tokio::runtime::Handle::current();
    let server = opener.run(move || runtime.block_on(Server::bind(&endpoints)))??;
    let (monitor, health) = Monitor::spawn_from(health::Options::of(config.limits.checks), opener.run(PulseSockets::open)?)
        .context("failed to start the health checks")?;
    let peers = match &config.peers {
        Some(peers) => {
            let (refused, line) =
                peers::open(peers, &monitor).with_context(|| format!("failed to listen for peers at {}", peers.listen))?;
            Some((peers.clone(), refused, line))
        }
        None => None,
    };
    let next_hops = NextHops::start()?;
    let announcer = Announcer::with(opener.run(Teller::open)?)?;
    let (files, unwatched) = match Files::new() {
        Ok(files) => (Some(files), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let flow_log =
        config.flow_log.as_ref().map(|log| FlowLog::spawn(log.to.clone())).transpose().context("failed to start the flow log")?;
    let options = options(&config);
    let (mut plane, adopted) = opener.run(move || Dataplane::open(&options))??;
    let passages = Passages::new(opener.run(ProbePlane::load)?);
    drop(opener);
    let peers = match peers {
        Some((peers, refused, line)) => {
            let link = plane.speak(line, &peers).context("failed to start what tells peers of flows")?;
            Some(PeerRoom { quorum: peers.quorum, refused, link })
        }
        None => None,
    };

    let _kernel_log = kernel_log(&mut plane);
    let flows = plane.flow_records().context("failed to watch for flows that begin")?;
    let own_ports = dataplane::source_ports::taken(&config.nat.ports);
    let announced = found.state.announced.clone();
    let memory = Memory::new(&config.state_dir, &config.instance);
    let (mut core, events) = Core::new(config, found.state);
    let adopted: Vec<Adopted> = adopted.services.into_iter().map(|s| (s.vip, s.backends.into_iter().flatten().collect())).collect();
    let (remembered, forgotten) = match memory.load() {
        Ok(remembered) => (remembered, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    core.cluster(remembered.iter().flat_map(|one| one.services.clone()).collect());
    core.found(sourcing::updates(&remembered));
    core.adopt(&adopted);

    let (handle, commands, followers) = Handle::channel();
    let (announce, wanted) = watch::channel(announced.clone());
    let (report, reports) = mpsc::channel(REPORTS);
    tokio::spawn(announcing::run(announcer, announced, wanted, report));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(handle, async {
        // An error means that the daemon is gone, and that is the end as well.
        let _ = stopped.await;
    }));
    let inputs = Inputs { health, resolutions: next_hops.watch(), commands, reports, signals, flows, server: Some(server) };
    let view = ConfigView { loaded_ms: unix_ms(SystemTime::now()), file: path, error: None, warnings: texts(&warnings) };
    let mut daemon = Daemon::new(core, plane, next_hops, monitor, files, announce, Saver::spawn(store)?, followers, view, passages);
    daemon.tell(What::Started { version: env!("CARGO_PKG_VERSION").to_owned(), adopted_services: adopted.len() });
    daemon.flow_log = flow_log;
    daemon.peers = peers;
    daemon.remember(memory, &remembered);
    let problems = found.problem.into_iter().chain(unwatched).chain(forgotten).map(|error| What::StateFailed { error });
    if let Some(warning) = own_ports {
        log::warn!("{warning}");
    }
    problems.chain(events).for_each(|event| daemon.tell(event));
    daemon.begin(Instant::now());
    daemon.run(inputs, stop).await;
    Ok(())
}

fn kernel_log(plane: &mut Dataplane) -> Option<KernelLog> {
    match plane.kernel_log() {
        Ok(log) => Some(log),
        Err(KernelLogError::Silent) => None,
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

/// What the data plane is told of a configuration.
pub fn options(config: &Config) -> Options {
    let timeouts = config.nat.timeouts;
    Options {
        instance: config.instance.to_string(),
        bpffs: config.bpffs.clone(),
        interfaces: interfaces(config),
        limits: dataplane::Limits {
            services: config.limits.services,
            slots: config.limits.slots,
            backends: config.limits.backends,
            nat_flows: config.limits.nat_flows,
            ledger: config.limits.ledger,
            flows: config.limits.flows,
        },
        nat: NatOptions {
            sources: config.nat.sources.clone(),
            ports: config.nat.ports.clone(),
            timeouts: dataplane::NatTimeouts {
                half_open: timeouts.half_open,
                established: timeouts.established,
                closing: timeouts.closing,
                closed: timeouts.closed,
                udp: timeouts.udp,
            },
            half_open_limit: None,
        },
        ledger: dataplane::LedgerTimes { handshake: config.ledger.handshake, idle: config.ledger.idle, patience: config.ledger.patience },
        shared: config.shares_flows(),
        hash_key: config.hash_key,
        flow_sample: config.flow_log.as_ref().map_or(0, |log| log.sample),
        kernel_log: config.log.kernel,
    }
}

/// Interfaces and their hooks.
pub fn interfaces(config: &Config) -> Vec<InterfaceOptions> {
    let one = |i: &config::Interface| InterfaceOptions {
        name: i.name.clone(),
        hook: match i.hook {
            Hook::Auto => HookChoice::Auto,
            Hook::Xdp => HookChoice::Native,
            Hook::XdpGeneric => HookChoice::Generic,
            Hook::Tc => HookChoice::Tc,
        },
    };
    config.interfaces.iter().map(one).collect()
}

/// Findings as text.
pub fn texts(findings: &[config::Diagnostic]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

/// What differs between configurations that takes effect only at the next start.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let rows = [
        ("instance", old.instance != new.instance),
        ("bpffs", old.bpffs != new.bpffs),
        ("state_dir", old.state_dir != new.state_dir),
        ("api", old.api != new.api),
        ("metrics", old.metrics != new.metrics),
        ("limits", old.limits != new.limits),
        ("hash_key", old.hash_key != new.hash_key),
        ("nat", old.nat != new.nat),
        ("peers", old.peers != new.peers),
        ("interfaces", old.interfaces != new.interfaces),
        ("log", old.log != new.log),
        ("flow_log", old.flow_log != new.flow_log),
    ];
    rows.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// The new configuration, with what takes effect only at the next start as it was.
pub fn as_far_as_possible(new: Config, running: &Config) -> Config {
    Config { services: new.services, kubernetes: new.kubernetes, ..running.clone() }
}

/// Reads the configuration again.
pub fn reread(path: &Path) -> Result<Loaded, String> {
    config::load(path).map_err(|e| e.to_string())
}
