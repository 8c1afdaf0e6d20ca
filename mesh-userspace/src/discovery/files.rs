//! Notices that files change, however they are changed: written in place, replaced by a rename, or behind a symlink that is swapped.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{sync::Notify, time::timeout_at};

/// Who writes in place may do so in several steps: such a change counts when nothing has happened for this long. A rename is whole at once, and waits
/// only for as long as one was told before it.
const QUIET: Duration = Duration::from_millis(50);

/// Why changes can't be noticed.
#[derive(Debug, thiserror::Error)]
#[error("changes of {} will not be noticed, SIGHUP reads it again: {source}", path.display())]
pub struct WatchError {
    path: PathBuf,
    source: notify::Error,
}

/// Watches a changing set of files. Directories are what is watched: a watch on a file would follow it out of its name.
#[derive(Debug)]
pub struct Files {
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
    wanted: BTreeSet<PathBuf>,
    /// Watched directories, with the files that each is watched for.
    dirs: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Files that have changed, and when that is to be told.
    gathered: BTreeMap<PathBuf, Instant>,
    told: Option<Instant>,
}

/// What the watcher's thread leaves for us. It can't outgrow the number of names in the watched directories that matter.
#[derive(Debug, Default)]
struct Shared {
    touched: Mutex<BTreeMap<PathBuf, Touch>>,
    news: Notify,
}

/// What happened to a name last.
#[derive(Clone, Copy, Debug)]
struct Touch {
    at: Instant,
    /// Another file has taken the name's place.
    whole: bool,
}

impl Files {
    pub fn new() -> Result<Self, WatchError> {
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            Ok(event) if changes(event.kind) => sink.touch(event.paths, matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)))),
            Ok(_) => {}
            Err(e) => log::warn!("the watch of files has a gap: {e}"),
        })
        .map_err(|source| WatchError { path: PathBuf::new(), source })?;
        Ok(Self { watcher, shared, wanted: BTreeSet::new(), dirs: BTreeMap::new(), gathered: BTreeMap::new(), told: None })
    }

    /// Makes `wanted` the files that are watched, and says which of them can't be. They need not exist yet; their directories must.
    pub fn set(&mut self, wanted: BTreeSet<PathBuf>) -> Vec<WatchError> {
        if wanted == self.wanted {
            return Vec::new();
        }
        let mut dirs: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for file in &wanted {
            for dir in directories(file) {
                dirs.entry(dir).or_default().insert(file.clone());
            }
        }
        for dir in self.dirs.keys().filter(|d| !dirs.contains_key(*d)) {
            if let Err(e) = self.watcher.unwatch(dir) {
                log::debug!("{}: {e}", dir.display());
            }
        }
        let mut failed = Vec::new();
        dirs.retain(|dir, _| {
            if self.dirs.contains_key(dir) {
                return true;
            }
            match self.watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => true,
                Err(source) => {
                    failed.push(WatchError { path: dir.clone(), source });
                    false
                }
            }
        });
        (self.dirs, self.wanted) = (dirs, wanted);
        failed
    }

    /// Waits until files have changed as a whole, or come to rest; their content may still be what it was. Cancel safe: what was noticed is kept, and
    /// so is since when.
    pub async fn changed(&mut self) -> BTreeSet<PathBuf> {
        loop {
            self.gather();
            let now = Instant::now();
            let due: BTreeSet<PathBuf> = self.gathered.iter().filter(|(_, at)| **at <= now).map(|(file, _)| file.clone()).collect();
            if !due.is_empty() {
                self.gathered.retain(|_, at| *at > now);
                self.told = Some(now);
                return due;
            }
            let news = self.shared.news.notified();
            match self.gathered.values().min() {
                None => news.await,
                // Whether it is over or there is more: the next round sees.
                Some(next) => drop(timeout_at((*next).into(), news).await),
            }
        }
    }

    /// Takes in what was noticed: of several touches of a file the last one says when it is told.
    fn gather(&mut self) {
        let touched = std::mem::take(&mut *self.shared.touched.lock().unwrap_or_else(PoisonError::into_inner));
        let mut touched: Vec<_> = touched.into_iter().collect();
        touched.sort_by_key(|(_, touch)| touch.at);
        for (path, touch) in touched {
            let due = if touch.whole { self.told.map_or(touch.at, |told| touch.at.max(told + QUIET)) } else { touch.at + QUIET };
            for file in self.affected(&path) {
                self.gathered.insert(file, due);
            }
        }
    }

    /// The wanted files that a touched path may have changed.
    fn affected(&self, path: &Path) -> Vec<PathBuf> {
        let files = path.parent().and_then(|dir| self.dirs.get(dir));
        let Some((name, files)) = path.file_name().zip(files) else { return Vec::new() };
        files.iter().filter(|file| matters(name, file)).cloned().collect()
    }
}

