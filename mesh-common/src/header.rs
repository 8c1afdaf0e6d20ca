//! From a frame to a flow. Nothing is rejected here that might not be for a VIP: what is wrong with a packet is told only to who has found its VIP.

use core::mem::offset_of;

use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{
    abi::Reason,
    flow::{Tuple, V4, V6},
    packet::{Packet, u16_at, u32_at, u64_at},
};

pub(crate) const TCP: u8 = IpProto::Tcp as u8;
pub(crate) const UDP: u8 = IpProto::Udp as u8;
const ICMP: u8 = IpProto::Icmp as u8;
const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const DEST_OPTIONS: u8 = IpProto::Ipv6Opts as u8;

/// VLAN tags that are looked behind.
const TAGS: usize = 2;
/// IPv6 extension headers that are looked behind.
const EXTENSIONS: usize = 6;

/// Where the headers of a packet are, and what they say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers<A> {
    pub tuple: Tuple<A>,
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The first of several fragments.
    pub fragment: bool,
    /// Offsets in the frame: IP header, TCP or UDP header, end of the IP packet by its own account.
    pub l3: usize,
    pub l4: usize,
    pub end: usize,
}

/// What a packet turns out to be.
pub(crate) enum Parsed<A> {
    /// TCP or UDP, and its ports are there.
    Flow(Headers<A>),
    /// Without ports. If it is for a VIP's address, it ends for this reason.
    Odd(A, Reason),
    /// Nothing that a VIP could be concerned with.
    Foreign,
}

/// EtherType and offset of what the frame carries, behind its VLAN tags.
#[inline(always)]
pub(crate) fn link<P: Packet>(packet: &P) -> Option<(u16, usize)> {
    let eth = packet.at::<{ EthHdr::LEN }>(0)?;
    let mut ether_type = u16_at::<{ offset_of!(EthHdr, ether_type) }, _>(eth);
    let mut l3 = EthHdr::LEN;
    for _ in 0..TAGS {
        if ether_type != EtherType::Ieee8021q as u16 && ether_type != EtherType::Ieee8021ad as u16 {
            break;
        }
        let tag = packet.at::<{ VlanHdr::LEN }>(l3)?;
        ether_type = u16_at::<{ offset_of!(VlanHdr, ether_type) }, _>(tag);
        l3 += VlanHdr::LEN;
    }
    Some((ether_type, l3))
}

#[inline(always)]
pub(crate) fn ipv4<P: Packet>(packet: &P, l3: usize) -> Parsed<V4> {
    const MORE_OR_OFFSET: u16 = 0x3fff_u16.to_be();
    const OFFSET: u16 = 0x1fff_u16.to_be();
    let Some(ip) = packet.at::<{ Ipv4Hdr::LEN }>(l3) else { return Parsed::Foreign };
    let dst = V4(u32_at::<{ offset_of!(Ipv4Hdr, dst_addr) }, _>(ip));
    let frags = u16_at::<{ offset_of!(Ipv4Hdr, frags) }, _>(ip);
    let version_ihl = ip[offset_of!(Ipv4Hdr, vihl)];
    let proto = ip[offset_of!(Ipv4Hdr, proto)];
    let ihl = (version_ihl & 0xf) as usize * 4;
    if version_ihl >> 4 != 4 {
        return Parsed::Foreign;
    }
    if proto != TCP && proto != UDP {
        return if proto == ICMP { Parsed::Odd(dst, Reason::Icmp) } else { Parsed::Foreign };
    }
    if frags & OFFSET != 0 {
        return Parsed::Odd(dst, Reason::Fragment);
    }
    if ihl < Ipv4Hdr::LEN {
        return Parsed::Odd(dst, Reason::Malformed);
    }
    let l4 = l3 + ihl;
    let Some(transport) = packet.at::<{ UdpHdr::LEN }>(l4) else { return Parsed::Odd(dst, Reason::Malformed) };
    let src = V4(u32_at::<{ offset_of!(Ipv4Hdr, src_addr) }, _>(ip));
    Parsed::Flow(Headers {
        tuple: Tuple { src, dst, ports: u32_at::<0, _>(transport) },
        proto,
        ttl: ip[offset_of!(Ipv4Hdr, ttl)],
        fragment: frags & MORE_OR_OFFSET != 0,
        l3,
        l4,
        end: l3 + u16::from_be(u16_at::<{ offset_of!(Ipv4Hdr, tot_len) }, _>(ip)) as usize,
    })
}

