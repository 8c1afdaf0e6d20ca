//! What raw sockets are to hear: without a filter the kernel copies every TCP segment of the host to them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;

/// Classic BPF, linux/filter.h.
const LDX_HEADER: u16 = 0xb1;
const LD_HALF_BEHIND: u16 = 0x48;
const LD_HALF: u16 = 0x28;
const LD_BYTE_BEHIND: u16 = 0x50;
const LD_BYTE: u16 = 0x30;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;

/// Only TCP segments to these ports. Raw sockets of IPv4 see the IP header, those of IPv6 don't.
pub fn only_ports(socket: &OwnedFd, v6: bool, ports: &[u16]) -> io::Result<()> {
    let load: &[_] = if v6 { &[op(LD_HALF, 2)] } else { &[op(LDX_HEADER, 0), op(LD_HALF_BEHIND, 2)] };
    attach(socket, load, &ports.iter().map(|p| u32::from(*p)).collect::<Vec<_>>())
}

/// Only ICMP messages that answer an echo or say that there is no way.
pub fn only_answers(socket: &OwnedFd, v6: bool) -> io::Result<()> {
    if v6 { attach(socket, &[op(LD_BYTE, 0)], &[129, 1]) } else { attach(socket, &[op(LDX_HEADER, 0), op(LD_BYTE_BEHIND, 0)], &[0, 3]) }
}

/// Takes packets for which `load` brings one of `values`; few enough that jumps reach.
fn attach(socket: &OwnedFd, load: &[libc::sock_filter], values: &[u32]) -> io::Result<()> {
    let mut code = load.to_vec();
    let count = values.len();
    // From each comparison to the last instruction, past the others and the refusal.
    code.extend(values.iter().enumerate().map(|(i, k)| libc::sock_filter { code: JEQ, jt: (count - i) as u8, jf: 0, k: *k }));
    code.extend([op(RET, 0), op(RET, u32::MAX)]);
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` names the instructions of `code` and their number, and both outlive the call; the kernel copies them.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}
