//! What the daemon's loop waits for.

use std::{collections::BTreeSet, future::pending, path::PathBuf, sync::Arc, time::Instant};

use mesh_common::abi::FlowRecord;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep_until,
};

use super::{
    announcing::Report,
    handle::Command,
    shutdown::{Asked, Signals},
};
use crate::{
    dataplane::{FlowRecords, net::nexthop::Resolutions},
    discovery::{Files, News},
    health::HealthEvent,
    peers::ledger::link::Link,
};

/// Where inputs come from.
#[derive(Debug)]
pub struct Inputs {
    pub health: mpsc::Receiver<HealthEvent>,
    pub resolutions: watch::Receiver<Resolutions>,
    pub commands: mpsc::Receiver<Command>,
    pub reports: mpsc::Receiver<Report>,
    pub signals: Signals,
    /// `None` where no flows are logged.
    pub flows: Option<FlowRecords>,
    /// `None` once it has ended.
    pub server: Option<JoinHandle<()>>,
}

/// One thing to react to.
pub(super) enum Input {
    Health(HealthEvent),
    NextHops(Resolutions),
    Publish,
    Step,
    Asked(Asked),
    Command(Command),
    Files(BTreeSet<PathBuf>),
    Sources(News),
    Announced(Report),
    Flows(Vec<FlowRecord>),
    Observe,
    Expire,
    Sweep,
    Repair,
    ServerEnded,
    Peers,
}

/// Waits for this time, or for ever.
pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => pending().await,
    }
}

/// Waits for the end of a task, once.
pub(super) async fn ended(task: &mut Option<JoinHandle<()>>) {
    let Some(running) = task else { return pending().await };
    if let Err(error) = running.await {
        log::error!("{error}");
    }
    *task = None;
}

/// The next records of flows; never any where none are logged.
pub(super) async fn begun(flows: Option<&mut FlowRecords>) -> Vec<FlowRecord> {
    match flows {
        Some(flows) => flows.next().await,
        None => pending().await,
    }
}

/// Waits until peers say something else; cancel safe, for a notification is kept.
pub(super) async fn told(link: Option<Arc<Link>>) {
    match link {
        Some(link) => link.changed().await,
        None => pending().await,
    }
}

/// Files that have changed; never any where none are watched.
pub(super) async fn changed(files: Option<&mut Files>) -> BTreeSet<PathBuf> {
    match files {
        Some(files) => files.changed().await,
        None => pending().await,
    }
}
