use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket},
};
use tokio::net::UdpSocket;

use super::{Place, ProbeError, blame, holds};

/// Type of the request and of the answer, RFC 792 and RFC 4443 section 4.
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);
/// Type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;

/// Sends one echo request and waits for its answer.
pub(super) async fn echo(place: Place<'_>) -> Result<(), ProbeError> {
    let (request_type, reply_type) = if place.address.is_ipv4() { V4 } else { V6 };
    let token = token();
    // Once it is connected, a socket of ICMP is read and written like one of UDP.
    let socket = UdpSocket::from_std(open(place).map_err(errno)?.into()).map_err(ProbeError::Local)?;
    place.lead(&socket).map_err(ProbeError::Local)?;
    place.told.now();
    socket.send(&request(request_type, token)).await.map_err(blame)?;
    let mut packet = [0; 2048];
    loop {
        let length = socket.recv(&mut packet).await.map_err(blame)?;
        // Raw sockets hear every ICMP packet of that host, and our own request too where that host is this one.
        if is_answer(packet.get(..length).unwrap_or_default(), reply_type, token) {
            return Ok(());
        }
    }
}

/// An unprivileged echo socket where the host allows it (`net.ipv4.ping_group_range`), else a raw one (CAP_NET_RAW).
fn open(place: Place<'_>) -> Result<OwnedFd, Errno> {
    let (family, protocol) = match place.address {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = match socket(family, SockType::Datagram, flags, protocol) {
        Err(Errno::EACCES | Errno::EPERM) => socket(family, SockType::Raw, flags, protocol)?,
        other => other?,
    };
    let addr = |ip: IpAddr| SockaddrStorage::from(SocketAddr::new(ip, 0));
    if let Some(source) = place.source {
        bind(fd.as_raw_fd(), &addr(source))?;
    }
    connect(fd.as_raw_fd(), &addr(place.address.ip()))?;
    Ok(fd)
}

fn errno(error: Errno) -> ProbeError {
    let io = io::Error::from(error);
    if matches!(error, Errno::EMFILE | Errno::ENFILE) { ProbeError::Local(io) } else { blame(io) }
}

/// The identifier is the kernel's on an unprivileged socket; what tells the answer is its data.
fn request(kind: u8, token: [u8; 8]) -> [u8; HEADER + 8] {
    let mut packet = [0; HEADER + 8];
    packet[0] = kind;
    packet[4..6].copy_from_slice(&token[..2]);
    packet[HEADER..].copy_from_slice(&token);
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An answer as any kind of socket hands it out: a raw one of IPv4 leaves the IP header on.
fn is_answer(packet: &[u8], reply_type: u8, token: [u8; 8]) -> bool {
    let header = match packet.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 15) * 4,
        _ => 0,
    };
    packet.get(header..).is_some_and(|p| p.len() >= HEADER + 8 && p[0] == reply_type && holds(&p[HEADER..HEADER + 8], &token))
}

/// RFC 1071. The kernel computes it for ICMPv6, over the pseudo header too.
fn checksum(packet: &[u8; HEADER + 8]) -> u16 {
    let sum: u32 = packet.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Nobody else's request has the same.
fn token() -> [u8; 8] {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_type_and_data() {
        let token = *b"abcdefgh";
        let reply = request(0, token);
        let with_header = [&[0x45; 1][..], &[0; 19], &reply].concat();
        assert!(is_answer(&reply, 0, token) && is_answer(&with_header, 0, token));
        assert!(!is_answer(&reply, 0, *b"abcdefgX") && !is_answer(&request(8, token), 0, token));
        for end in 0..with_header.len() {
            assert!(!is_answer(&with_header[..end], 0, token), "{end}");
        }
        assert!(is_answer(&request(129, token), 129, token));
    }

    #[test]
    fn the_checksum_makes_the_whole_sum_up_to_zero() {
        let packet = request(8, [0xff; 8]);
        assert_eq!(checksum(&packet), 0);
    }
}
