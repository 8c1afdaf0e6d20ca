//! The configuration and the files of backends, as they change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use super::{
    daemon::Daemon,
    startup::{as_far_as_possible, needs_restart, reread, texts},
};
use crate::{
    discovery::{SourceState, SourceStatus, Update, read_endpoints},
    events::{What, unix_ms},
};

impl Daemon {
    /// SIGHUP: the configuration and every file of backends.
    pub(super) fn reload_all(&mut self, now: Instant) {
        // The result is told as an event.
        let _ = self.reload(now);
        self.read_endpoint_files(None);
        self.act();
        self.dirty(now);
    }

    /// Reads the configuration again. A failure leaves what runs.
    pub(super) fn reload(&mut self, now: Instant) -> Result<(), String> {
        let before = self.core.config().clone();
        let outcome = reread(&self.config.file).and_then(|loaded| {
            let restart = needs_restart(&before, &loaded.config);
            Ok((self.core.reload(as_far_as_possible(loaded.config, &before))?, loaded.warnings, restart))
        });
        match outcome {
            Ok((changed, warnings, restart)) => {
                self.publications.reloads += 1;
                self.config.loaded_ms = unix_ms(SystemTime::now());
                self.config.error = None;
                self.config.warnings = texts(&warnings);
                let later = restart.iter().map(|key| format!("the change of `{key}` takes effect at the next start of the daemon"));
                self.config.warnings.extend(later);
                for warning in &self.config.warnings {
                    log::warn!("{warning}");
                }
                self.tell(What::Reloaded { changed });
                self.read_endpoint_files(None);
                self.act();
                self.dirty(now);
                Ok(())
            }
            Err(error) => {
                self.publications.reload_failures += 1;
                self.config.error = Some(error.clone());
                self.tell(What::ReloadFailed { error: error.clone() });
                Err(error)
            }
        }
    }

    pub(super) fn files_changed(&mut self, changed: &BTreeSet<PathBuf>, now: Instant) {
        if changed.contains(&self.config.file) {
            // The result is told as an event.
            let _ = self.reload(now);
        }
        if self.read_endpoint_files(Some(changed)) {
            self.act();
            self.dirty(now);
        }
    }

    /// Reads files of backends: those in `only`, or all. True if something changed. A file that can't be read leaves what it said before.
    pub(super) fn read_endpoint_files(&mut self, only: Option<&BTreeSet<PathBuf>>) -> bool {
        let services = self.core.services().values();
        let followed = services.filter_map(|m| Some((m.spec.clone(), m.service.backends_file.clone()?)));
        let due: Vec<_> = followed.filter(|(_, file)| only.is_none_or(|only| only.contains(file))).collect();
        let mut changed = false;
        for (spec, file) in due {
            let mut read = self.files_read.remove(&spec.name).filter(|read| read.file == file).unwrap_or_else(|| FileRead::new(&file));
            match read_endpoints(&file, spec.vip, spec.mode) {
                Ok(endpoints) => {
                    let before = (read.status.updates, read.status.failures);
                    read.endpoints = endpoints.len();
                    let news = self.core.discovered(&spec.name, Update::Reset(endpoints));
                    read.status = SourceStatus {
                        state: SourceState::Live,
                        answered: Some(SystemTime::now()),
                        error: None,
                        updates: before.0 + u64::from(news),
                        failures: before.1,
                    };
                    changed |= news;
                }
                Err(error) => {
                    let error = error.to_string();
                    read.status.failures += 1;
                    if read.status.answered.is_some() {
                        read.status.state = SourceState::Stale;
                    }
                    if read.status.error.replace(error.clone()).as_ref() != Some(&error) {
                        self.tell(What::SourceFailed { service: spec.name.clone(), source: file.display().to_string(), error });
                    }
                }
            }
            self.files_read.insert(spec.name, read);
        }
        changed
    }

    /// Reads the files of services that nothing was read for yet.
    pub(super) fn read_new_files(&mut self) {
        let unread = self.core.unread_files();
        if !unread.is_empty() {
            self.read_endpoint_files(Some(&unread));
        }
    }
}

/// How reading a file of backends went.
#[derive(Clone, Debug)]
pub struct FileRead {
    pub file: PathBuf,
    pub endpoints: usize,
    pub status: SourceStatus,
}

impl FileRead {
    fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), endpoints: 0, status: SourceStatus::default() }
    }
}
