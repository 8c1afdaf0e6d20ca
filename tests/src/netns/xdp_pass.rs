//! The smallest XDP programs. A veth hands on what its peer's XDP program sends (XDP_TX) only if it runs an XDP program itself.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Attaches `return XDP_PASS` to the link with this index in the current namespace. It stays as long as the link does.
pub fn attach(ifindex: u32) -> Result<()> {
    attach_one(ifindex, XDP_PASS)
}

/// The same with `return XDP_DROP`.
pub fn attach_drop(ifindex: u32) -> Result<()> {
    attach_one(ifindex, XDP_DROP)
}

fn attach_one(ifindex: u32, action: u32) -> Result<()> {
    let program = load(action).context("failed to load an XDP program")?;
    set_link_xdp(ifindex, &program).with_context(|| format!("failed to attach an XDP program to link {ifindex}"))
}

/// union bpf_attr as far as BPF_PROG_LOAD needs it; the kernel takes what is missing as zero.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    kernel: u32,
    flags: u32,
}

/// The program takes packets in several buffers (BPF_F_XDP_HAS_FRAGS), as large frames are.
const HAS_FRAGS: u32 = 1 << 5;

fn load(action: u32) -> io::Result<OwnedFd> {
    // mov64 r0, action; exit
    let code: [u64; 2] = [u64::from(action) << 32 | 0xb7, 0x95];
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        kernel: 0,
        flags: HAS_FRAGS,
    };
    // SAFETY: the attribute's size is given, and the memory that it points at outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// One RTM_SETLINK with IFLA_XDP { IFLA_XDP_FD }, and its acknowledgement.
#[repr(C)]
struct SetLink {
    header: libc::nlmsghdr,
    info: Ifinfo,
    xdp: Attr,
    fd: Attr,
    value: i32,
}

#[repr(C)]
struct Ifinfo {
    family: u8,
    pad: u8,
    kind: u16,
    index: i32,
    flags: u32,
    change: u32,
}

#[repr(C)]
struct Attr {
    len: u16,
    kind: u16,
}

fn set_link_xdp(ifindex: u32, program: &OwnedFd) -> Result<()> {
    let message = SetLink {
        header: libc::nlmsghdr {
            nlmsg_len: size_of::<SetLink>() as u32,
            nlmsg_type: libc::RTM_SETLINK,
            nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        info: Ifinfo { family: 0, pad: 0, kind: 0, index: ifindex as i32, flags: 0, change: 0 },
        xdp: Attr { len: 12, kind: IFLA_XDP | NLA_F_NESTED },
        fd: Attr { len: 8, kind: IFLA_XDP_FD },
        value: program.as_raw_fd(),
    };
    // SAFETY: no memory is passed; the result is checked.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    anyhow::ensure!(socket >= 0, io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the message is plain data of the size that is given.
    let sent = unsafe { libc::send(socket.as_raw_fd(), (&raw const message).cast(), size_of::<SetLink>(), 0) };
    anyhow::ensure!(sent >= 0, io::Error::last_os_error());
    let mut answer = [0u32; 64];
    // SAFETY: the buffer is as long as is said.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), size_of_val(&answer), 0) };
    anyhow::ensure!(got >= 20, "no acknowledgement from the kernel");
    // struct nlmsgerr follows the 16-byte header: its first field is 0 or a negative errno.
    match answer[4] as i32 {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error).into()),
    }
}
