//! Endpoints from Kubernetes: the EndpointSlices of a Service.

mod client;
mod cluster;
mod feed;
mod slices;
mod watch;

use std::{collections::BTreeMap, convert::Infallible, fmt, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, ResourceExt, runtime::watcher};

pub use self::cluster::{ClusterSource, ClusterSpec, Range};
pub use self::feed::Feed;
use self::{
    feed::Known,
    watch::{Broken, Change, Watch},
};
use super::{Failure, Fit, Outlet, Update};
use crate::model::Endpoint;

/// Where the API server is, and how long it may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterAccess {
    /// `None` = as the pod's service account says, or `KUBECONFIG`, or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// For a connection, and for each piece of a list.
    pub timeout: Duration,
    /// A watch is begun anew, from where it was, after this long.
    pub wait: Duration,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KubernetesSpec {
    pub access: ClusterAccess,
    pub namespace: String,
    pub service: String,
    /// Name of the slices' port; `None` = the only one, or the one with the number that the source's `port` says.
    pub port_name: Option<String>,
    /// Weight of all endpoints together, shared out evenly; `None` = each has weight 1.
    pub share: Option<u16>,
    /// Only endpoints on this node.
    pub node: Option<String>,
}

/// Label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service whose slices are followed.
#[derive(Debug)]
pub struct KubernetesSource {
    spec: KubernetesSpec,
    fit: Fit,
    /// All slices of the same cluster, where they are watched anyway.
    feed: Option<Arc<Feed>>,
    told: Option<Vec<Endpoint>>,
    /// It was told that the feed has failed.
    failed: bool,
}

impl KubernetesSource {
    pub fn new(spec: KubernetesSpec, fit: Fit, feed: Option<Arc<Feed>>) -> Self {
        Self { spec, fit, feed, told: None, failed: false }
    }

    pub(super) async fn run(&mut self, outlet: &Outlet) -> Failure {
        self.told = None;
        let followed = match self.feed.clone() {
            Some(feed) => self.read(&feed, outlet).await,
            None => self.follow(outlet).await,
        };
        match followed {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    /// Takes what the feed of the cluster says.
    async fn read(&mut self, feed: &Feed, outlet: &Outlet) -> Result<Infallible, Failure> {
        let mut reader = feed.subscribe(&(self.spec.namespace.clone(), self.spec.service.clone()));
        loop {
            let known = reader.borrow_and_update().clone();
            match known {
                Known::Slices(slices) => {
                    self.failed = false;
                    self.tell(slices.iter().map(Arc::as_ref), outlet).await?;
                }
                // Told once; then it waits for better news instead of asking again and again.
                Known::Failed(failure) if !self.failed => {
                    self.failed = true;
                    return Err(failure);
                }
                Known::Failed(_) | Known::Nothing => {}
            }
            if reader.changed().await.is_err() {
                return Err(Failure::Unreachable("the watch of the cluster has ended".to_owned()));
            }
        }
    }

    async fn follow(&mut self, outlet: &Outlet) -> Result<Infallible, Failure> {
        let client = client::connect(&self.spec.access).await?;
        let api: Api<EndpointSlice> = Api::namespaced(client, &self.spec.namespace);
        let config = watcher::Config::default().labels(&format!("{SERVICE_NAME}={}", self.spec.service));
        let mut watch = Watch::new(api, config, &self.spec.access);
        let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
        loop {
            let mut next = Some(watch.next().await.map_err(Broken::failure)?);
            // What has come together is told together.
            while let Some(change) = next.take() {
                match change {
                    Change::All(all) => slices = all.into_iter().map(|s| (s.name_any(), s)).collect(),
                    Change::Put(slice) => drop(slices.insert(slice.name_any(), slice)),
                    Change::Gone(slice) => drop(slices.remove(&slice.name_any())),
                }
                next = watch.ready().transpose().map_err(Broken::failure)?;
            }
            self.tell(slices.values(), outlet).await?;
        }
    }

    async fn tell(&mut self, slices: impl Iterator<Item = &EndpointSlice>, outlet: &Outlet) -> Result<(), Failure> {
        let (endpoints, problem) = slices::endpoints(slices, &self.spec, &self.fit)?;
        let update = difference(self.told.as_deref(), &endpoints);
        self.told = Some(endpoints);
        for update in update.is_empty().then_some(None).into_iter().chain(update.into_iter().map(Some)) {
            outlet.good(update, problem.clone()).await;
        }
        Ok(())
    }
}

/// Both sorted by id.
fn difference(before: Option<&[Endpoint]>, now: &[Endpoint]) -> Vec<Update> {
    let Some(before) = before else { return vec![Update::Reset(now.to_vec())] };
    let find = |list: &[Endpoint], id| list.binary_search_by_key(&id, |e| e.id).ok();
    let added: Vec<_> = now.iter().filter(|e| find(before, e.id).is_none_or(|at| before[at] != **e)).cloned().collect();
    let removed: Vec<_> = before.iter().filter(|e| find(now, e.id).is_none()).map(|e| e.id).collect();
    let add = (!added.is_empty()).then_some(Update::Add(added));
    add.into_iter().chain((!removed.is_empty()).then_some(Update::Remove(removed))).collect()
}

impl fmt::Display for KubernetesSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubernetes {}/{}", self.namespace, self.service)?;
        self.port_name.as_ref().map_or(Ok(()), |port| write!(f, " {port}"))
    }
}
