//! Follows one source as the daemon's loop does, and keeps what it says.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh::{
    config::{self, placed::Syntax},
    discovery::{EndpointSet, SourceKey, SourceState, SourceStatus, Sources},
    model::Endpoint,
};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Follower {
    sources: Sources,
    pub set: EndpointSet,
    pub troubles: Vec<String>,
    pub updates: usize,
}

impl Follower {
    /// Follows a source, written as in the configuration, for an IPv4 service on port 80.
    pub fn of(source: &str) -> Result<Self> {
        Self::at("192.0.2.10:80", source)
    }

    /// The same for a service with this VIP.
    pub fn at(vip: &str, source: &str) -> Result<Self> {
        let text = format!("services:\n- name: web\n  vip: '{vip}'\n  sources:\n  - {source}\n");
        let loaded = config::parse(&text, Syntax::Yaml, Path::new("peer.yaml"))?;
        let mut wanted = BTreeMap::new();
        for service in loaded.config.services.values() {
            let key = |name: String| SourceKey { service: service.name.clone(), source: name };
            wanted.extend(service.sources.iter().map(|spec| (key(spec.kind.to_string()), spec.clone())));
        }
        let mut sources = Sources::default();
        sources.set(wanted, None);
        Ok(Self { sources, set: EndpointSet::default(), troubles: Vec::new(), updates: 0 })
    }

    /// Takes in what comes until `reached`; the time that took.
    pub async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> Result<Duration> {
        let start = Instant::now();
        while !reached(self) {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let Ok(news) = tokio::time::timeout(left, self.sources.next()).await else {
                bail!("{what} did not come; there is {:?} and {:?}", self.list(), self.status());
            };
            self.troubles.extend(news.troubles.into_iter().map(|(_, trouble)| trouble));
            self.updates += news.updates.len();
            for (_, update) in news.updates {
                self.set.apply(update);
            }
        }
        Ok(start.elapsed())
    }

    /// Waits until exactly these are there: `ADDRESS:PORT` or `ADDRESS:PORT*WEIGHT`.
    pub async fn has(&mut self, expected: &[&str]) -> Result<Duration> {
        self.until(&format!("{expected:?}"), |f| f.is_live() && f.list() == expected).await
    }

    /// Waits until this many are there.
    pub async fn counts(&mut self, count: usize) -> Result<Duration> {
        self.until(&format!("{count} endpoints"), |f| f.is_live() && f.set.iter().count() == count).await
    }

    /// Waits until the source is known to be gone, with a reason that says this; nothing may have been lost.
    pub async fn stale(&mut self, why: &str) -> Result<()> {
        let before = self.list();
        self.until(&format!("the failure `{why}`"), |f| {
            f.status().state == SourceState::Stale && f.status().error.is_some_and(|e| e.contains(why))
        })
        .await?;
        ensure!(self.list() == before, "the failure changed {before:?} to {:?}", self.list());
        ensure!(self.status().answered.is_some(), "its age is not known");
        Ok(())
    }

    /// Takes in what comes until something else is so, which is looked at again and again.
    pub async fn meanwhile(&mut self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !holds() {
            ensure!(start.elapsed() < PATIENCE, "{what} did not come; there is {:?} and {:?}", self.list(), self.status());
            self.rest(Duration::from_millis(5)).await?;
        }
        Ok(())
    }

    /// Takes in what comes within `span`.
    pub async fn rest(&mut self, span: Duration) -> Result<()> {
        // It never is: only the time ends it.
        let _ = tokio::time::timeout(span, self.until("nothing", |_| false)).await;
        Ok(())
    }

    pub fn is_live(&self) -> bool {
        self.status().state == SourceState::Live
    }

    pub fn status(&self) -> SourceStatus {
        self.sources.statuses().next().map(|(_, status)| status.clone()).unwrap_or_default()
    }

    pub fn endpoint(&self, id: &str) -> Result<&Endpoint> {
        self.set.iter().find(|e| e.id.to_string() == id).with_context(|| format!("there is no {id}"))
    }

    pub fn list(&self) -> Vec<String> {
        let weight = |e: &Endpoint| if e.weight.0 == 1 { String::new() } else { format!("*{}", e.weight.0) };
        self.set.iter().map(|e| format!("{}{}{}", e.id, weight(e), if e.drain { " drains" } else { "" })).collect()
    }
}

/// Times of single changes, as a line of the report.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn report(mut self, what: &str) {
        self.0.sort();
        let at = |share: f64| self.0.get(((self.0.len() - 1) as f64 * share).round() as usize).copied().unwrap_or_default();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        println!("{what}: p50 {:.1} ms, p99 {:.1} ms, {} trials", ms(at(0.5)), ms(at(0.99)), self.0.len());
    }
}
