//! Keeps the sources running: each is a task of its own, restarted when it fails, and what it said last holds until it says something else.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::config::written;
use futures_util::FutureExt;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Update,
    backoff::{Backoff, chance},
    consul::ConsulSource,
    dns::DnsSource,
    etcd::EtcdSource,
    http::HttpSource,
    kubernetes::{ClusterSource, ClusterSpec, Feed, KubernetesSource},
    spec::{SourceKey, SourceKind, SourceSpec},
    zookeeper::ZooKeeperSource,
};

/// Reports that wait for the loop. A source that has more waits: a flood of changes is taken in batches instead of filling the memory.
const DEPTH: usize = 1024;

/// Why a source does not answer as it should. What it said before holds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answers, or not in time, or only to say that there is no answer.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The answer is not one that could be believed.
    #[error("bad answer: {0}")]
    Bad(String),
}

/// How a source is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SourceState {
    /// It has not answered yet.
    #[default]
    Starting,
    /// What is known is what it says now.
    Live,
    /// It can't be had; what it said last holds.
    Stale,
}

/// What is known of a source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceStatus {
    pub state: SourceState,
    /// When it last gave a good answer.
    pub answered: Option<SystemTime>,
    /// What was wrong last; `None` if the last answer was good in all parts.
    pub error: Option<String>,
    /// Changes that it told so far.
    pub updates: u64,
    /// Times that it failed so far.
    pub failures: u64,
}

/// What has come in from the sources.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct News {
    /// In the order in which they came.
    pub updates: Vec<(SourceKey, Update)>,
    /// What is wrong and was not before.
    pub troubles: Vec<(SourceKey, String)>,
    /// Sources that answer again.
    pub returned: Vec<SourceKey>,
    /// Services that a cluster asks for: these and no others.
    pub services: Option<Vec<written::Service>>,
}

/// All sources. Ends them with itself.
#[derive(Debug)]
pub struct Sources {
    running: BTreeMap<SourceKey, Running>,
    /// What a cluster that is watched as a whole says, for the sources that ask for parts of it.
    cluster: Option<(Arc<ClusterSpec>, Arc<Feed>)>,
    started: u64,
    sender: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Report>,
}

#[derive(Debug)]
struct Running {
    spec: Spec,
    /// Tells reports of this task from those of one before it.
    run: u64,
    task: JoinHandle<()>,
    status: SourceStatus,
}

/// What runs.
#[derive(Clone, PartialEq, Debug)]
enum Spec {
    /// `true` = it reads the cluster's feed.
    Endpoints(Box<SourceSpec>, bool),
    Cluster(Arc<ClusterSpec>),
}

#[derive(Debug)]
struct Report {
    key: SourceKey,
    run: u64,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Good { update: Option<Update>, services: Option<Vec<written::Service>>, problem: Option<String> },
    Failed(Failure),
}

/// Where a source says what it found. The first update is a [`Update::Reset`] or [`Update::Gone`].
#[derive(Debug)]
pub struct Outlet {
    key: SourceKey,
    run: u64,
    sender: mpsc::Sender<Report>,
    /// It has given a good answer since its last failure.
    answered: AtomicBool,
}

impl Default for Sources {
    fn default() -> Self {
        let (sender, inbox) = mpsc::channel(DEPTH);
        Self { running: BTreeMap::new(), cluster: None, started: 0, sender, inbox }
    }
}

impl Sources {
    /// Makes these the sources that run. One that changed is started anew; one that did not goes on. Needs a tokio runtime around it.
    pub fn set(&mut self, wanted: BTreeMap<SourceKey, SourceSpec>, cluster: Option<&Arc<ClusterSpec>>) {
        if self.cluster.as_ref().map(|(spec, _)| spec) != cluster {
            self.cluster = cluster.map(|spec| (Arc::clone(spec), Arc::default()));
            // Who reads a feed that is not fed any more begins anew as well.
            self.running.retain(|_, running| {
                let stays = matches!(running.spec, Spec::Endpoints(_, false));
                if !stays {
                    running.task.abort();
                }
                stays
            });
        }
        let mut wanted: BTreeMap<SourceKey, Spec> = wanted.into_iter().map(|(key, spec)| (key, self.spec(spec))).collect();
        wanted.extend(cluster.map(|spec| (SourceKey::cluster(), Spec::Cluster(Arc::clone(spec)))));
        self.running.retain(|key, running| {
            let stays = wanted.contains_key(key);
            if !stays {
                running.task.abort();
            }
            stays
        });
        for (key, spec) in wanted {
            if self.running.get(&key).is_some_and(|r| r.spec == spec) {
                continue;
            }
            self.started += 1;
            let outlet = Outlet { key: key.clone(), run: self.started, sender: self.sender.clone(), answered: AtomicBool::new(false) };
            let task = tokio::spawn(supervise(self.source(&spec), outlet));
            let started = Running { spec, run: self.started, task, status: SourceStatus::default() };
            if let Some(before) = self.running.insert(key, started) {
                before.task.abort();
            }
        }
    }

    fn spec(&self, spec: SourceSpec) -> Spec {
        let feeds = match (&spec.kind, &self.cluster) {
            (SourceKind::Kubernetes(service), Some((cluster, _))) => service.access.kubeconfig == cluster.access.kubeconfig,
            _ => false,
        };
        Spec::Endpoints(Box::new(spec), feeds)
    }

    fn source(&self, spec: &Spec) -> Source {
        let feed = || self.cluster.as_ref().map(|(_, feed)| Arc::clone(feed)).unwrap_or_default();
        match spec {
            Spec::Cluster(cluster) => Source::Cluster(ClusterSource::new(Arc::clone(cluster), feed())),
            Spec::Endpoints(spec, feeds) => Source::new(spec, feeds.then(feed)),
        }
    }

