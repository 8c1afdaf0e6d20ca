use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError};

use super::adopt::Contradiction;

/// Why the data plane can't do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error("`{0}` is no name of an instance: use 1 to 31 letters, digits, `-` or `_`")]
    Instance(String),
    #[error("{} is no bpf file system and can't be made one ({source}): mount -t bpf bpf {}", path.display(), path.display())]
    Bpffs { path: PathBuf, source: io::Error },
    #[error("another daemon runs instance `{0}`: stop it, or give this one another name (`instance` in the configuration)")]
    Running(String),
    #[error("{} was made for {field} {pinned}, the configuration and this version want {wanted}: run `mesh detach`, and start again", path.display())]
    PinDiffers { path: PathBuf, field: &'static str, pinned: u64, wanted: u64 },
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error("the object has no {kind} `{name}`: rebuild mesh")]
    Object { kind: &'static str, name: &'static str },
    #[error("failed to load the kernel half: {0}; it needs Linux 6.1 or later, and the capabilities BPF, NET_ADMIN and PERFMON")]
    Load(#[source] EbpfError),
    #[error("the kernel refused program `{name}`: {reason}")]
    Program { name: &'static str, reason: String },
    #[error("failed to make map `{name}`: {source}; it needs the capability BPF, and its memory")]
    Make { name: &'static str, source: MapError },
    #[error("failed to read map `{name}`: {source}")]
    Map { name: &'static str, source: MapError },
    #[error("failed to map `{name}` into memory: {source}")]
    Mapping { name: &'static str, source: io::Error },
    #[error("failed to pin {}: {source}", path.display())]
    Pin { path: PathBuf, source: PinError },
    #[error("failed to {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("no interface is called `{0}`: `ip link` lists them")]
    NoInterface(String),
    #[error("{owner} is at the XDP hook of `{interface}` already: detach it, or attach mesh by TC (`hook: tc`)")]
    Owned { interface: String, owner: String },
    #[error("failed to attach to `{interface}` by {hook}: {reason}")]
    Attach { interface: String, hook: &'static str, reason: String },
    #[error("failed to {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl DataplaneError {
    /// The verifier's last words are those that matter; all of them go to the debug log.
    pub(super) fn program(name: &'static str) -> impl Fn(ProgramError) -> Self {
        const LAST: usize = 8;
        move |error| {
            let ProgramError::LoadError { io_error, verifier_log } = &error else {
                return Self::Program { name, reason: error.to_string() };
            };
            log::debug!("{name}: {verifier_log}");
            let words = verifier_log.to_string();
            let lines: Vec<_> = words.lines().collect();
            let reason = format!(
                "{io_error}; it needs Linux 6.1 or later, and the capabilities BPF, NET_ADMIN and PERFMON\n{}",
                lines[lines.len().saturating_sub(LAST)..].join("\n")
            );
            Self::Program { name, reason }
        }
    }

    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
