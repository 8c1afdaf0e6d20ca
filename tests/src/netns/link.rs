//! Settings of a link that `ip` doesn't know.

use std::{ffi::CString, io, net::UdpSocket, os::fd::AsRawFd};

use anyhow::{Context, Result};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Has the kernel write whole checksums on what leaves by `name` in the current namespace (and with that, no TSO): a program on the other end
/// of a veth sees bytes only, so a checksum that is left to hardware would never be finished.
pub fn tx_checksum_off(name: &str) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("failed to make a socket for an interface request")?;
    let mut value = EthtoolValue { cmd: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let c_name = CString::new(name)?;
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(c_name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request is an ifreq whose data points at a value of the form that the command takes, and both outlive the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if rc != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("failed to turn off tx checksums of {name}"));
    }
    Ok(())
}
