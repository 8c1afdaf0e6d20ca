//! The socket's file: made with its rights before anyone can see it, replaced only if nobody listens, removed only if it is ours.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group};

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another daemon listens at {}: stop it, or give this one another `instance` or `api.socket`", .0.display())]
    InUse(PathBuf),
    #[error("{} is in the way of the API's socket and is no socket: remove it, or set `api.socket`", .0.display())]
    NoSocket(PathBuf),
    #[error("no group `{0}` for the API's socket: create it (`groupadd --system {0}`), or change `api.group`")]
    NoGroup(String),
    #[error("the path of the API's socket is longer than 100 bytes: set a shorter `api.socket` than {}", .0.display())]
    TooLong(PathBuf),
    #[error("can't make the API's socket {}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("can't listen for heartbeats at {address}: {source}; change `api.heartbeat.listen`")]
    Heartbeat { address: std::net::SocketAddr, source: io::Error },
    #[error("can't serve metrics at {address}: {source}; change `metrics.listen`")]
    Tcp { address: std::net::SocketAddr, source: io::Error },
}

/// `sun_path` takes 107 bytes, and the file has a longer name for a moment.
const LONGEST: usize = 100;

/// A listening socket that removes its file when it goes.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Listens at `path`, with mode 0660 and the group.
    pub fn bind(path: &Path, group: Option<Gid>) -> Result<(UnixListener, Self), BindError> {
        if path.as_os_str().len() > LONGEST {
            return Err(BindError::TooLong(path.to_owned()));
        }
        let failed = |source| BindError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        check_free(path)?;
        let (listener, inode) = place(path, group).map_err(failed)?;
        Ok((listener, Self { path: path.to_owned(), inode }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode);
        if ours && let Err(e) = fs::remove_file(&self.path) {
            log::warn!("can't remove the socket {}: {e}", self.path.display());
        }
    }
}

/// What is left of a daemon that was killed doesn't count.
fn check_free(path: &Path) -> Result<(), BindError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(BindError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused || e.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue is somebody's.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse(path.to_owned())),
        Err(source) => Err(BindError::Socket { path: path.to_owned(), source }),
    }
}

/// Under another name first, so that the socket never stands there with the wrong rights.
fn place(path: &Path, group: Option<Gid>) -> io::Result<(UnixListener, u64)> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let _ = fs::remove_file(&unfinished);
    let listener = UnixListener::bind(&unfinished)?;
    let finish = || {
        fs::set_permissions(&unfinished, Permissions::from_mode(0o660))?;
        chown(&unfinished, None, group.map(Gid::as_raw))?;
        let inode = fs::symlink_metadata(&unfinished)?.ino();
        fs::rename(&unfinished, path)?;
        listener.set_nonblocking(true)?;
        Ok(inode)
    };
    let inode = finish().inspect_err(|_: &io::Error| {
        let _ = fs::remove_file(&unfinished);
    })?;
    Ok((listener, inode))
}

/// A group by its name or number.
pub(super) fn group_id(group: &str) -> Result<Gid, BindError> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(group).ok().flatten();
    found.map(|g| g.gid).ok_or_else(|| BindError::NoGroup(group.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_over_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/mesh.sock");
        let (listener, first) = SocketFile::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert!(matches!(SocketFile::bind(&path, None), Err(BindError::InUse(_))));

        drop(listener);
        let (_listener, second) = SocketFile::bind(&path, None).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok(), "the first one's end must not take the second one's file");
        drop(second);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(SocketFile::bind(&path, None), Err(BindError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = directory.path().join("x".repeat(101));
        assert!(matches!(SocketFile::bind(&long, None), Err(BindError::TooLong(_))));
    }

    #[test]
    fn groups() {
        assert_eq!(group_id("root").unwrap(), Gid::from_raw(0));
        assert_eq!(group_id("4711").unwrap(), Gid::from_raw(4711));
        assert!(matches!(group_id("no-such-group"), Err(BindError::NoGroup(_))));
    }
}
