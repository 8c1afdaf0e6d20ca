//! Where endpoints come from. Discovery is data: each source says what changed, and a set keeps what it adds up to.

mod backoff;
mod consul;
pub mod dns;
mod entry;
mod etcd;
mod file;
mod files;
mod http;
mod keyed;
mod kubernetes;
mod memory;
mod sources;
mod spec;
mod web;
mod zookeeper;

use std::collections::BTreeMap;

pub use consul::ConsulSpec;
pub use etcd::EtcdSpec;
pub use file::{SourceError, read_endpoints};
pub use files::{Files, WatchError};
pub use http::HttpSpec;
pub use kubernetes::{ClusterAccess, ClusterSpec, KubernetesSpec, Range};
pub use memory::{Memory, Remembered};
pub use sources::{Failure, News, Outlet, SourceState, SourceStatus, Sources};
pub use spec::{Fit, SourceKey, SourceKind, SourceSpec, Told};
pub use web::{Access, BadUrl, HttpUrl, Login};
pub use zookeeper::ZooKeeperSpec;

use crate::model::{BackendId, Endpoint};

/// What one source says of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Update {
    /// These and no others.
    Reset(Vec<Endpoint>),
    /// These too; one that is there already takes the new weight and name.
    Add(Vec<Endpoint>),
    Remove(Vec<BackendId>),
    /// The source does not know the service any more.
    Gone,
}

/// The endpoints of one source for one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSet(BTreeMap<BackendId, Endpoint>);

impl EndpointSet {
    /// True if something changed.
    pub fn apply(&mut self, update: Update) -> bool {
        let before = self.0.clone();
        match update {
            Update::Reset(all) => self.0 = keyed(all).collect(),
            Update::Add(some) => self.0.extend(keyed(some)),
            Update::Remove(ids) => self.0.retain(|id, _| !ids.contains(id)),
            Update::Gone => self.0.clear(),
        }
        self.0 != before
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.values()
    }
}

fn keyed(endpoints: Vec<Endpoint>) -> impl Iterator<Item = (BackendId, Endpoint)> {
    endpoints.into_iter().map(|e| (e.id, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Weight;

    fn endpoint(port: u16, weight: u16) -> Endpoint {
        Endpoint::new(id(port), Weight(weight))
    }

    fn id(port: u16) -> BackendId {
        BackendId(([10, 0, 0, 1], port).into())
    }

    #[test]
    fn updates_add_up() {
        let mut set = EndpointSet::default();
        let mut step = |update, changes: bool, left: &[(u16, u16)]| {
            assert_eq!(set.apply(update), changes);
            assert_eq!(set.iter().map(|e| (e.id.0.port(), e.weight.0)).collect::<Vec<_>>(), left);
        };
        step(Update::Reset(vec![endpoint(2, 1), endpoint(1, 1)]), true, &[(1, 1), (2, 1)]);
        step(Update::Reset(vec![endpoint(1, 1), endpoint(2, 1)]), false, &[(1, 1), (2, 1)]);
        step(Update::Add(vec![endpoint(2, 7), endpoint(3, 1)]), true, &[(1, 1), (2, 7), (3, 1)]);
        step(Update::Remove(vec![id(1), id(9)]), true, &[(2, 7), (3, 1)]);
        step(Update::Remove(vec![id(9)]), false, &[(2, 7), (3, 1)]);
        step(Update::Gone, true, &[]);
    }
}
