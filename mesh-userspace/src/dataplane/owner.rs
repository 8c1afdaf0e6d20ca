//! Who is at an interface's XDP hook, as the kernel tells by rtnetlink, and what a pinned link is attached to.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    },
};

/// What is at an XDP hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpHook {
    Free,
    /// A program, by its id.
    Native(u32),
    Generic(u32),
    /// Offloaded, or several at once.
    Other(u32),
}

/// A link to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkAt {
    pub kind: LinkKind,
    /// 0 = the interface is gone.
    pub ifindex: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    Xdp,
    Tcx,
    Other(u32),
}

impl XdpHook {
    /// Id of the program.
    pub fn program(self) -> Option<u32> {
        match self {
            Self::Free => None,
            Self::Native(id) | Self::Generic(id) | Self::Other(id) => Some(id),
        }
    }
}

/// What is at the XDP hook of interface `ifindex` of the calling thread's network namespace.
pub fn xdp_hook(ifindex: u32) -> io::Result<XdpHook> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    send(fd.as_raw_fd(), &bytes, MsgFlags::empty())?;

    let mut answer = vec![0; 1 << 17];
    let len = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..len]).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(hook_of(&link)),
        NetlinkPayload::Error(e) => Err(e.to_io()),
        other => Err(io::Error::other(format!("rtnetlink answered {other:?}"))),
    }
}

fn hook_of(link: &LinkMessage) -> XdpHook {
    let attributes = link.attributes.iter().filter_map(|a| if let LinkAttribute::Xdp(xdp) = a { Some(xdp) } else { None }).flatten();
    let (mut attached, mut program) = (&XdpAttached::None, 0);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(a) => attached = a,
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => program = *id,
            _ => {}
        }
    }
    match attached {
        XdpAttached::None => XdpHook::Free,
        XdpAttached::Driver => XdpHook::Native(program),
        XdpAttached::SocketBuffer => XdpHook::Generic(program),
        _ => XdpHook::Other(program),
    }
}

/// What the link pinned at `path` is attached to.
pub fn link_at(path: &Path) -> io::Result<LinkAt> {
    const BPF_LINK_TYPE_XDP: u32 = 6;
    const BPF_LINK_TYPE_TCX: u32 = 11;
    let link = open_pin(path)?;
    let mut info = LinkInfo::zeroed();
    let mut attr = InfoAttr { fd: link.as_raw_fd() as u32, len: size_of::<LinkInfo>() as u32, info: &raw mut info as u64 };
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    // SAFETY: `attr` is that command's form of bpf_attr and as large as it says. The kernel writes at most `len` bytes at `info`, which is as
    // large, plain data, and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<InfoAttr>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let kind = match info.kind {
        BPF_LINK_TYPE_XDP => LinkKind::Xdp,
        BPF_LINK_TYPE_TCX => LinkKind::Tcx,
        other => LinkKind::Other(other),
    };
    Ok(LinkAt { kind, ifindex: info.ifindex })
}

/// Takes the link pinned at `path` off its interface at once; without that the kernel does so some time after the last pin and descriptor are
/// gone. A link that can't be taken off is off already.
pub fn take_off(path: &Path) {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let Ok(link) = open_pin(path) else { return };
    let mut attr = DetachAttr { fd: link.as_raw_fd() as u32, pad: 0 };
    // SAFETY: `attr` is that command's form of bpf_attr and as large as it says; the descriptor is open.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw mut attr, size_of::<DetachAttr>()) };
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `attr` is that command's form of bpf_attr and as large as it says; the kernel reads the string at `pathname`, which ends by a zero
    // and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut attr, size_of::<ObjAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `union bpf_attr` of BPF_OBJ_GET (linux/bpf.h).
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ObjAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// The same of BPF_OBJ_GET_INFO_BY_FD.
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The same of BPF_LINK_DETACH.
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DetachAttr {
    fd: u32,
    pad: u32,
}

/// `struct bpf_link_info`, of which the union begins at byte 16 and, for XDP and tcx, with the interface.
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    rest: [u32; 27],
}
