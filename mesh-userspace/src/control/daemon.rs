//! The shell around the core: waits for inputs, and executes what the core wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{broadcast, oneshot, watch};

use super::{
    announcing::{Place, Report},
    asking::Passages,
    breaking::Breaking,
    core::Core,
    drains::Drains,
    following::FileRead,
    inputs::{Input, Inputs, at, begun, changed, ended, told},
    publishing::{REPAIR, SWEEP},
    saver::{Done, Saver},
    shutdown::Asked,
    view::{ConfigView, Publications},
    weighing::Weighing,
};
use crate::{
    dataplane::{
        Dataplane, LayoutError, NatReport,
        net::{NextHops, Reason, Resolution, nexthop::Resolutions},
    },
    discovery::{Files, Memory, Sources},
    events::{Event, Ring, What},
    flow_log::FlowLog,
    health::{HealthEvent, MonitorHandle},
    model::{BackendId, ServiceName},
    peers::{self, ledger::link::Link},
    weights::Factor,
};

/// Next hops are looked up when the daemon starts; what is published before would send nothing. This long they may take, ...
const FIRST_LOOKUP: Duration = Duration::from_secs(1);
/// ... and so much longer for each backend.
const EACH_LOOKUP: Duration = Duration::from_micros(50);
/// Changes of next hops that are told one by one where many come at once: the events that are kept have to hold others too.
const TOLD_AT_ONCE: usize = 100;
/// After a signal to stop, requests have the server's own grace, and this long in all.
const STOP: Duration = Duration::from_secs(5);

/// Other nodes: their votes, and what they tell of flows.
#[derive(Debug)]
pub struct PeerRoom {
    pub quorum: u32,
    pub refused: peers::Counts,
    pub link: Arc<Link>,
}

/// The state of the daemon, all of it.
pub struct Daemon {
    pub(super) core: Core,
    pub(super) plane: Dataplane,
    pub(super) monitor: MonitorHandle,
    pub(super) resolutions: Resolutions,
    /// Addresses whose next hop is another one than was published.
    pub(super) rerouted: BTreeSet<IpAddr>,
    pub(super) nat: NatReport,
    pub(super) ring: Ring,
    pub(super) config: ConfigView,
    pub(super) started: SystemTime,
    pub(super) publications: Publications,
    pub(super) next_hops: NextHops,
    pub(super) files: Option<Files>,
    pub(super) sources: Sources,
    /// Where it is kept what sources said, and whether there is something to keep.
    pub(super) memory: Option<Memory>,
    pub(super) unremembered: bool,
    /// What of a cluster's wishes can't be, so that it is told once.
    pub(super) cluster_problems: Vec<String>,
    /// How reading each service's file went.
    pub(super) files_read: BTreeMap<ServiceName, FileRead>,
    pub(super) announce: watch::Sender<BTreeSet<Place>>,
    pub(super) saver: Saver,
    pub(super) followers: broadcast::Sender<Event>,
    /// When to publish; `None` = nothing has changed.
    pub(super) publish_at: Option<Instant>,
    /// Until then the first publication waits for next hops.
    pub(super) first_lookup: Option<Instant>,
    /// When to read what the kernel half has counted of backends.
    pub(super) observe_at: Instant,
    pub(super) sweep_at: Instant,
    pub(super) repair_at: Instant,
    /// Services before this one have been compared with the maps in this turn.
    pub(super) repaired: usize,
    /// When slots on their way are looked at; `None` = all are at rest.
    pub(super) step_at: Option<Instant>,
    pub(super) ready: bool,
    pub(super) drains: Drains,
    pub(super) flow_log: Option<FlowLog>,
    /// Where there are peers.
    pub(super) peers: Option<PeerRoom>,
    pub(super) weighing: Weighing,
    pub(super) breaking: Breaking,
    pub(super) passages: Passages,
    /// Nobody answers our checks, as was told last.
    pub(super) blind: bool,
    /// Factors that were found last, by service.
    pub(super) weighed: BTreeMap<ServiceName, BTreeMap<BackendId, Factor>>,
    /// Services that could not be published as wanted.
    pub(super) refused: BTreeMap<ServiceName, LayoutError>,
}

