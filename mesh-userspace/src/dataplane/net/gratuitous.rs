//! Frames that tell a link who owns an address now.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

const ETH_ARP: [u8; 2] = [0x08, 0x06];
const ETH_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// Who tells the link. Once it is open no capability is needed any more.
#[derive(Debug)]
pub struct Teller(Result<OwnedFd, Errno>);

impl Teller {
    /// Opens a socket in the calling thread's network namespace. Needs CAP_NET_RAW; without it every [`Self::send`] fails with EPERM.
    pub fn open() -> Self {
        // Protocol 0: the socket receives nothing.
        Self(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None))
    }

    /// Sends one announcement for `vip` with `mac` out of the interface.
    pub fn send(&self, vip: IpAddr, ifindex: u32, mac: [u8; 6]) -> io::Result<()> {
        let socket = self.0.as_ref().map_err(|errno| io::Error::from(*errno))?;
        match vip {
            IpAddr::V4(vip) => send_frame(socket, &arp(vip, mac), ifindex),
            IpAddr::V6(vip) => send_frame(socket, &neighbour_advertisement(vip, mac), ifindex),
        }
    }
}

/// ARP announcement: a request for the sender's own address, to all (RFC 5227 section 3).
fn arp(vip: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ETH_ARP);
    // Hardware Ethernet, protocol IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}

/// Unsolicited neighbour advertisement to all nodes with the override flag (RFC 4861 sections 4.4 and 7.2.6).
fn neighbour_advertisement(vip: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(vip.octets());
    // Option: target link-layer address, one unit of 8 octets.
    icmp.extend([2, 1]);
    icmp.extend(mac);
    let sum = icmpv6_checksum(vip, all_nodes, &icmp);
    icmp[2..4].copy_from_slice(&sum);

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, ETH_IPV6);
    // Hop limit 255 proves that it comes from this link.
    frame.extend([0x60, 0, 0, 0, 0, icmp.len() as u8, ICMPV6, 255]);
    frame.extend(vip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(icmp);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &from[..], &kind[..]].concat()
}

/// Over the pseudo-header (RFC 8200 section 8.1) and the message, whose length is even and whose checksum field is zero.
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let pseudo = [&from.octets()[..], &to.octets()[..], &[0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6]].concat();
    let words = pseudo.chunks(2).chain(message.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn send_frame(socket: &OwnedFd, frame: &[u8], ifindex: u32) -> io::Result<()> {
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: u16::from_be_bytes([frame[12], frame[13]]).to_be(),
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the descriptor is open, `frame` and `to` live through the call, and each is passed with its own length.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn arp_announces_sender_and_target_alike() {
        let frame = arp(Ipv4Addr::new(192, 0, 2, 1), MAC);
        let parsed = SlicedPacket::from_ethernet(&frame).expect("valid");
        let Some(NetSlice::Arp(arp)) = parsed.net else { panic!("{parsed:?}") };
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC[..], &[192, 0, 2, 1][..]));
        assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 1]);
        assert_eq!(frame.len(), 42);
    }

    #[test]
    fn advertisement_has_a_valid_checksum() {
        let vip: Ipv6Addr = "2001:db8::1".parse().expect("address");
        let frame = neighbour_advertisement(vip, MAC);
        let parsed = SlicedPacket::from_ethernet(&frame).expect("valid");
        let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!("{parsed:?}") };
        let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("no ICMPv6") };
        assert_eq!((ip.header().source_addr(), ip.header().hop_limit()), (vip, 255));
        assert!(matches!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(flags) if flags.r#override && !flags.solicited));
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        assert!(frame.ends_with(&MAC));
    }
}
