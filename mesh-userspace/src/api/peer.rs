//! Who may use the socket: told by the kernel (SO_PEERCRED, SO_PEERGROUPS), never by the caller.

use std::{io, mem, os::fd::AsRawFd};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use nix::unistd::{Gid, Uid};
use tokio::net::{UnixListener, UnixStream};

/// Root, the daemon's own user, and the members of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The daemon's user.
    pub owner: Uid,
    pub group: Option<Gid>,
}

/// The process at the other end, as it was when it connected. `None` = the kernel didn't tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Peer(Option<Credentials>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Access {
    pub(super) fn allows(&self, peer: &Peer) -> bool {
        let Some(peer) = &peer.0 else { return false };
        let member = |group: Gid| peer.gid == group.as_raw() || peer.groups.contains(&group.as_raw());
        peer.uid == 0 || peer.uid == self.owner.as_raw() || self.group.is_some_and(member)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let stream = stream.io();
        let credentials = stream.peer_cred().and_then(|c| Ok(Credentials { uid: c.uid(), gid: c.gid(), groups: peer_groups(stream)? }));
        Self(credentials.map_err(|e| log::warn!("refusing a client of the API that can't be identified: {e}")).ok())
    }
}

/// Supplementary groups of the peer.
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // NGROUPS_MAX of Linux.
    let mut groups = vec![0u32; 65_536];
    let mut bytes = mem::size_of_val(&groups[..]) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to `groups`, which owns that many, and stores to `bytes`, which outlives the call.
    let rc =
        unsafe { libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut bytes) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(bytes as usize / mem::size_of::<u32>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may() {
        let access = Access { owner: Uid::from_raw(500), group: Some(Gid::from_raw(70)) };
        let peer = |uid, gid, groups: &[u32]| Peer(Some(Credentials { uid, gid, groups: groups.to_vec() }));
        #[rustfmt::skip]
        let rows = [
            (peer(0, 0, &[]),           true,  "root"),
            (peer(500, 1, &[]),         true,  "the daemon's user"),
            (peer(1000, 70, &[]),       true,  "primary group"),
            (peer(1000, 1000, &[4, 70]), true, "supplementary group"),
            (peer(1000, 1000, &[0, 4]), false, "somebody else, even in group 0"),
            (peer(70, 1000, &[]),       false, "a user with the group's number"),
            (Peer(None),                false, "nobody knows"),
        ];
        for (peer, allowed, what) in rows {
            assert_eq!(access.allows(&peer), allowed, "{what}");
        }
        assert!(!Access { group: None, ..access }.allows(&peer(1000, 70, &[70])));
    }
}
