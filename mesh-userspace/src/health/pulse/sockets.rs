use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname, sendmsg, setsockopt,
        socket, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

use super::{
    rounds::Question,
    wire::{self, Answer},
};
use crate::health::detector::PulseKind;

/// SYNs to one target come from so many ports in turn, so that an unfinished one is not in the way of the next.
const PORTS: usize = 8;
/// What the kernel's routes say about our own address is asked again after this time.
const FRESH: Duration = Duration::from_secs(5);
/// Packets that are taken at once; the rest after the next sends.
const BATCH: usize = 256;

/// Raw sockets of both families, opened by who may and not used yet.
#[derive(Debug)]
pub struct PulseSockets([Opened; 2]);

#[derive(Debug)]
struct Opened {
    v6: bool,
    tcp: OwnedFd,
    icmp: OwnedFd,
    ports: Vec<u16>,
    held: Vec<OwnedFd>,
}

/// The same in use.
pub struct Sockets {
    families: [Family; 2],
    sources: HashMap<IpAddr, (IpAddr, Instant)>,
    /// The passage that each socket's packets take.
    led: HashMap<RawFd, u32>,
}

struct Family {
    v6: bool,
    /// Raw sockets, which are read like those of UDP.
    tcp: UdpSocket,
    icmp: UdpSocket,
    ports: Vec<u16>,
    /// Keep the ports ours.
    _held: Vec<OwnedFd>,
}

impl PulseSockets {
    /// In the calling thread's network namespace. Needs CAP_NET_RAW; to use them needs nothing.
    pub fn open() -> io::Result<Self> {
        Ok(Self([Opened::open(false)?, Opened::open(true)?]))
    }
}

impl Sockets {
    /// Needs a runtime with IO.
    pub fn new(PulseSockets([four, six]): PulseSockets) -> io::Result<Self> {
        Ok(Self { families: [Family::new(four)?, Family::new(six)?], sources: HashMap::new(), led: HashMap::new() })
    }

    /// Returns when there is something to hear. Cancel safe: nothing is taken.
    pub async fn readable(&self) {
        let [four, six] = &self.families;
        // An error shows when it is read.
        tokio::select! {
            _ = four.tcp.ready(Interest::READABLE) => {}
            _ = four.icmp.ready(Interest::READABLE) => {}
            _ = six.tcp.ready(Interest::READABLE) => {}
            _ = six.icmp.ready(Interest::READABLE) => {}
        }
    }

    /// All that has come.
    pub fn hear(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for family in &self.families {
            receive(&family.tcp, family.v6, |host, packet| answers.extend(wire::read_segment(host, packet, &family.ports)));
            receive(&family.icmp, family.v6, |host, packet| answers.extend(wire::read_icmp(host, packet, &family.ports)));
        }
        answers
    }

    /// Sends a pulse.
    pub fn send(&mut self, question: &Question) -> io::Result<()> {
        let pulse = question.pulse;
        let target = pulse.address.ip();
        let source = match pulse.source {
            Some(source) => source,
            None => self.source(target)?,
        };
        let family = &self.families[usize::from(target.is_ipv6())];
        let port = family.ports[question.number as usize % family.ports.len().max(1)];
        let socket = match pulse.kind {
            PulseKind::Syn => &family.tcp,
            PulseKind::Echo => &family.icmp,
        };
        // A socket's next packets take the passage that is said last.
        let raw = socket.as_raw_fd();
        if self.led.get(&raw).copied().unwrap_or(0) != pulse.tag {
            setsockopt(socket, sockopt::Priority, &pulse.tag.cast_signed())?;
            self.led.insert(raw, pulse.tag);
        }
        match pulse.kind {
            PulseKind::Syn => send(&family.tcp, source, target, &wire::syn(source, target, (port, pulse.address.port()), question.number)),
            PulseKind::Echo => send(&family.icmp, source, target, &wire::echo(family.v6, question.number)),
        }
    }

    /// Our address towards a target, by the kernel's routes.
    fn source(&mut self, target: IpAddr) -> io::Result<IpAddr> {
        let now = Instant::now();
        if let Some((source, _)) = self.sources.get(&target).filter(|(_, at)| now.saturating_duration_since(*at) < FRESH) {
            return Ok(*source);
        }
        let any: IpAddr = if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((target, 9))?;
        let source = socket.local_addr()?.ip();
        self.sources.retain(|_, (_, at)| now.saturating_duration_since(*at) < 2 * FRESH);
        self.sources.insert(target, (source, now));
        Ok(source)
    }
}

impl Opened {
    fn open(v6: bool) -> io::Result<Self> {
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let mut held = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..PORTS {
            let fd = socket(family, SockType::Stream, flags, None)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, 0)))?;
            ports.push(bound_port(&fd)?);
            held.push(fd);
        }
        let tcp = socket(family, SockType::Raw, flags, SockProtocol::Tcp)?;
        super::filter::only_ports(&tcp, v6, &ports)?;
        let icmp = socket(family, SockType::Raw, flags, if v6 { SockProtocol::IcmpV6 } else { SockProtocol::Icmp })?;
        super::filter::only_answers(&icmp, v6)?;
        Ok(Self { v6, tcp, icmp, ports, held })
    }
}

impl Family {
    fn new(Opened { v6, tcp, icmp, ports, held }: Opened) -> io::Result<Self> {
        Ok(Self { v6, tcp: UdpSocket::from_std(tcp.into())?, icmp: UdpSocket::from_std(icmp.into())?, ports, _held: held })
    }
}

fn bound_port(fd: &OwnedFd) -> io::Result<u16> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let v4 = name.as_sockaddr_in().map(|a| a.port());
    v4.or_else(|| name.as_sockaddr_in6().map(|a| a.port())).ok_or_else(|| io::Error::other("a bound socket has no port"))
}

fn send(socket: &UdpSocket, source: IpAddr, target: IpAddr, packet: &[u8]) -> io::Result<()> {
    let to = SockaddrStorage::from(SocketAddr::new(target, 0));
    let parts = [io::IoSlice::new(packet)];
    let raw = socket.as_raw_fd();
    let sent = match source {
        IpAddr::V4(a) => {
            let addr = libc::in_addr { s_addr: u32::from_ne_bytes(a.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: addr, ipi_addr: libc::in_addr { s_addr: 0 } };
            sendmsg(raw, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, Some(&to))
        }
        IpAddr::V6(a) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: a.octets() }, ipi6_ifindex: 0 };
            sendmsg(raw, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, Some(&to))
        }
    };
    sent.map(drop).map_err(io::Error::from)
}

/// Hands over what has come, without the IP header that raw sockets of IPv4 leave on.
fn receive(socket: &UdpSocket, v6: bool, mut each: impl FnMut(IpAddr, &[u8])) {
    let mut buffer = [0u8; 512];
    for _ in 0..BATCH {
        let (length, from) = match socket.try_recv_from(&mut buffer) {
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let Some(packet) = buffer.get(..length.min(buffer.len())) else { continue };
        let header = if v6 { 0 } else { packet.first().map_or(0, |first| usize::from(first & 15) * 4) };
        each(from.ip(), packet.get(header..).unwrap_or_default());
    }
}
