//! The truth about who was sent what: every TCP frame over IPv4 that a host of the fabric sends, with the kernel's time stamp.

use std::{
    io::IoSliceMut,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};

use crate::netns::Namespace;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

/// Of a frame, Ethernet, IPv4 and TCP headers fit with room for options.
const SNAP: usize = 96;
const QUEUE: usize = 64 << 20;

/// One frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Nanoseconds since the Unix epoch.
    pub at: u64,
    /// Switch port of the host that sent it.
    pub port: usize,
    /// Ethernet address that it goes to.
    pub to: [u8; 6],
    pub from_addr: SocketAddrV4,
    pub to_addr: SocketAddrV4,
    pub flags: u8,
}

/// Collects frames until it is dropped.
#[derive(Debug)]
pub struct Wire {
    over: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Frame>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Wire {
    /// Listens on all ports of the switch but `deaf` (an interface index), whose host's frames nobody asks for.
    pub fn tap(switch: &Namespace, deaf: usize) -> Result<Self> {
        let socket = switch.enter(|| open(deaf))??;
        let (over, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, sink) = (Arc::clone(&over), Arc::clone(&frames));
        let reader = std::thread::spawn(move || read(&socket, &stop, &sink));
        Ok(Self { over, frames, reader: Some(reader) })
    }

    /// All frames so far, without taking them.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the frames so far.
    pub fn clear(&self) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn open(deaf: usize) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).context("failed to make a packet socket")?;
    filter(&fd, deaf).context("failed to filter a packet socket")?;
    setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)?;
    setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
    Ok(fd)
}

/// Lets through what came in (not what is sent on) by another port than `deaf`, and is IPv4.
fn filter(fd: &OwnedFd, deaf: usize) -> Result<()> {
    const LOAD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PKTTYPE: u32 = 0xffff_f000 + 4;
    const IFINDEX: u32 = 0xffff_f000 + 8;
    const OUTGOING: u32 = 4;
    let row = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut code = [
        row(LOAD, 0, 0, PKTTYPE),
        row(IF_EQUAL, 5, 0, OUTGOING),
        row(LOAD, 0, 0, IFINDEX),
        row(IF_EQUAL, 3, 0, u32::try_from(deaf)?),
        row(LOAD_HALF, 0, 0, 12),
        row(IF_EQUAL, 0, 1, 0x0800),
        row(RETURN, 0, 0, SNAP as u32),
        row(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the option's value is a `sock_fprog` of the size that is given, and the instructions that it points at outlive the call.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop).context("the kernel refuses the filter")
}

fn read(socket: &OwnedFd, over: &AtomicBool, frames: &Mutex<Vec<Frame>>) -> Result<()> {
    let mut batch = Vec::new();
    while !over.load(Ordering::Relaxed) {
        while let Some(frame) = receive(socket)? {
            batch.extend(frame);
            if batch.len() >= 4096 {
                break;
            }
        }
        if batch.is_empty() {
            // Stamps are the kernel's, so that nothing depends on when they are read.
            std::thread::sleep(Duration::from_millis(3));
        }
        frames.lock().unwrap_or_else(PoisonError::into_inner).append(&mut batch);
    }
    Ok(())
}

/// The next frame, if it is one of TCP; `None` when there is none.
fn receive(socket: &OwnedFd) -> Result<Option<Option<Frame>>> {
    let mut bytes = [0; SNAP];
    let mut room = cmsg_space!(TimeSpec);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut room), MsgFlags::empty()) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        // The port of a host that is cut off says so once.
        Err(Errno::EINTR | Errno::ENETDOWN) => return Ok(Some(None)),
        Err(e) => return Err(e).context("failed to read a frame"),
    };
    let stamp = message.cmsgs()?.find_map(|c| if let ControlMessageOwned::ScmTimestampns(t) = c { Some(t) } else { None });
    let (length, port) = (message.bytes, message.address.map_or(0, |a| a.ifindex()));
    let at = stamp.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64);
    Ok(Some(parse(bytes.get(..length).unwrap_or_default(), at, port)))
}

fn parse(bytes: &[u8], at: u64, port: usize) -> Option<Frame> {
    let (ethernet, outer) = bytes.split_at_checked(14)?;
    let length = |ip: &[u8]| Some(usize::from(ip.first()? & 0xf) * 4).filter(|header| *header >= 20);
    // What stands behind an outer header (IP in IP) is what counts.
    let ip = if outer.get(9) == Some(&4) { outer.get(length(outer)?..)? } else { outer };
    let header = length(ip)?;
    if ethernet[12..14] != [8, 0] || ip.get(9) != Some(&6) {
        return None;
    }
    let tcp = ip.get(header..header + 14)?;
    let address = |a: usize, p: usize| {
        let host: [u8; 4] = ip.get(a..a + 4)?.try_into().ok()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(host), u16::from_be_bytes([tcp[p], tcp[p + 1]])))
    };
    Some(Frame { at, port, to: ethernet[..6].try_into().ok()?, from_addr: address(12, 0)?, to_addr: address(16, 2)?, flags: tcp[13] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_from_its_bytes() {
        let mut bytes = vec![2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 77, 0, 1, 10, 77, 0, 9];
        bytes.extend([0x04, 0xd2, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, SYN, 0, 0]);
        let frame = parse(&bytes, 5, 3).expect("it is TCP");
        assert_eq!((frame.at, frame.port, frame.to, frame.flags), (5, 3, [2, 0, 0, 0, 0, 7], SYN));
        assert_eq!((frame.from_addr.to_string(), frame.to_addr.to_string()), ("10.77.0.1:1234".into(), "10.77.0.9:8080".into()));
        let mut wrapped = bytes.clone();
        wrapped.splice(14..14, [0x45, 0, 0, 60, 0, 0, 0, 0, 64, 4, 0, 0, 10, 77, 0, 2, 10, 77, 0, 11]);
        assert_eq!(parse(&wrapped, 5, 3), Some(frame), "behind an outer header");
        for cut in [0, 13, 20, 40] {
            assert_eq!(parse(&bytes[..cut], 0, 0), None, "{cut} bytes");
        }
    }
}