    /// Waits for news, and takes all that have come. Cancel safe: what was not taken stays.
    pub async fn next(&mut self) -> News {
        let mut reports = Vec::new();
        loop {
            // The channel never closes, for its sender is here.
            self.inbox.recv_many(&mut reports, DEPTH).await;
            let mut news = News::default();
            for report in reports.drain(..) {
                self.take(report, SystemTime::now(), &mut news);
            }
            if news != News::default() {
                return news;
            }
        }
    }

    /// How each source is doing.
    pub fn statuses(&self) -> impl Iterator<Item = (&SourceKey, &SourceStatus)> {
        self.running.iter().map(|(key, running)| (key, &running.status))
    }

    /// Marks a source whose last state was kept over a restart.
    pub fn kept(&mut self, key: &SourceKey, answered: SystemTime) {
        if let Some(running) = self.running.get_mut(key).filter(|r| r.status.state == SourceState::Starting) {
            running.status.state = SourceState::Stale;
            running.status.answered = Some(answered);
        }
    }

    fn take(&mut self, report: Report, now: SystemTime, news: &mut News) {
        let Report { key, run, said } = report;
        let Some(running) = self.running.get_mut(&key).filter(|r| r.run == run) else { return };
        let status = &mut running.status;
        match said {
            Said::Good { update, services, problem } => {
                let returned = status.state == SourceState::Stale;
                status.state = SourceState::Live;
                status.answered = Some(now);
                if let Some(problem) = problem.as_ref().filter(|p| status.error.as_ref() != Some(p)) {
                    news.troubles.push((key.clone(), problem.clone()));
                }
                status.error = problem;
                if returned {
                    news.returned.push(key.clone());
                }
                status.updates += u64::from(update.is_some()) + u64::from(services.is_some());
                news.updates.extend(update.map(|update| (key, update)));
                news.services = services.or(news.services.take());
            }
            Said::Failed(failure) => {
                status.failures += 1;
                if status.answered.is_some() {
                    status.state = SourceState::Stale;
                }
                let error = failure.to_string();
                if status.error.as_ref() != Some(&error) {
                    news.troubles.push((key, error.clone()));
                }
                status.error = Some(error);
            }
        }
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.running.values().for_each(|r| r.task.abort());
    }
}

impl Outlet {
    /// A change.
    pub async fn update(&self, update: Update) {
        self.good(Some(update), None).await;
    }

    /// A good answer: what changes, if anything, and what of it was left out and why.
    pub async fn good(&self, update: Option<Update>, problem: Option<String>) {
        self.answered.store(true, Ordering::Relaxed);
        self.say(Said::Good { update, services: None, problem }).await;
    }

    /// A cluster's good answer: the services that it asks for, if they change, and what is wrong with it.
    pub async fn services(&self, services: Option<Vec<written::Service>>, problem: Option<String>) {
        self.answered.store(true, Ordering::Relaxed);
        self.say(Said::Good { update: None, services, problem }).await;
    }

    async fn say(&self, said: Said) {
        // Whoever listened is gone only with the daemon, and then this task is as well.
        let _ = self.sender.send(Report { key: self.key.clone(), run: self.run, said }).await;
    }
}

/// A source with what it remembers from run to run.
#[derive(Debug)]
enum Source {
    Dns(DnsSource),
    Http(HttpSource),
    Etcd(EtcdSource),
    ZooKeeper(ZooKeeperSource),
    Consul(ConsulSource),
    Kubernetes(KubernetesSource),
    Cluster(ClusterSource),
}

impl Source {
    fn new(spec: &SourceSpec, feed: Option<Arc<Feed>>) -> Self {
        match &spec.kind {
            SourceKind::Dns(dns) => Self::Dns(DnsSource::new(dns.clone(), spec.fit)),
            SourceKind::Http(http) => Self::Http(HttpSource::new(http.clone(), spec.fit)),
            SourceKind::Etcd(etcd) => Self::Etcd(EtcdSource::new(etcd.clone(), spec.fit)),
            SourceKind::ZooKeeper(zookeeper) => Self::ZooKeeper(ZooKeeperSource::new(zookeeper.clone(), spec.fit)),
            SourceKind::Consul(consul) => Self::Consul(ConsulSource::new(consul.clone(), spec.fit)),
            SourceKind::Kubernetes(service) => Self::Kubernetes(KubernetesSource::new(service.clone(), spec.fit, feed)),
        }
    }

    /// Runs until it fails.
    async fn run(&mut self, outlet: &Outlet) -> Failure {
        match self {
            Self::Dns(source) => source.run(outlet).await,
            Self::Http(source) => source.run(outlet).await,
            Self::Etcd(source) => source.run(outlet).await,
            Self::ZooKeeper(source) => source.run(outlet).await,
            Self::Consul(source) => source.run(outlet).await,
            Self::Kubernetes(source) => source.run(outlet).await,
            Self::Cluster(source) => source.run(outlet).await,
        }
    }
}

async fn supervise(mut source: Source, outlet: Outlet) {
    let mut backoff = Backoff::default();
    loop {
        // What a source leaves behind when it panics is no worse than what a failure leaves: its next run begins with a whole answer.
        let outcome = AssertUnwindSafe(source.run(&outlet)).catch_unwind().await;
        let failure = outcome.unwrap_or_else(|panic| Failure::Bad(format!("it could not be worked on: {}", text(&*panic))));
        if outlet.answered.swap(false, Ordering::Relaxed) {
            backoff.reset();
        }
        outlet.say(Said::Failed(failure)).await;
        let wait: Duration = backoff.next(chance());
        tokio::time::sleep(wait).await;
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown")
}
