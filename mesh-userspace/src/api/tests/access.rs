//! Who may, told by the real kernel: each caller is a thread with credentials of its own. Needs root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::seam::Seam;
use crate::{
    api::{Client, ClientError},
    control::view::Status,
};

const NOBODY: libc::uid_t = 65_534;
const GROUP: libc::gid_t = 47_110;

/// Asks for the status as another user. Linux keeps credentials per thread; it is libc's wrapper that would change those of all.
fn ask_as(uid: libc::uid_t, gid: libc::gid_t, groups: &'static [libc::gid_t], socket: PathBuf) -> Result<Status, ClientError> {
    let caller = std::thread::spawn(move || {
        // SAFETY: `groups` is valid for `groups.len()` numbers and only read; the other two take no pointers. They change this thread alone.
        let changed = unsafe {
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
        };
        assert!(changed, "this test needs root: {}", std::io::Error::last_os_error());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Client::new(socket).status())
    });
    caller.join().unwrap()
}

/// Asks while this runtime goes on to serve.
async fn ask(uid: libc::uid_t, gid: libc::gid_t, groups: &'static [libc::gid_t], seam: &Seam) -> Result<Status, ClientError> {
    let socket = seam.socket();
    tokio::task::spawn_blocking(move || ask_as(uid, gid, groups, socket)).await.unwrap()
}

fn open_up(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_files_mode_keeps_strangers_out() {
    let seam = Seam::start().await;
    open_up(seam.socket().parent().unwrap(), 0o755);
    assert!(ask(0, 0, &[], &seam).await.is_ok());
    let refused = ask(NOBODY, NOBODY, &[], &seam).await.unwrap_err();
    assert!(matches!(refused, ClientError::Forbidden { .. }), "{refused:?}");
}

#[tokio::test]
async fn the_peers_credentials_keep_strangers_out_even_where_the_file_does_not() {
    let seam = Seam::start().await;
    open_up(seam.socket().parent().unwrap(), 0o755);
    open_up(&seam.socket(), 0o666);
    for groups in [&[][..], &[0][..], &[GROUP][..]] {
        let refused = ask(NOBODY, NOBODY, groups, &seam).await.unwrap_err();
        assert!(matches!(&refused, ClientError::Forbidden { reason, .. } if reason.contains("api.group")), "{refused:?}");
    }
    assert!(ask(0, NOBODY, &[], &seam).await.is_ok());
}

#[tokio::test]
async fn the_groups_members_may() {
    let seam = Seam::start_for(Some("47110")).await;
    open_up(seam.socket().parent().unwrap(), 0o755);
    assert!(ask(NOBODY, NOBODY, &[4, GROUP], &seam).await.is_ok(), "by a supplementary group");
    assert!(ask(NOBODY, GROUP, &[], &seam).await.is_ok(), "by the primary group");
    assert!(ask(NOBODY, NOBODY, &[4], &seam).await.is_err());
}
