//! The objects of a cluster that matter, as they are now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use super::ClusterSpec;
use crate::discovery::{
    Failure,
    kubernetes::{
        ClusterAccess,
        feed::ServiceRef,
        watch::{Broken, Change, Watch},
    },
};

/// A kind that the server does not know is asked for again after this long.
const MISSING: Duration = Duration::from_secs(30);

/// Kinds of objects that are watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Slices,
    Services,
    Node,
    GatewayClasses,
    Gateways,
    TcpRoutes,
    UdpRoutes,
    ReferenceGrants,
    IstioGateways,
    VirtualServices,
}

/// What has come in.
#[derive(Debug)]
pub enum News {
    Slices(Change<EndpointSlice>),
    Services(Box<Change<Service>>),
    Node(Box<Change<Node>>),
    Dynamic(Kind, Change<DynamicObject>),
    /// The server does not know the kind.
    Missing(Kind, String),
    /// Whether statuses could be written.
    Written(Result<(), String>),
    Failed(Failure),
}

#[derive(Debug, Default)]
pub struct Objects {
    awaited: BTreeSet<Kind>,
    pub services: BTreeMap<ServiceRef, Service>,
    /// This node's own.
    pub node: Option<Node>,
    dynamic: BTreeMap<Kind, BTreeMap<ServiceRef, DynamicObject>>,
    pub missing: BTreeMap<Kind, String>,
    pub unwritten: Option<String>,
}

impl Kind {
    /// Those that are needed.
    pub fn of(spec: &ClusterSpec) -> Vec<Self> {
        let mut kinds = vec![Self::Slices, Self::Services];
        if spec.services && spec.node.is_some() {
            kinds.push(Self::Node);
        }
        if spec.gateways {
            kinds.extend([Self::GatewayClasses, Self::Gateways, Self::TcpRoutes, Self::UdpRoutes, Self::ReferenceGrants]);
        }
        if spec.istio.is_some() {
            kinds.extend([Self::IstioGateways, Self::VirtualServices]);
        }
        kinds
    }

    /// As the API server calls it, where it is none of its own.
    pub fn resource(self) -> ApiResource {
        let of = |group: &str, version: &str, kind: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
        };
        let gateway = "gateway.networking.k8s.io";
        match self {
            Self::Slices => of("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
            Self::Services => of("", "v1", "Service", "services"),
            Self::Node => of("", "v1", "Node", "nodes"),
            Self::GatewayClasses => of(gateway, "v1", "GatewayClass", "gatewayclasses"),
            Self::Gateways => of(gateway, "v1", "Gateway", "gateways"),
            Self::TcpRoutes => of(gateway, "v1alpha2", "TCPRoute", "tcproutes"),
            Self::UdpRoutes => of(gateway, "v1alpha2", "UDPRoute", "udproutes"),
            Self::ReferenceGrants => of(gateway, "v1beta1", "ReferenceGrant", "referencegrants"),
            Self::IstioGateways => of("networking.istio.io", "v1", "Gateway", "gateways"),
            Self::VirtualServices => of("networking.istio.io", "v1", "VirtualService", "virtualservices"),
        }
    }

    /// Tells all that happens to the objects of this kind, until they can't be had.
    pub async fn follow(self, client: Client, access: ClusterAccess, node: Option<String>, sender: Sender<News>) {
        let config = watcher::Config::default();
        match self {
            Self::Slices => forward(self, || Watch::new(Api::all(client.clone()), config.clone(), &access), News::Slices, &sender).await,
            Self::Services => {
                forward(
                    self,
                    || Watch::new(Api::all(client.clone()), config.clone(), &access),
                    |change| News::Services(Box::new(change)),
                    &sender,
                )
                .await
            }
            Self::Node => {
                let config = config.fields(&format!("metadata.name={}", node.unwrap_or_default()));
                forward(
                    self,
                    || Watch::new(Api::all(client.clone()), config.clone(), &access),
                    |change| News::Node(Box::new(change)),
                    &sender,
                )
                .await;
            }
            _ => {
                let resource = self.resource();
                let watch = || Watch::new(Api::all_with(client.clone(), &resource), config.clone(), &access);
                forward(self, watch, |change| News::Dynamic(self, change), &sender).await;
            }
        }
    }
}

async fn forward<K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static>(
    kind: Kind,
    watch: impl Fn() -> Watch<K>,
    news: impl Fn(Change<K>) -> News,
    sender: &Sender<News>,
) {
    loop {
        let mut watch = watch();
        let missing = loop {
            let told = match watch.next().await {
                Ok(change) => news(change),
                Err(Broken::Missing(what)) => break what,
                Err(Broken::Failed(failure)) => News::Failed(failure),
            };
            let failed = matches!(told, News::Failed(_));
            if sender.send(told).await.is_err() || failed {
                return std::future::pending().await;
            }
        };
        if sender.send(News::Missing(kind, missing)).await.is_err() {
            return;
        }
        tokio::time::sleep(MISSING).await;
    }
}

impl Objects {
    pub fn new(kinds: Vec<Kind>) -> Self {
        Self { awaited: kinds.into_iter().filter(|k| *k != Kind::Slices).collect(), ..Self::default() }
    }

    /// Every kind was listed, or is known not to be there.
    pub fn complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Objects of one kind, in the order of namespace and name.
    pub fn dynamic(&self, kind: Kind) -> impl Iterator<Item = &DynamicObject> {
        self.dynamic.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// True if something may have changed.
    pub fn take(&mut self, news: News) -> bool {
        match news {
            News::Services(change) => {
                self.awaited.remove(&Kind::Services);
                apply(&mut self.services, *change);
            }
            News::Node(change) => {
                self.awaited.remove(&Kind::Node);
                let before = self.node.take();
                self.node = match *change {
                    Change::All(all) => all.into_iter().next(),
                    Change::Put(node) => Some(node),
                    Change::Gone(_) => None,
                };
                // A node tells every few seconds that it lives; what matters of it are its addresses.
                let addresses = |node: &Option<Node>| node.as_ref().and_then(|n| n.status.as_ref()?.addresses.clone());
                return addresses(&before) != addresses(&self.node) || before.is_none();
            }
            News::Dynamic(kind, change) => {
                self.awaited.remove(&kind);
                self.missing.remove(&kind);
                apply(self.dynamic.entry(kind).or_default(), change);
            }
            News::Missing(kind, what) => {
                self.awaited.remove(&kind);
                self.dynamic.remove(&kind);
                self.missing.insert(kind, what);
            }
            News::Written(result) => {
                let before = std::mem::replace(&mut self.unwritten, result.err());
                return before != self.unwritten;
            }
            News::Slices(_) | News::Failed(_) => return false,
        }
        true
    }
}

fn apply<K: ResourceExt>(objects: &mut BTreeMap<ServiceRef, K>, change: Change<K>) {
    let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    match change {
        Change::All(all) => *objects = all.into_iter().map(|object| (key(&object), object)).collect(),
        Change::Put(object) => drop(objects.insert(key(&object), object)),
        Change::Gone(object) => drop(objects.remove(&key(&object))),
    }
}