#[inline(always)]
pub(crate) fn ipv6<P: Packet>(packet: &P, l3: usize) -> Parsed<V6> {
    const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
    let Some(ip) = packet.at::<{ Ipv6Hdr::LEN }>(l3) else { return Parsed::Foreign };
    if ip[0] >> 4 != 6 {
        return Parsed::Foreign;
    }
    let dst = V6([u64_at::<DST, _>(ip), u64_at::<{ DST + 8 }, _>(ip)]);
    let mut proto = ip[offset_of!(Ipv6Hdr, next_hdr)];
    let mut l4 = l3 + Ipv6Hdr::LEN;
    let mut fragment = false;
    if proto != TCP && proto != UDP {
        match extensions(packet, l4, proto) {
            Chain::Transport { proto: found, offset, fragment: first } => (proto, l4, fragment) = (found, offset as usize, first),
            Chain::Odd(reason) => return Parsed::Odd(dst, reason),
            Chain::Foreign => return Parsed::Foreign,
        }
    }
    let Some(transport) = packet.at::<{ UdpHdr::LEN }>(l4) else { return Parsed::Odd(dst, Reason::Malformed) };
    Parsed::Flow(Headers {
        tuple: Tuple { src: V6([u64_at::<SRC, _>(ip), u64_at::<{ SRC + 8 }, _>(ip)]), dst, ports: u32_at::<0, _>(transport) },
        proto,
        ttl: ip[offset_of!(Ipv6Hdr, hop_limit)],
        fragment,
        l3,
        l4,
        end: l3 + Ipv6Hdr::LEN + u16::from_be(u16_at::<{ offset_of!(Ipv6Hdr, payload_len) }, _>(ip)) as usize,
    })
}

/// Flags of a TCP header.
pub(crate) mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

impl<A> Headers<A> {
    /// The TCP flags (0 for UDP) of a packet that is sound: whole, with lengths that fit each other and the frame. Else what is wrong with it.
    #[inline(always)]
    pub(crate) fn check<P: Packet>(&self, packet: &P) -> Result<u8, Reason> {
        if self.fragment {
            return Err(Reason::Fragment);
        }
        let (flags, need) = if self.proto == TCP {
            let Some(tcp) = packet.at::<{ TcpHdr::LEN }>(self.l4) else { return Err(Reason::Malformed) };
            let [data_offset, flags] = u16_at::<12, _>(tcp).to_ne_bytes();
            if data_offset >> 4 < 5 {
                return Err(Reason::Malformed);
            }
            (flags, (data_offset >> 4) as usize * 4)
        } else {
            let Some(udp) = packet.at::<{ UdpHdr::LEN }>(self.l4) else { return Err(Reason::Malformed) };
            let length = u16::from_be(u16_at::<{ offset_of!(UdpHdr, len) }, _>(udp)) as usize;
            if length < UdpHdr::LEN {
                return Err(Reason::Malformed);
            }
            (0, length)
        };
        if self.end < self.l4 + need || !packet.holds(self.end) {
            return Err(Reason::Malformed);
        }
        Ok(flags)
    }
}

/// What a chain of IPv6 extension headers ends in.
enum Chain {
    Transport { proto: u8, offset: u16, fragment: bool },
    Odd(Reason),
    Foreign,
}

/// Follows the headers from `offset` on, the first of which is a `next` (RFC 8200 section 4).
#[inline(never)]
fn extensions<P: Packet>(packet: &P, mut offset: usize, mut next: u8) -> Chain {
    let mut fragment = false;
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => {
                let Some(&[after, length]) = packet.at::<2>(offset) else { return Chain::Odd(Reason::Malformed) };
                next = after;
                offset += (length as usize + 1) * 8;
            }
            FRAGMENT => {
                let Some(header) = packet.at::<8>(offset) else { return Chain::Odd(Reason::Malformed) };
                let place = u16::from_be(u16_at::<2, _>(header));
                if place >> 3 != 0 {
                    return Chain::Odd(Reason::Fragment);
                }
                fragment |= place & 1 != 0;
                next = header[0];
                offset += 8;
            }
            TCP | UDP => return Chain::Transport { proto: next, offset: offset as u16, fragment },
            ICMPV6 => return Chain::Odd(Reason::Icmp),
            _ => return Chain::Foreign,
        }
    }
    match next {
        TCP | UDP => Chain::Transport { proto: next, offset: offset as u16, fragment },
        ICMPV6 => Chain::Odd(Reason::Icmp),
        HOP_BY_HOP | ROUTING | DEST_OPTIONS | FRAGMENT => Chain::Odd(Reason::Malformed),
        _ => Chain::Foreign,
    }
}
