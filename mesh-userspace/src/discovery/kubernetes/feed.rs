//! The slices of a whole cluster, watched once and handed to every source that asks for some of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::sync::watch;

use super::{SERVICE_NAME, watch::Change};
use crate::discovery::Failure;

/// Namespace and name of a Service.
pub type ServiceRef = (String, String);

/// What is known of one Service's slices.
#[derive(Clone, Debug, Default)]
pub enum Known {
    #[default]
    Nothing,
    Slices(Vec<Arc<EndpointSlice>>),
    Failed(Failure),
}

/// Slices by Service.
#[derive(Debug, Default)]
pub struct Feed(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slices: HashMap<ServiceRef, BTreeMap<String, Arc<EndpointSlice>>>,
    readers: HashMap<ServiceRef, watch::Sender<Known>>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    Live,
    Failed(Failure),
}

impl Feed {
    /// Follows one Service.
    pub fn subscribe(&self, service: &ServiceRef) -> watch::Receiver<Known> {
        let mut inner = self.lock();
        let known = inner.known(service);
        inner.readers.retain(|_, reader| reader.receiver_count() > 0);
        inner.readers.entry(service.clone()).or_insert_with(|| watch::channel(known).0).subscribe()
    }

    /// Takes changes in; `touched` gathers the Services to be told by [`Feed::publish`].
    pub fn take(&self, change: Change<EndpointSlice>, touched: &mut BTreeSet<ServiceRef>) {
        let mut inner = self.lock();
        match change {
            Change::All(all) => {
                inner.state = State::Live;
                touched.extend(inner.readers.keys().cloned());
                inner.slices.clear();
                for slice in all {
                    inner.put(slice);
                }
            }
            Change::Put(slice) => touched.extend(inner.put(slice)),
            Change::Gone(slice) => {
                let Some(service) = service_of(&slice) else { return };
                if let Some(slices) = inner.slices.get_mut(&service) {
                    slices.remove(&slice.name_any());
                    if slices.is_empty() {
                        inner.slices.remove(&service);
                    }
                }
                touched.insert(service);
            }
        }
    }

    /// Tells those who follow these.
    pub fn publish(&self, touched: &BTreeSet<ServiceRef>) {
        let inner = self.lock();
        for service in touched {
            if let Some(reader) = inner.readers.get(service) {
                reader.send_replace(inner.known(service));
            }
        }
    }

    /// Tells all that the cluster can't be had.
    pub fn fail(&self, failure: &Failure) {
        let mut inner = self.lock();
        inner.state = State::Failed(failure.clone());
        for reader in inner.readers.values() {
            reader.send_replace(Known::Failed(failure.clone()));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, slice: EndpointSlice) -> Option<ServiceRef> {
        let service = service_of(&slice)?;
        self.slices.entry(service.clone()).or_default().insert(slice.name_any(), Arc::new(slice));
        Some(service)
    }

    fn known(&self, service: &ServiceRef) -> Known {
        match &self.state {
            State::Waiting => Known::Nothing,
            State::Live => Known::Slices(self.slices.get(service).map(|s| s.values().cloned().collect()).unwrap_or_default()),
            State::Failed(failure) => Known::Failed(failure.clone()),
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ServiceRef> {
    Some((slice.namespace()?, slice.labels().get(SERVICE_NAME)?.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(service: &str, name: &str) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "labels": {SERVICE_NAME: service}}, "addressType": "IPv4", "endpoints": []
        }))
        .unwrap()
    }

    fn count(reader: &mut watch::Receiver<Known>) -> Result<usize, String> {
        match &*reader.borrow_and_update() {
            Known::Nothing => Err("nothing".into()),
            Known::Slices(slices) => Ok(slices.len()),
            Known::Failed(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn each_reader_is_told_of_its_own() {
        let feed = Feed::default();
        let mut web = feed.subscribe(&("n".into(), "web".into()));
        assert_eq!(count(&mut web), Err("nothing".into()));
        let step = |change| {
            let mut touched = BTreeSet::new();
            feed.take(change, &mut touched);
            feed.publish(&touched);
        };
        step(Change::All(vec![slice("web", "a"), slice("api", "b")]));
        assert_eq!(count(&mut web), Ok(1));
        step(Change::Put(slice("api", "c")));
        assert!(!web.has_changed().unwrap(), "another's");
        step(Change::Put(slice("web", "d")));
        assert_eq!(count(&mut web), Ok(2));
        feed.fail(&Failure::Unreachable("x".into()));
        assert_eq!(count(&mut web), Err("unreachable: x".into()));
        let mut api = feed.subscribe(&("n".into(), "api".into()));
        assert!(count(&mut api).is_err());
        step(Change::All(vec![slice("api", "c")]));
        assert_eq!((count(&mut web), count(&mut api)), (Ok(0), Ok(1)));
        step(Change::Gone(slice("api", "c")));
        assert_eq!(count(&mut api), Ok(0));
    }
}
