//! Services that a cluster asks for by itself: its objects are watched, what they mean is derived, and status is written back.

mod addresses;
mod conditions;
mod derive;
mod gateways;
mod istio;
mod objects;
mod services;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use serde_json::{Map, Value};
use tokio::{sync::mpsc, sync::watch, task::JoinSet};

pub use self::addresses::Range;
use self::{
    derive::{Derived, derive},
    objects::{Kind, News, Objects},
};
use super::{ClusterAccess, client, feed::Feed};
use crate::{
    config::written,
    discovery::{Failure, Outlet},
    events::unix_ms,
};

/// What of a cluster is balanced, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterSpec {
    pub access: ClusterAccess,
    /// `loadBalancerClass` of Services, and controller's name of GatewayClasses.
    pub class: String,
    /// Addresses that may be given away.
    pub pool: Vec<Range>,
    pub services: bool,
    pub gateways: bool,
    /// Labels that Istio's Gateways select us by; `None` = they are not looked at.
    pub istio: Option<BTreeMap<String, String>>,
    /// Name of this node, where it is known.
    pub node: Option<String>,
    /// Keys of every service that is made, such as `mode` and `health`.
    pub template: Map<String, Value>,
}

/// Changes that wait to be taken in.
const DEPTH: usize = 1024;

/// A cluster that is followed.
#[derive(Debug)]
pub struct ClusterSource {
    spec: Arc<ClusterSpec>,
    feed: Arc<Feed>,
}

impl ClusterSource {
    pub fn new(spec: Arc<ClusterSpec>, feed: Arc<Feed>) -> Self {
        Self { spec, feed }
    }

    pub async fn run(&mut self, outlet: &Outlet) -> Failure {
        match self.follow(outlet).await {
            Ok(never) => match never {},
            Err(failure) => {
                self.feed.fail(&failure);
                failure
            }
        }
    }

    async fn follow(&mut self, outlet: &Outlet) -> Result<Infallible, Failure> {
        let client = client::connect(&self.spec.access).await?;
        let (sender, mut inbox) = mpsc::channel(DEPTH);
        let kinds = Kind::of(&self.spec);
        // They end with this function.
        let mut tasks = JoinSet::new();
        for kind in &kinds {
            tasks.spawn(kind.follow(client.clone(), self.spec.access.clone(), self.spec.node.clone(), sender.clone()));
        }
        let (wishes, wished) = watch::channel(Vec::new());
        tasks.spawn(status::write(client, wished, sender));
        let mut objects = Objects::new(kinds);
        let mut told: Option<(Vec<written::Service>, Option<String>)> = None;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = inbox.recv_many(&mut batch, DEPTH) => {}
                _ = tasks.join_next() => return Err(Failure::Bad("a part of the watch has ended".to_owned())),
            }
            let (mut touched, mut changed) = (BTreeSet::new(), false);
            for news in batch.drain(..) {
                match news {
                    News::Slices(change) => self.feed.take(change, &mut touched),
                    News::Failed(failure) => return Err(failure),
                    other => changed |= objects.take(other),
                }
            }
            self.feed.publish(&touched);
            if !changed || !objects.complete() {
                continue;
            }
            let Derived { services, problems, statuses } = derive(&objects, &self.spec, &now());
            wishes.send_replace(statuses);
            let now = (services, listed(&problems));
            if told.as_ref() != Some(&now) {
                let (services, problem) = now.clone();
                let news = told.as_ref().is_none_or(|(before, _)| *before != services).then_some(services);
                outlet.services(news, problem).await;
                told = Some(now);
            }
        }
    }
}

/// All of them: who looks is the one who has to mend them.
fn listed(problems: &[String]) -> Option<String> {
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// As Kubernetes writes times: RFC 3339, whole seconds.
fn now() -> String {
    let seconds = unix_ms(std::time::SystemTime::now()) / 1000;
    k8s_openapi::jiff::Timestamp::from_second(seconds as i64).map_or_else(|_| String::new(), |t| t.to_string())
}
