//! What the sources of backends say, and what is remembered of it.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{
    daemon::Daemon,
    view::{SourceStateWord, SourceView},
};
use crate::{
    config::written,
    discovery::{EndpointSet, Memory, News, Remembered, SourceKey, SourceState, SourceStatus, Update},
    events::{What, unix_ms},
    model::ServiceName,
};

impl Daemon {
    /// Takes in all that the sources have said, and publishes it together.
    pub(super) fn sources_say(&mut self, news: News, now: Instant) {
        for (key, error) in news.troubles {
            self.tell(What::SourceTrouble { service: key.service, source: key.source, error });
        }
        for key in news.returned {
            self.tell(What::SourceReturned { service: key.service, source: key.source });
        }
        let asked = news.services.is_some_and(|services| self.cluster_asks(services));
        if self.core.found(news.updates) || asked {
            self.unremembered = true;
            self.act();
            self.dirty(now);
        }
    }

    /// Takes in the services that a cluster asks for. True if that changes something.
    fn cluster_asks(&mut self, services: Vec<written::Service>) -> bool {
        let (changed, problems) = self.core.cluster(services);
        let news: Vec<_> = problems.iter().filter(|p| !self.cluster_problems.contains(*p)).cloned().collect();
        self.cluster_problems = problems;
        let SourceKey { service, source } = SourceKey::cluster();
        for error in news {
            self.tell(What::SourceTrouble { service: service.clone(), source: source.clone(), error });
        }
        changed
    }

    /// Begins with what sources said before the daemon was started: until they answer it holds.
    pub fn remember(&mut self, memory: Memory, remembered: &[Remembered]) {
        self.memory = Some(memory);
        let cluster = self.core.config().kubernetes.clone();
        self.sources.set(self.core.wanted_sources(), cluster.as_ref());
        for one in remembered {
            self.sources.kept(&one.key(), UNIX_EPOCH + Duration::from_millis(one.answered_ms));
        }
    }

    /// Writes down what sources said, if that is news. Beside the loop, for a disk may be slow.
    pub(super) fn write_memory(&mut self) {
        let Some(memory) = self.memory.clone().filter(|_| self.unremembered) else { return };
        self.unremembered = false;
        let all = self.remembered();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = memory.save(&all) {
                log::warn!("what sources of backends said can't be kept for the next start: {error}");
            }
        });
    }

    /// Sources that have neither answered nor failed yet.
    pub(super) fn unheard_sources(&self) -> usize {
        self.sources.statuses().filter(|(_, s)| s.state == SourceState::Starting && s.failures == 0).count()
    }

    pub(super) fn source_views(&self) -> Vec<SourceView> {
        let found = self.core.endpoints_found();
        let view = |service: &ServiceName, source: String, endpoints: usize, status: &SourceStatus| SourceView {
            service: service.clone(),
            source,
            state: match status.state {
                SourceState::Starting => SourceStateWord::Starting,
                SourceState::Live => SourceStateWord::Live,
                SourceState::Stale => SourceStateWord::Stale,
            },
            endpoints: endpoints as u32,
            answered_ms: status.answered.map(unix_ms),
            error: status.error.clone(),
            updates: status.updates,
            failures: status.failures,
        };
        let count = |key: &SourceKey| found.get(key).map_or(0, |set| set.iter().count());
        let sources = self.sources.statuses().map(|(key, status)| view(&key.service, key.source.clone(), count(key), status));
        let files = self.core.services().iter().filter_map(|(name, merged)| {
            let (file, read) = (merged.service.backends_file.as_ref()?, self.files_read.get(name)?);
            (read.file == *file).then(|| view(name, format!("file {}", file.display()), read.endpoints, &read.status))
        });
        let mut views: Vec<_> = sources.chain(files).collect();
        views.sort_by(|a, b| (&a.service, &a.source).cmp(&(&b.service, &b.source)));
        views
    }

    fn remembered(&self) -> Vec<Remembered> {
        let found = self.core.endpoints_found();
        let answered = self.sources.statuses().filter_map(|(key, status)| Some((key, status.answered?)));
        let one = |(key, answered): (&SourceKey, _)| Remembered {
            service: key.service.clone(),
            source: key.source.clone(),
            answered_ms: unix_ms(answered),
            endpoints: found.get(key).into_iter().flat_map(EndpointSet::iter).cloned().collect(),
            services: if *key == SourceKey::cluster() { self.core.cluster_services().to_vec() } else { Vec::new() },
        };
        let registered = found.iter().filter(|(key, _)| key.source == super::beating::source_key(&key.service).source);
        let registered: Vec<_> = registered.map(|(key, _)| (key, std::time::SystemTime::now())).collect();
        answered.chain(registered).map(one).collect()
    }
}

/// What was remembered, as updates of a core.
pub(super) fn updates(remembered: &[Remembered]) -> Vec<(SourceKey, Update)> {
    let of_endpoints = remembered.iter().filter(|one| one.key() != SourceKey::cluster());
    of_endpoints.map(|one| (one.key(), Update::Reset(one.endpoints.clone()))).collect()
}

impl std::fmt::Display for SourceStateWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Stale => "stale",
        })
    }
}
