//! Where things live under the bpf file system: `mesh/<instance>/v<abi>/`, so that they outlive the daemon.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use mesh_common::abi;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::error::DataplaneError;

/// Magic number of the bpf file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The directory of one instance's pins, ours alone while this value lives.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    _lock: Lock,
}

/// What a pin in the directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// A link at an interface.
    Link { interface: String },
    /// Mark of a TC filter at an interface, which can't be pinned.
    Filter { interface: String },
    /// A map or a program.
    Object,
}

const LINK: &str = "link_";
const FILTER: &str = "filter_";

impl Pins {
    /// Makes the directory, and the file system if it is not mounted.
    pub fn open(bpffs: &Path, instance: &str) -> Result<Self, DataplaneError> {
        let dir = instance_dir(bpffs, instance)?.join(format!("v{}", abi::VERSION));
        ensure_bpffs(bpffs)?;
        fs::create_dir_all(&dir).map_err(DataplaneError::file("create", &dir))?;
        let lock = lock(&dir, instance)?;
        Ok(Self { dir, _lock: lock })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Pin of a map or a program.
    pub fn object(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Pin of the link at an interface.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.dir.join(format!("{LINK}{}", escaped(interface)))
    }

    /// Mark of the filter at an interface.
    pub fn filter(&self, interface: &str) -> PathBuf {
        self.dir.join(format!("{FILTER}{}", escaped(interface)))
    }

    /// All that is pinned, with its path.
    pub fn kept(&self) -> Result<Vec<(PathBuf, Kept)>, DataplaneError> {
        kept_in(&self.dir)
    }
}

/// The directories of all versions of an instance; none if there is no instance of that name.
pub fn versions(bpffs: &Path, instance: &str) -> Result<Vec<PathBuf>, DataplaneError> {
    let dir = instance_dir(bpffs, instance)?;
    Ok(entries(&dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// The directory of an instance.
pub fn instance_dir(bpffs: &Path, instance: &str) -> Result<PathBuf, DataplaneError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !(1..=31).contains(&instance.len()) || !instance.chars().all(fits) {
        return Err(DataplaneError::Instance(instance.to_owned()));
    }
    Ok(bpffs.join("mesh").join(instance))
}

/// All that is pinned in a directory.
pub fn kept_in(dir: &Path) -> Result<Vec<(PathBuf, Kept)>, DataplaneError> {
    let kind = |path: &Path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(interface) = name.strip_prefix(LINK) {
            Kept::Link { interface: plain(interface) }
        } else if let Some(interface) = name.strip_prefix(FILTER) {
            Kept::Filter { interface: plain(interface) }
        } else {
            Kept::Object
        }
    };
    Ok(entries(dir)?.into_iter().map(|path| (path.clone(), kind(&path))).collect())
}

/// Takes a pin away; one that is not there counts as taken away.
pub fn remove(path: &Path) -> Result<(), DataplaneError> {
    let gone = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match gone {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(DataplaneError::file("remove", path)),
    }
}

/// Compares what is pinned with what it has to be: the name of each field, what it is, and what it should be.
pub fn compare(path: &Path, fields: &[(&'static str, u32, u32)]) -> Result<(), DataplaneError> {
    match fields.iter().find(|(_, pinned, wanted)| pinned != wanted) {
        Some((field, pinned, wanted)) => {
            Err(DataplaneError::PinDiffers { path: path.to_owned(), field, pinned: u64::from(*pinned), wanted: u64::from(*wanted) })
        }
        None => Ok(()),
    }
}

/// A directory that is ours alone while this value lives. A daemon that dies lets go of it, however it dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "only dropped")] Flock<File>);

/// Takes the lock of an instance's directory.
pub fn lock(dir: &Path, instance: &str) -> Result<Lock, DataplaneError> {
    let file = File::open(dir).map_err(DataplaneError::file("open", dir))?;
    // Unlocked as it is dropped, and not just closed: a child that is just being started has the file open, too.
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(DataplaneError::Running(instance.to_owned())),
        Err((_, e)) => Err(DataplaneError::file("lock", dir)(e.into())),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let read = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(DataplaneError::file("list", dir))?,
    };
    let mut paths = read.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map_err(DataplaneError::file("list", dir))?;
    paths.sort();
    Ok(paths)
}

fn ensure_bpffs(path: &Path) -> Result<(), DataplaneError> {
    let fail = |source: io::Error| DataplaneError::Bpffs { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(fail)?;
    if is_bpffs(path).map_err(fail)? {
        return Ok(());
    }
    log::info!("mounting the bpf file system at {}", path.display());
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|e| fail(e.into()))
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(nix::sys::statfs::statfs(path)?.filesystem_type().0 == BPF_FS_MAGIC)
}

/// The bpf file system allows no dot in a name, interfaces do.
fn escaped(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn plain(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_come_back() {
        for name in ["eth0", "eth0.100", "a%2eb", "%", "x.%25.y"] {
            assert!(!escaped(name).contains('.'));
            assert_eq!(plain(&escaped(name)), name);
        }
    }

    #[test]
    fn an_instance_stays_below_its_folder() {
        for name in ["", "a/b", "..", "a.b", "0123456789012345678901234567890123"] {
            assert!(matches!(instance_dir(Path::new("/sys/fs/bpf"), name), Err(DataplaneError::Instance(_))));
        }
    }
}
