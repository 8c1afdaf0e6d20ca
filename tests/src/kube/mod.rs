//! An API server of Kubernetes, as far as one who lists, watches and writes status can tell: HTTP over loopback, in this process.

mod request;
mod serve;
mod store;

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use store::Store;

/// How it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manner {
    #[default]
    Good,
    /// Takes the question and says nothing.
    Silent,
    /// 503 for everything.
    Failing,
    /// A page for people.
    Page,
    /// Each line of a watch comes in pieces, a moment apart.
    Slow,
    /// Watches tell lines that are no JSON.
    Garbage,
}

/// What was asked so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub lists: u64,
    pub watches: u64,
    /// Watches that are open now: they are told what changes.
    pub open: u64,
    /// Bookmarks that were told.
    pub bookmarks: u64,
    /// Watches from a version that is gone.
    pub gone: u64,
    pub writes: u64,
    pub conflicts: u64,
}

/// The server; ends with this value.
#[derive(Debug)]
pub struct FakeApi {
    address: SocketAddr,
    shared: Arc<watch::Sender<Store>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeApi {
    /// Listens at `address` in the network namespace of the calling thread; knows these kinds: `discovery.k8s.io/v1/endpointslices`.
    pub fn start(address: &str, kinds: &[&str]) -> Result<Self> {
        Self::with(address, Store::new(kinds))
    }

    fn with(address: &str, store: Store) -> Result<Self> {
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("failed to listen at {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, _) = watch::channel(store);
        let shared = Arc::new(sender);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = serve::run(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Takes what it has, to start with it another time.
    pub fn stop(mut self) -> Stopped {
        self.end();
        Stopped { address: self.address.to_string(), store: self.shared.borrow().clone() }
    }

    /// Creates or replaces an object: `put("discovery.k8s.io/v1/endpointslices", ...)`; namespace and name are in its metadata.
    pub fn put(&self, kind: &str, object: Value) {
        self.shared.send_modify(|store| store.put(kind, object));
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.shared.send_modify(|store| store.delete(kind, namespace, name));
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.borrow().get(kind, namespace, name).cloned()
    }

    pub fn set_manner(&self, manner: Manner) {
        self.shared.send_modify(|store| store.manner = manner);
    }

    /// Forgets all changes so far: watches from older versions are told that they are gone.
    pub fn compact(&self) {
        self.shared.send_modify(Store::compact);
    }

    /// Tells all watches a bookmark of the present version.
    pub fn bookmark(&self) {
        self.shared.send_modify(|store| store.bookmarks += 1);
    }

    /// Cuts all connections off, in the middle of what they say: they tell nothing of what happens from then on.
    pub fn cut(&self) {
        self.cut_and(|_| {});
    }

    /// The same, and has these changes happen before anybody can be back.
    pub fn cut_and(&self, change: impl FnOnce(&mut Store)) {
        self.shared.send_modify(|store| {
            store.cuts += 1;
            change(store);
        });
    }

    pub fn asked(&self) -> Asked {
        self.shared.borrow().asked
    }

    /// What a client is to be told.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {"token": store::TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
        .to_string()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server that does not run.
#[derive(Debug)]
pub struct Stopped {
    address: String,
    store: Store,
}

impl Stopped {
    pub fn start(self) -> Result<FakeApi> {
        FakeApi::with(&self.address, self.store)
    }
}

/// An EndpointSlice of `service` with one port of TCP and UDP: address, and `ready`, `draining` or `gone`.
pub fn slice(namespace: &str, service: &str, name: &str, port: u16, endpoints: &[(String, &str)]) -> Result<Value> {
    let one = |(address, state): &(String, &str)| {
        ensure!(["ready", "draining", "gone"].contains(state), "an endpoint is not {state}");
        let (ready, serving) = (*state == "ready", *state != "gone");
        Ok(json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": !ready},
            "nodeName": "node-1",
            "zone": "zone-a",
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": format!("pod-{}", address.replace(['.', ':'], "-"))},
        }))
    };
    Ok(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": if endpoints.first().is_some_and(|(a, _)| a.contains(':')) { "IPv6" } else { "IPv4" },
        "endpoints": endpoints.iter().map(one).collect::<Result<Vec<_>>>()?,
        "ports": [{"name": "web", "port": port, "protocol": "TCP"}, {"name": "web-udp", "port": port, "protocol": "UDP"}],
    }))
}
