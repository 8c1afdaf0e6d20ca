//! The shell around the core: waits for inputs, and executes what the core wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
    time::sleep_until,
};

use super::{
    announcing::{Place, Report},
    core::Core,
    handle::Command,
    saver::{Done, Saver},
    shutdown::{Asked, Signals},
    startup::{needs_restart, reread, texts},
    view::{ConfigView, Publications, Readiness},
};
use crate::{
    dataplane::{
        Dataplane, LayoutError, NatReport,
        net::{NextHops, Reason, Resolution, nexthop::Resolutions},
    },
    discovery::{Files, Update, read_endpoints},
    events::{Event, Ring, What, unix_ms},
    health::{Health, HealthEvent, MonitorHandle},
    model::ServiceName,
};

/// Inputs that come in a burst are published together; far below what anyone notices of a failover.
const BURST: Duration = Duration::from_millis(2);
/// Next hops are looked up when the daemon starts; what is published before would send nothing. This long they may take.
const FIRST_LOOKUP: Duration = Duration::from_secs(2);
/// Translated flows are swept, and ...
const SWEEP: Duration = Duration::from_secs(1);
/// ... the maps are compared with the plan this often.
const REPAIR: Duration = Duration::from_secs(30);
/// After a signal to stop, requests have the server's own grace, and this long in all.
const STOP: Duration = Duration::from_secs(5);

/// Where inputs come from.
#[derive(Debug)]
pub struct Inputs {
    pub health: mpsc::Receiver<HealthEvent>,
    pub resolutions: watch::Receiver<Resolutions>,
    pub commands: mpsc::Receiver<Command>,
    pub reports: mpsc::Receiver<Report>,
    pub signals: Signals,
    pub server: JoinHandle<()>,
}

/// One thing to react to.
enum Input {
    Health(HealthEvent),
    NextHops(Resolutions),
    Publish,
    Asked(Asked),
    Command(Command),
    Files(BTreeSet<PathBuf>),
    Announced(Report),
    Sweep,
    Repair,
    ServerEnded,
}

