//! `mesh agent`, the backend's half of mode `tunnel`: owns the VIPs quietly while it runs, and takes outer headers off.

mod chance;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::{
    config,
    control::{Asked, Signals},
    dataplane::{
        AgentPlane, DataplaneError,
        net::{Announced, Announcer, Interfaces, NetError},
    },
    model::Mode,
};

pub use self::chance::{Network, SecondChance};

/// Mark of the agent's addresses: `ip -d addr` shows it as `proto 110`.
const OWNER: u8 = 110;
const LOOPBACK: &str = "lo";
/// How often addresses, interfaces and the configuration file are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What the agent is told to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A balancer's configuration: the VIPs of its `tunnel` services, and its interfaces where none is named here. Read again when it changes.
    pub config: Option<PathBuf>,
    /// Further VIPs.
    pub vips: Vec<IpAddr>,
    pub interfaces: Vec<String>,
    /// Whom packets of unknown connections may be passed on to. Empty: [`SecondChance::Link`].
    pub second_chance: Vec<SecondChance>,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("no interface is named: give --interface, or a --config with `interfaces`")]
    NoInterface,
    #[error("no VIP is named: give --vip, or a --config with services of `mode: tunnel`")]
    NoVip,
    #[error("--second-chance is `off` and something else: give one of them")]
    SecondChance,
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("failed to listen for signals: {0}")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT, then takes away all that it added.
pub async fn run(options: Options) -> Result<(), AgentError> {
    let mut file = options.config.as_deref().map(File::read).transpose()?;
    let interfaces = match (&options.interfaces[..], &file) {
        ([], Some(file)) => file.interfaces.clone(),
        (named, _) => named.to_vec(),
    };
    if interfaces.is_empty() {
        return Err(AgentError::NoInterface);
    }
    if options.vips.is_empty() && file.is_none() {
        return Err(AgentError::NoVip);
    }
    if options.second_chance.len() > 1 && options.second_chance.contains(&SecondChance::Off) {
        return Err(AgentError::SecondChance);
    }
    let mut signals = Signals::listen().map_err(AgentError::Signals)?;
    let mut agent = Agent {
        announcer: Announcer::of(OWNER)?,
        links: Interfaces::open()?,
        plane: AgentPlane::open(&interfaces)?,
        interfaces,
        second_chance: options.second_chance,
        served: BTreeSet::new(),
        problem: String::new(),
    };
    loop {
        let told = file.as_ref().map(|f| f.vips.clone()).unwrap_or_default();
        let wanted: BTreeSet<IpAddr> = options.vips.iter().copied().chain(told).collect();
        agent.look_after(&wanted).await;
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(signal) => {
                    log::info!("{signal}: the agent ends");
                    break;
                }
                Asked::Reload => agent.reread(&mut file, true),
            },
            () = tokio::time::sleep(EVERY) => agent.reread(&mut file, false),
        }
    }
    agent.end().await
}

/// What of a configuration file concerns the agent.
struct File {
    path: PathBuf,
    changed: Option<SystemTime>,
    vips: BTreeSet<IpAddr>,
    interfaces: Vec<String>,
}

impl File {
    fn read(path: &std::path::Path) -> Result<Self, config::ConfigError> {
        let changed = changed(path);
        let config = config::load(path)?.config;
        let tunnels = config.services.values().filter(|service| service.mode == Mode::Tunnel);
        Ok(Self {
            path: path.to_owned(),
            changed,
            vips: tunnels.map(|service| service.vip.addr).collect(),
            interfaces: config.interfaces.into_iter().map(|interface| interface.name).collect(),
        })
    }
}

fn changed(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

struct Agent {
    announcer: Announcer,
    links: Interfaces,
    plane: AgentPlane,
    interfaces: Vec<String>,
    second_chance: Vec<SecondChance>,
    /// VIPs that packets are decapsulated for.
    served: BTreeSet<IpAddr>,
    /// What was last complained about: once is enough.
    problem: String,
}

impl Agent {
    /// Reads the file again if it has changed, or `now`. One that can't be read leaves all as it is.
    fn reread(&mut self, file: &mut Option<File>, now: bool) {
        let Some(known) = file else { return };
        if !now && changed(&known.path) == known.changed {
            return;
        }
        match File::read(&known.path) {
            Ok(new) => *known = new,
            Err(error) => {
                known.changed = changed(&known.path);
                log::warn!("{error}");
            }
        }
    }

    async fn look_after(&mut self, wanted: &BTreeSet<IpAddr>) {
        let problem = self.adjust(wanted).await.err().map(|e| e.to_string()).unwrap_or_default();
        if !problem.is_empty() && problem != self.problem {
            log::warn!("{problem}; trying again every {} s", EVERY.as_secs());
        }
        self.problem = problem;
    }

    /// Makes addresses and maps what they have to be.
    async fn adjust(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), AgentError> {
        let addresses = self.announcer.list().await?;
        let loopback = self.links.by_name(LOOPBACK).await?.index;
        self.plane.set_own(&addresses.iter().map(|a| a.addr).filter(|a| !wanted.contains(a)).collect())?;
        let mut numbers = BTreeSet::new();
        for name in &self.interfaces {
            let link = self.links.by_name(name).await?;
            let own = addresses.iter().filter(|a| a.ifindex == link.index && !wanted.contains(&a.addr));
            let v4: Option<Ipv4Addr> = own.filter_map(|a| if let IpAddr::V4(v4) = a.addr { Some(v4) } else { None }).next();
            self.plane.set_link(link.index, link.mtu, v4)?;
            numbers.insert(link.index);
        }
        let peers = chance::networks(&self.second_chance, &numbers, &addresses);
        self.plane.set_peers(peers.iter().map(|network| (network.addr, network.bits)).collect())?;
        let stale: Vec<IpAddr> = addresses.iter().filter(|a| a.ours && !wanted.contains(&a.addr)).map(|a| a.addr).collect();
        for vip in stale.into_iter().chain(self.served.difference(wanted).copied().collect::<Vec<_>>()) {
            self.plane.forget_vip(vip)?;
            self.announcer.remove(vip, LOOPBACK).await?;
            if self.served.remove(&vip) {
                log::info!("{vip} is served no more");
            }
        }
        for vip in wanted {
            // A balancer on this node may announce it: then all the world is to know.
            let announced = addresses.iter().any(|a| a.addr == *vip && a.ifindex != loopback);
            self.plane.set_vip(*vip, !announced)?;
            let how = if announced { Announced::Foreign } else { self.announcer.add(*vip, LOOPBACK).await? };
            if self.served.insert(*vip) {
                let where_from = if how == Announced::Foreign { "which was here already" } else { "added to lo" };
                log::info!("{vip}, {where_from}, is served");
            }
        }
        Ok(())
    }

    async fn end(self) -> Result<(), AgentError> {
        let removed = self.announcer.remove_all().await?;
        let done = self.plane.stats()?;
        log::info!(
            "{removed} VIPs taken off lo; {} packets decapsulated, {} for no VIP, {} refused, {} failed, {} SYN-ACKs clamped; of those that name who \
             else may have their connection {} were of this node, {} passed on, {} known to nobody, {} not to be passed on",
            done.packets,
            done.foreign,
            done.refused,
            done.failed,
            done.clamped,
            done.local,
            done.passed_on,
            done.used_up,
            done.not_peer
        );
        Ok(())
    }
}