impl Shared {
    fn touch(&self, paths: Vec<PathBuf>, whole: bool) {
        let touch = Touch { at: Instant::now(), whole };
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).extend(paths.into_iter().map(|path| (path, touch)));
        self.news.notify_one();
    }
}

/// A mounted ConfigMap changes by a swap of the symlink `..data` beside the file.
fn matters(name: &OsStr, file: &Path) -> bool {
    file.file_name() == Some(name)
        || name.as_encoded_bytes().starts_with(b"..")
        || file.canonicalize().is_ok_and(|target| target.file_name() == Some(name))
}

/// Where a change of the file shows: the directory of its name, and that of what its name leads to.
fn directories(file: &Path) -> BTreeSet<PathBuf> {
    let parent = |p: &Path| p.parent().map(|d| if d.as_os_str().is_empty() { PathBuf::from(".") } else { d.to_owned() });
    let target = file.canonicalize().ok();
    [parent(file), target.as_deref().and_then(parent)].into_iter().flatten().collect()
}

/// Reading is no change; what matters of writing is its end.
fn changes(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a report, generously: it fails by hanging too long, not by being slow.
    async fn report(files: &mut Files) -> BTreeSet<PathBuf> {
        tokio::time::timeout(Duration::from_secs(20), files.changed()).await.expect("the change was not noticed")
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let mut files = Files::new().unwrap();
        assert!(files.set([file.clone()].into()).is_empty());
        let expected = BTreeSet::from([file.clone()]);

        std::fs::write(&file, "1").unwrap();
        assert_eq!(report(&mut files).await, expected, "created");
        std::fs::write(&file, "2").unwrap();
        assert_eq!(report(&mut files).await, expected, "written in place");
        std::fs::write(dir.path().join("new"), "3").unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        assert_eq!(report(&mut files).await, expected, "replaced");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(report(&mut files).await, expected, "removed");
    }

    #[tokio::test]
    async fn a_swapped_symlink_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["..1", "..2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("a.yaml"), version).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).unwrap();
        let mut files = Files::new().unwrap();
        assert!(files.set([at("a.yaml")].into()).is_empty());
        std::os::unix::fs::symlink("..2", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        assert_eq!(report(&mut files).await, BTreeSet::from([at("a.yaml")]));
    }

    /// The daemon's loop waits for other things too, and asks anew after each.
    #[tokio::test]
    async fn rest_is_found_by_who_is_interrupted_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let mut files = Files::new().unwrap();
        files.set([file.clone()].into());
        std::fs::write(&file, "1").unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let interrupted = tokio::time::timeout(QUIET / 5, files.changed()).await;
            if let Ok(changed) = interrupted {
                assert_eq!(changed, BTreeSet::from([file]));
                return;
            }
            assert!(Instant::now() < end, "the change was not noticed");
        }
    }

    #[tokio::test]
    async fn a_rename_is_told_at_once_and_soon_after_another_it_waits() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let mut files = Files::new().unwrap();
        files.set([file.clone()].into());
        let touch = |files: &Files, whole| files.shared.touch(vec![file.clone()], whole);
        let due = |files: &mut Files| {
            files.gather();
            files.gathered[&file]
        };
        let begin = Instant::now();
        touch(&files, true);
        assert!(due(&mut files) <= Instant::now());
        assert_eq!(files.changed().await.len(), 1);
        let told = files.told.unwrap();
        touch(&files, true);
        assert!(due(&mut files) >= told + QUIET, "{:?}", begin.elapsed());
        // In place, it may not be over; a rename after that is.
        files.told = None;
        touch(&files, false);
        assert!(due(&mut files) > Instant::now());
        touch(&files, true);
        assert!(due(&mut files) <= Instant::now());
    }

    #[tokio::test]
    async fn others_and_readers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut files = Files::new().unwrap();
        files.set([file.clone()].into());
        std::fs::write(dir.path().join("b.yaml"), "1").unwrap();
        std::fs::read(&file).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), files.changed()).await.is_err());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let failed = Files::new().unwrap().set([PathBuf::from("/no/such/dir/a.yaml")].into());
        assert!(failed[0].to_string().contains("/no/such/dir"), "{}", failed[0]);
    }
}