/// The state of the daemon, all of it.
pub struct Daemon {
    pub(super) core: Core,
    pub(super) plane: Dataplane,
    pub(super) monitor: MonitorHandle,
    pub(super) resolutions: Resolutions,
    pub(super) nat: NatReport,
    pub(super) ring: Ring,
    pub(super) config: ConfigView,
    pub(super) started: SystemTime,
    pub(super) publications: Publications,
    next_hops: NextHops,
    files: Option<Files>,
    /// What each service's file says is wrong, so that it is told once.
    file_problems: BTreeMap<ServiceName, String>,
    announce: watch::Sender<BTreeSet<Place>>,
    saver: Saver,
    followers: broadcast::Sender<Event>,
    /// When to publish; `None` = nothing has changed.
    publish_at: Option<Instant>,
    /// Until then the first publication waits for next hops.
    first_lookup: Option<Instant>,
    sweep_at: Instant,
    repair_at: Instant,
    ready: bool,
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
    ) -> Self {
        let now = Instant::now();
        Self {
            core,
            plane,
            monitor,
            resolutions: Resolutions::default(),
            nat: NatReport::default(),
            ring: Ring::default(),
            config,
            started: SystemTime::now(),
            publications: Publications::default(),
            next_hops,
            files,
            file_problems: BTreeMap::new(),
            announce,
            saver,
            followers,
            publish_at: None,
            first_lookup: None,
            sweep_at: now + SWEEP,
            repair_at: now + REPAIR,
            ready: false,
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
        self.first_lookup = Some(now + FIRST_LOOKUP);
        self.publish_at = Some(now);
        self.read_endpoint_files(None);
        self.act();
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
                Input::Asked(Asked::Reload) => self.reload_all(now),
                Input::Asked(Asked::Stop(signal)) => {
                    self.tell(What::Stopping { signal: signal.to_owned() });
                    drop(stop.take());
                    deadline.get_or_insert(now + STOP);
                }
                Input::Command(command) => self.command(command, now),
                Input::Files(changed) => self.files_changed(&changed, now),
                Input::Announced(report) => self.announced(report),
                Input::Sweep => self.sweep(now),
                Input::Repair => self.repair(now),
                Input::ServerEnded if deadline.is_some() => break "all requests were answered",
                Input::ServerEnded => log::error!("the API has ended; forwarding and health checks go on"),
            }
        };
        log::info!("stopped: {won}; programs and tables stay in the kernel, and forwarding goes on");
    }

    /// The next input; `None` once `deadline` has passed.
    ///
    /// Every branch is cancel safe: channels keep what was not taken, [`Files`] and [`Signals`] keep what they noticed, timers are instants.
    async fn next(&mut self, inputs: &mut Inputs, deadline: Option<Instant>) -> Option<Input> {
        let publish = self.publish_due();
        let files = self.files.as_mut();
        Some(tokio::select! {
            biased;
            // 1. What keeps traffic off a dead backend, and ...
            Some(event) = inputs.health.recv() => Input::Health(event),
            Ok(()) = inputs.resolutions.changed() => Input::NextHops(inputs.resolutions.borrow_and_update().clone()),
            // 2. ... its publication,
            () = at(publish) => Input::Publish,
            // 3. the operator,
            asked = inputs.signals.next() => Input::Asked(asked),
            Some(command) = inputs.commands.recv() => Input::Command(command),
            changed = changed(files) => Input::Files(changed),
            // 4. and what has time.
            Some(report) = inputs.reports.recv() => Input::Announced(report),
            () = at(Some(self.sweep_at)) => Input::Sweep,
            () = at(Some(self.repair_at)) => Input::Repair,
            _ = &mut inputs.server, if !inputs.server.is_finished() || deadline.is_some() => Input::ServerEnded,
            () = at(deadline) => return None,
        })
    }

    /// When to publish. The first time waits for next hops, because a table without them forwards nothing.
    fn publish_due(&self) -> Option<Instant> {
        let at = self.publish_at?;
        match self.first_lookup {
            Some(limit) if !self.all_looked_up() => Some(limit.max(at)),
            _ => Some(at),
        }
    }

    fn all_looked_up(&self) -> bool {
        let mut addrs = self.core.services().values().flat_map(|m| m.endpoints.iter().map(|e| e.id.0.ip()));
        addrs.all(|addr| {
            !matches!(self.resolutions.get(&addr), None | Some(Resolution::NotReady(Reason::Pending | Reason::NeighbourIncomplete { .. })))
        })
    }

    /// Has the tables published a moment later.
    pub(super) fn dirty(&mut self, now: Instant) {
        self.publish_at = Some(self.publish_at.map_or(now + BURST, |at| at.min(now + BURST)));
    }

    fn health(&mut self, event: HealthEvent, now: Instant) {
        if self.core.health(event, now) {
            self.dirty(now);
        }
    }

    fn next_hops(&mut self, resolutions: Resolutions, now: Instant) {
        let before = std::mem::replace(&mut self.resolutions, resolutions);
        let after = self.resolutions.clone();
        for (address, resolution) in after.iter().filter(|(a, r)| before.get(a) != Some(r)) {
            let (ready, detail) = match resolution {
                Resolution::NotReady(Reason::Pending | Reason::NeighbourIncomplete { .. }) => continue,
                Resolution::NotReady(reason) => (false, reason.to_string()),
                Resolution::Ready(hop) => (true, format!("{} on {}", super::report::mac(hop.dst_mac), hop.ifname)),
            };
            self.tell(What::NextHop { address: *address, ready, detail });
        }
        self.dirty(now);
    }

    /// Plans and writes the tables.
    pub(super) fn publish(&mut self, now: Instant) {
        (self.publish_at, self.first_lookup) = (None, None);
        let events = self.core.replan(table_seed(self.plane.hash_key()), now);
        let planned = Instant::now();
        let published = self.plane.apply(self.core.plan(), &self.resolutions);
        events.into_iter().for_each(|event| self.tell(event));
        self.publications.count += 1;
        self.publications.last_plan_us = micros(planned - now);
        self.publications.last_apply_us = micros(planned.elapsed());
        self.publish_at = self.core.plan().replan_at;
        let Publications { last_plan_us: plan_us, last_apply_us: apply_us, .. } = self.publications;
        if published.ops > 0 {
            self.tell(What::Published { epoch: published.epoch, stores: published.ops, plan_us, apply_us });
        }
        self.refused(published.refused);
        self.check_ready();
    }

    /// Tells of services that could not be published, once each.
    fn refused(&mut self, refused: Vec<(ServiceName, LayoutError)>) {
        let before = std::mem::replace(&mut self.refused, refused.into_iter().collect());
        let news: Vec<_> = self.refused.iter().filter(|(name, error)| before.get(*name) != Some(error)).collect();
        let news: Vec<_> = news.into_iter().map(|(name, error)| format!("service {name} is left as it was: {error}")).collect();
        for error in news {
            self.publications.failures += 1;
            self.tell(What::PublishFailed { error });
        }
    }

    /// Tells everyone what is wanted of them now.
    pub(super) fn act(&mut self) {
        let wanted = self.core.wanted();
        if !wanted.seeds.is_empty() {
            self.monitor.seed(wanted.seeds);
        }
        self.monitor.set_targets(wanted.checks);
        self.next_hops.set_targets(wanted.next_hops);
        self.announce.send_if_modified(|current| {
            let changed = *current != wanted.announce;
            *current = wanted.announce;
            changed
        });
        let watched = wanted.files.into_values().chain([self.config.file.clone()]).collect();
        let failed = self.files.as_mut().map(|files| files.set(watched)).unwrap_or_default();
        for error in failed {
            log::warn!("{error}");
        }
    }

    /// SIGHUP: the configuration and every file of backends.
    fn reload_all(&mut self, now: Instant) {
        // The result is told as an event.
        let _ = self.reload(now);
        self.read_endpoint_files(None);
        self.act();
        self.dirty(now);
    }

    /// Reads the configuration again. A failure leaves what runs.
    pub(super) fn reload(&mut self, now: Instant) -> Result<(), String> {
        let before = self.core.config().clone();
        let outcome = reread(&self.config.file).and_then(|loaded| {
            let restart = needs_restart(&before, &loaded.config);
            Ok((self.core.reload(loaded.config)?, loaded.warnings, restart))
        });
        match outcome {
            Ok((changed, warnings, restart)) => {
                self.publications.reloads += 1;
                self.config.loaded_ms = unix_ms(SystemTime::now());
                self.config.error = None;
                self.config.warnings = texts(&warnings);
                let later = restart.iter().map(|key| format!("the change of `{key}` takes effect at the next start of the daemon"));
                self.config.warnings.extend(later);
                for warning in &self.config.warnings {
                    log::warn!("{warning}");
                }
                self.tell(What::Reloaded { changed });
                self.read_endpoint_files(None);
                self.act();
                self.dirty(now);
                Ok(())
            }
            Err(error) => {
                self.publications.reload_failures += 1;
                self.config.error = Some(error.clone());
                self.tell(What::ReloadFailed { error: error.clone() });
                Err(error)
            }
        }
    }

    fn files_changed(&mut self, changed: &BTreeSet<PathBuf>, now: Instant) {
        if changed.contains(&self.config.file) {
            // The result is told as an event.
            let _ = self.reload(now);
        }
        if self.read_endpoint_files(Some(changed)) {
            self.act();
            self.dirty(now);
        }
    }

    /// Reads files of backends: those in `only`, or all. True if something changed. A file that can't be read leaves what it said before.
    fn read_endpoint_files(&mut self, only: Option<&BTreeSet<PathBuf>>) -> bool {
        let services = self.core.services().values();
        let followed = services.filter_map(|m| Some((m.spec.clone(), m.service.backends_file.clone()?)));
        let due: Vec<_> = followed.filter(|(_, file)| only.is_none_or(|only| only.contains(file))).collect();
        let mut changed = false;
        for (spec, file) in due {
            match read_endpoints(&file, spec.vip, spec.mode) {
                Ok(endpoints) => {
                    self.file_problems.remove(&spec.name);
                    changed |= self.core.discovered(&spec.name, Update::Reset(endpoints));
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.file_problems.insert(spec.name.clone(), error.clone()).as_ref() != Some(&error) {
                        self.tell(What::SourceFailed { service: spec.name, source: file.display().to_string(), error });
                    }
                }
            }
        }
        changed
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

    /// Reads the files of services that nothing was read for yet.
    pub(super) fn read_new_files(&mut self) {
        self.read_endpoint_files(None);
    }

    /// Saves the state beside the loop.
    pub(super) fn save(&self, done: Done) {
        self.saver.save(self.core.state().clone(), done);
    }

    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP;
        match self.plane.sweep(now) {
            Ok(report) => self.nat = report,
            Err(error) => log::error!("{error}"),
        }
        self.check_ready();
    }

    fn repair(&mut self, now: Instant) {
        self.repair_at = now + REPAIR;
        if self.publications.count == 0 {
            return;
        }
        // Every publication begins with what the maps say, so one more of the same plan is the comparison.
        let published = self.plane.apply(self.core.plan(), &self.resolutions);
        if published.ops > 0 {
            self.publications.repairs += published.ops as u64;
            self.tell(What::Repaired { differences: published.ops });
        }
        self.refused(published.refused);
    }

    /// Readiness is a latch: once reached it stays.
    fn check_ready(&mut self) {
        if !self.ready && self.readiness().ready {
            self.ready = true;
            self.tell(What::Ready);
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        if self.ready {
            return Readiness { ready: true, waiting: Vec::new() };
        }
        let mut waiting = Vec::new();
        if self.publications.count == 0 {
            waiting.push("the first publication of the tables".to_owned());
        }
        // A target that has been asked as often as it takes to judge it either way, and still is not judged, is not waited for.
        let checks = self.core.checks();
        let undecided = self.monitor.snapshot().into_iter().filter(|(key, status)| {
            let enough = checks.get(key).map_or(1, |check| u64::from(check.rise) + u64::from(check.fall));
            status.checks_done == 0 || status.health == Health::Unknown && status.checks_done < enough
        });
        let undecided = undecided.count();
        if undecided > 0 {
            waiting.push(format!("the first health checks of {undecided} backends"));
        }
        Readiness { ready: waiting.is_empty(), waiting }
    }
}

/// Seed of the tables: as secret as the hash key, and the same wherever that is.
fn table_seed(key: [u64; 2]) -> u64 {
    key[0] ^ key[1].rotate_left(32)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => pending().await,
    }
}

async fn changed(files: Option<&mut Files>) -> BTreeSet<PathBuf> {
    match files {
        Some(files) => files.changed().await,
        None => pending().await,
    }
}