impl Daemon {
    #[allow(clippy::too_many_arguments, reason = "called once, and each is a part of its own")]
    pub fn new(
        core: Core,
        plane: Dataplane,
        next_hops: NextHops,
        monitor: MonitorHandle,
        files: Option<Files>,
        announce: watch::Sender<BTreeSet<Place>>,
        saver: Saver,
        followers: broadcast::Sender<Event>,
        config: ConfigView,
        passages: Passages,
    ) -> Self {
        let now = Instant::now();
        Self {
            core,
            plane,
            monitor,
            resolutions: Resolutions::default(),
            rerouted: BTreeSet::new(),
            nat: NatReport::default(),
            ring: Ring::default(),
            config,
            started: SystemTime::now(),
            publications: Publications::default(),
            next_hops,
            files,
            sources: Sources::default(),
            memory: None,
            unremembered: false,
            cluster_problems: Vec::new(),
            files_read: BTreeMap::new(),
            announce,
            saver,
            followers,
            publish_at: None,
            first_lookup: None,
            observe_at: now,
            sweep_at: now + SWEEP,
            repair_at: now + REPAIR,
            repaired: 0,
            step_at: None,
            ready: false,
            drains: Drains::default(),
            flow_log: None,
            peers: None,
            weighing: Weighing::default(),
            breaking: Breaking::default(),
            passages,
            blind: false,
            weighed: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Keeps and logs an event, and tells those who follow.
    pub fn tell(&mut self, what: What) {
        let event = self.ring.push(what, SystemTime::now());
        if self.followers.receiver_count() > 0 {
            // Nobody following any more is no error.
            let _ = self.followers.send(event.clone());
        }
    }

    /// Reads the files, sets everything going, and has the tables published as soon as next hops are known.
    pub fn begin(&mut self, now: Instant) {
        self.publish_at = Some(now);
        self.read_endpoint_files(None);
        self.act();
        let backends: usize = self.core.services().values().map(|m| m.endpoints.len()).sum();
        self.first_lookup = Some(now + FIRST_LOOKUP + EACH_LOOKUP * u32::try_from(backends).unwrap_or(u32::MAX));
        self.replan(now);
    }

    /// Reacts to inputs until a signal ends it; `stop` ends the API.
    pub async fn run(mut self, mut inputs: Inputs, stop: oneshot::Sender<()>) {
        let mut stop = Some(stop);
        let mut deadline = None;
        let won = loop {
            let Some(input) = self.next(&mut inputs, deadline).await else { break "the grace time ran out" };
            let now = Instant::now();
            match input {
                Input::Health(event) => self.health(event, now),
                Input::NextHops(resolutions) => self.next_hops(resolutions, now),
                Input::Publish => self.publish(now),
                Input::Step => self.step(now),
                Input::Peers if self.publications.count == 0 => {}
                Input::Peers => {
                    self.step(now);
                    self.check_ready();
                }
                Input::Asked(Asked::Reload) => self.reload_all(now),
                Input::Asked(Asked::Stop(signal)) => {
                    self.tell(What::Stopping { signal: signal.to_owned() });
                    drop(stop.take());
                    deadline.get_or_insert(now + STOP);
                }
                Input::Command(command) => self.command(command, now),
                Input::Files(changed) => self.files_changed(&changed, now),
                Input::Sources(news) => self.sources_say(news, now),
                Input::Announced(report) => self.announced(report),
                Input::Flows(records) => self.flows_began(&records),
                Input::Observe => self.observe(now),
                Input::Expire => self.expire(now),
                Input::Sweep => self.sweep(now),
                Input::Repair => self.repair(now),
                Input::ServerEnded if deadline.is_some() => break "all requests were answered",
                Input::ServerEnded => log::error!("the API has ended; forwarding and health checks go on"),
            }
        };
        self.write_memory();
        log::info!("stopped: {won}; programs and tables stay in the kernel, and forwarding goes on");
    }

    /// The next input; `None` once `deadline` has passed.
    ///
    /// Every branch is cancel safe: channels keep what was not taken, [`Files`], [`Sources`] and [`Signals`] keep what they noticed, timers are instants.
    async fn next(&mut self, inputs: &mut Inputs, deadline: Option<Instant>) -> Option<Input> {
        let (publish, step) = (self.publish_due(), self.step_at);
        let (observe, expiry) = (self.observe_due(), self.core.next_expiry());
        let files = self.files.as_mut();
        let link = self.peers.as_ref().map(|peers| Arc::clone(&peers.link));
        Some(tokio::select! {
            biased;
            // 1. What keeps traffic off a dead backend, and ...
            Some(event) = inputs.health.recv() => Input::Health(event),
            Ok(()) = inputs.resolutions.changed() => Input::NextHops(inputs.resolutions.borrow_and_update().clone()),
            // 2. ... its publication,
            () = at(publish) => Input::Publish,
            () = at(expiry) => Input::Expire,
            () = at(observe) => Input::Observe,
            () = at(step) => Input::Step,
            () = told(link) => Input::Peers,
            // 3. the operator,
            asked = inputs.signals.next() => Input::Asked(asked),
            Some(command) = inputs.commands.recv() => Input::Command(command),
            changed = changed(files) => Input::Files(changed),
            news = self.sources.next() => Input::Sources(news),
            // 4. and what has time.
            Some(report) = inputs.reports.recv() => Input::Announced(report),
            () = at(Some(self.sweep_at)) => Input::Sweep,
            () = at(Some(self.repair_at)) => Input::Repair,
            records = begun(inputs.flows.as_mut()) => Input::Flows(records),
            () = ended(&mut inputs.server) => Input::ServerEnded,
            () = at(deadline) => return None,
        })
    }

    fn health(&mut self, event: HealthEvent, now: Instant) {
        if self.core.health(event, now) {
            self.dirty(now);
        }
    }

    fn next_hops(&mut self, resolutions: Resolutions, now: Instant) {
        let before = std::mem::replace(&mut self.resolutions, resolutions);
        let after = self.resolutions.clone();
        self.rerouted.extend(before.keys().filter(|a| !after.contains_key(*a)));
        let mut told = 0;
        for (address, resolution) in after.iter().filter(|(a, r)| before.get(a) != Some(r)) {
            self.rerouted.insert(*address);
            told += 1;
            if told > TOLD_AT_ONCE {
                continue;
            }
            let (ready, detail) = match resolution {
                Resolution::NotReady(Reason::Pending | Reason::NeighbourIncomplete { .. }) => continue,
                Resolution::NotReady(reason) => (false, reason.to_string()),
                Resolution::Ready(hop) => (true, format!("{} on {}", super::report::mac(hop.dst_mac), hop.ifname)),
            };
            self.tell(What::NextHop { address: *address, ready, detail });
        }
        if told > TOLD_AT_ONCE {
            log::info!("{} more next hops are others now", told - TOLD_AT_ONCE);
        }
        self.follow_passages();
        self.tell_neighbours();
        self.dirty(now);
    }

    /// Tells everyone what is wanted of them now, if that may be something else than before.
    pub(super) fn act(&mut self) {
        let Some(wanted) = self.core.news_wanted() else { return };
        if !wanted.seeds.is_empty() {
            self.monitor.seed(wanted.seeds);
        }
        self.set_checks(wanted.checks);
        self.next_hops.set_targets(wanted.next_hops);
        self.announce.send_if_modified(|current| {
            let changed = *current != wanted.announce;
            *current = wanted.announce;
            changed
        });
        self.sources.set(wanted.sources, wanted.cluster.as_ref());
        let watched = wanted.files.into_values().chain([self.config.file.clone()]).collect();
        let failed = self.files.as_mut().map(|files| files.set(watched)).unwrap_or_default();
        for error in failed {
            log::warn!("{error}");
        }
    }

    fn announced(&mut self, report: Report) {
        report.events.into_iter().for_each(|event| self.tell(event));
        if self.core.set_announced(report.ours) {
            self.save(Box::new(|result| {
                if let Err(error) = result {
                    log::error!("{error}");
                }
            }));
        }
    }

    /// Saves the state beside the loop.
    pub(super) fn save(&self, done: Done) {
        self.saver.save(self.core.state().clone(), done);
    }
}
