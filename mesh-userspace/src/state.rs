//! What the operator changed by CLI or API, and must survive a restart: one small file, replaced as a whole.
//!
//! It goes before the configuration: a backend of the configuration that was removed stays removed until it is added again. A service or a
//! backend that was added and later also comes by the configuration is the configuration's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Instance, written},
    control::{DrainOrder, view::Admin},
    model::{BackendId, ConnectionLimits, ServiceName},
};

/// Version of the file's form.
const VERSION: u32 = 1;

/// All that is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Services that were added.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, written::Service>,
    /// Services of the configuration that were removed.
    #[serde(default)]
    pub removed: BTreeSet<ServiceName>,
    /// What was changed about backends.
    #[serde(default)]
    pub backends: BTreeMap<ServiceName, BTreeMap<BackendId, Change>>,
    /// Addresses that the daemon put on interfaces: for `mesh detach`.
    #[serde(default)]
    pub announced: BTreeSet<(IpAddr, String)>,
}

/// What was changed about one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    #[serde(default)]
    pub presence: Presence,
    #[serde(default)]
    pub admin: Admin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Name that an added backend was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How the drain is to go on, while `admin` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainOrder>,
    /// What else an added backend was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub backup: u8,
    #[serde(default, skip_serializing_if = "ConnectionLimits::is_none")]
    pub limits: ConnectionLimits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id: Option<u32>,
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// There if a source says so.
    #[default]
    Found,
    Added,
    Removed,
}

impl Change {
    /// Says nothing, so it need not be kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("failed to {what} {}: {source}; `state_dir` in the configuration names another place", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("instance `{instance}` is running already (pid {pid}): stop it first, or give this one another `instance`")]
    Running { instance: Instance, pid: String },
}

/// The place of one instance's state, locked: while it lives no other daemon of the instance can.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What [`Store::load`] found.
#[derive(Debug)]
pub struct Found {
    pub state: State,
    /// The file could not be understood; it was set aside, and nothing is remembered.
    pub problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    state: T,
}

impl Store {
    /// Makes `dir` if need be, and takes the lock.
    pub fn open(dir: &Path, instance: &Instance) -> Result<Self, StateError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { what, path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io("create", dir))?;
        let path = dir.join(format!("{instance}.lock"));
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path).map_err(io("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => StateError::Running { instance: instance.clone(), pid: pid_in(&path) },
            other => io("lock", &path)(other.into()),
        })?;
        lock.set_len(0).and_then(|()| (&*lock).write_all(std::process::id().to_string().as_bytes())).map_err(io("write", &path))?;
        Ok(Self { path: dir.join(format!("{instance}.json")), _lock: lock })
    }

    /// The file of the state.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved; nothing if nothing was. A file that can't be understood is kept beside, for what it says may be wanted.
    pub fn load(&self) -> Result<Found, StateError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found { state: State::default(), problem: None }),
            Err(source) => return Err(StateError::Io { what: "read", path: self.path.clone(), source }),
        };
        let why = match parse(&text) {
            Ok(state) => return Ok(Found { state, problem: None }),
            Err(why) => why,
        };
        let aside = self.set_aside()?;
        let problem = format!(
            "{} can't be used ({why}): what was changed by CLI is not in force, only the configuration is; the file is kept as {}",
            self.path.display(),
            aside.display()
        );
        Ok(Found { state: State::default(), problem: Some(problem) })
    }

    /// Replaces the file as a whole: after a crash it is the old one or the new one.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        let temporary = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut text = serde_json::to_vec_pretty(&Versioned { version: VERSION, state })?;
            text.push(b'\n');
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            // The new name is on disk only when the directory is.
            self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        write().map_err(|source| StateError::Io { what: "write", path: self.path.clone(), source })
    }

    fn set_aside(&self) -> Result<PathBuf, StateError> {
        let free = (1..).map(|n| self.path.with_extension(format!("json.bad-{n}"))).find(|p| !p.exists());
        let aside = free.unwrap_or_else(|| self.path.with_extension("json.bad"));
        fs::rename(&self.path, &aside).map_err(|source| StateError::Io { what: "rename", path: self.path.clone(), source })?;
        Ok(aside)
    }
}

fn parse(text: &[u8]) -> Result<State, String> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let Versioned { version, state } = serde_json::from_value::<Versioned<serde_json::Value>>(value).map_err(|e| e.to_string())?;
    if version != VERSION {
        return Err(format!("its form has version {version}, this mesh knows {VERSION}"));
    }
    serde_json::from_value(state).map_err(|e| e.to_string())
}

fn pid_in(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(pid) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_state() -> State {
        let spec =
            r#"{"name": "api", "vip": "192.0.2.1:80", "health": "none", "backends": ["10.0.0.1", {"address": "10.0.0.2", "weight": 2}]}"#;
        let mut state = State::default();
        state.services.insert("api".parse().unwrap(), serde_json::from_str(spec).unwrap());
        state.removed.insert("web".parse().unwrap());
        let drained = Change { admin: Admin::Drain, weight: Some(7), ..Default::default() };
        let id = |s: &str| BackendId(s.parse().unwrap());
        state.backends.insert("api".parse().unwrap(), [(id("[2001:db8::1]:80"), drained), (id("10.0.0.1:80"), Change::default())].into());
        state.announced.insert(("192.0.2.1".parse().unwrap(), "eth0".into()));
        state
    }

    fn store(dir: &Path) -> Result<Store, StateError> {
        Store::open(dir, &Instance::default())
    }

    #[test]
    fn state_survives() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).unwrap();
        assert_eq!(store.load().unwrap().state, State::default());
        store.save(&some_state()).unwrap();
        assert_eq!(store.load().unwrap().state, some_state());
        store.save(&State::default()).unwrap();
        assert_eq!(store.load().unwrap().state, State::default());
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).unwrap();
        store.save(&some_state()).unwrap();
        fs::write(dir.path().join("default.json.new"), "{\"version\": 1, \"serv").unwrap();
        assert_eq!(store.load().unwrap().state, some_state());
        store.save(&State::default()).unwrap();
        assert_eq!(store.load().unwrap().state, State::default());
    }

    #[test]
    fn what_cannot_be_understood_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).unwrap();
        for (n, text) in ["", "{", "[]", "{\"version\": 9}", "{\"version\": 1, \"wat\": 2}", "\u{0}"].iter().enumerate() {
            fs::write(store.path(), text).unwrap();
            let found = store.load().unwrap();
            assert_eq!(found.state, State::default());
            assert!(found.problem.is_some_and(|p| p.contains("default.json")), "{text}");
            assert_eq!(fs::read_to_string(dir.path().join(format!("default.json.bad-{}", n + 1))).unwrap(), *text);
            assert!(store.load().unwrap().problem.is_none());
        }
    }

    #[test]
    fn a_failed_write_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).unwrap();
        fs::create_dir(dir.path().join("default.json.new")).unwrap();
        assert!(store.save(&some_state()).unwrap_err().to_string().contains("default.json"));
    }

    #[test]
    fn one_daemon_per_instance() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path()).unwrap();
        let error = store(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(Store::open(dir.path(), &"other".parse().unwrap()).is_ok());
        drop(first);
        assert!(store(dir.path()).is_ok());
    }
}
