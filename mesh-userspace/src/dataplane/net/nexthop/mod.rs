//! Where packets to a backend go next, kept current while routes, neighbours and interfaces change.
//!
//! Packets that XDP forwards never confirm a neighbour, so the service has the kernel keep those alive that are in use.

mod keepalive;
mod observe;
mod resolve;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use tokio::{sync::watch as channel, task::JoinHandle};

pub use keepalive::release_all;
pub use resolve::{NextHop, Reason, Resolution};

use super::NetError;

/// What is known of each target.
pub type Resolutions = Arc<BTreeMap<IpAddr, Resolution>>;

/// A running service that resolves backends' addresses. Dropping it ends the task; the neighbours stay kept alive, so that forwarding goes on.
#[derive(Debug)]
pub struct NextHops {
    targets: channel::Sender<BTreeSet<IpAddr>>,
    resolutions: channel::Receiver<Resolutions>,
    task: JoinHandle<()>,
}

impl NextHops {
    /// Starts the service in the calling thread's network namespace. Needs a tokio runtime with time and IO.
    pub fn start() -> Result<Self, NetError> {
        let link = watch::Link::open()?;
        let (targets, wanted) = channel::channel(BTreeSet::new());
        let (publish, resolutions) = channel::channel(Resolutions::default());
        let task = tokio::spawn(watch::run(link, wanted, publish));
        Ok(Self { targets, resolutions, task })
    }

    /// Replaces the set of addresses to resolve. An address that the watched map does not have yet is still being looked up.
    pub fn set_targets(&self, targets: BTreeSet<IpAddr>) {
        self.targets.send_if_modified(|current| {
            let changed = *current != targets;
            *current = targets;
            changed
        });
    }

    /// The resolutions; a change marks the receiver.
    pub fn watch(&self) -> channel::Receiver<Resolutions> {
        self.resolutions.clone()
    }
}

impl Drop for NextHops {
    fn drop(&mut self) {
        self.task.abort();
    }
}
