//! From a frame to a flow. Nothing is rejected here that might not be for a VIP: what is wrong with a packet is told only to who has found its VIP.

mod straight;

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
    flow::{Address, Tuple, V4, V6},
    forward::{self, Run, Sink},
    packet::{Packet, halves_at, u16_at, u32_at, u64_at, v6_at},
    shared::{blurred, opaque},
    tables::Tables,
};

pub(crate) use straight::straight;

pub(crate) const TCP: u8 = IpProto::Tcp as u8;
pub(crate) const UDP: u8 = IpProto::Udp as u8;
const ICMP: u8 = IpProto::Icmp as u8;
const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const DEST_OPTIONS: u8 = IpProto::Ipv6Opts as u8;
const AUTHENTICATION: u8 = IpProto::Ah as u8;

/// VLAN tags that are looked behind.
const TAGS: usize = 2;
/// IPv6 extension headers that are looked behind.
const EXTENSIONS: usize = 6;

/// What finding a packet's VIP takes. The rest of its headers is read by those who need it, so that packets for no VIP don't pay for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers<A> {
    pub dst: A,
    /// As in [`Tuple`].
    pub ports: u32,
    pub proto: u8,
    /// The first of several fragments; `None`: its IP header says whether it is.
    pub fragment: Option<bool>,
    /// Offsets in the frame: IP header, TCP or UDP header.
    pub l3: usize,
    pub l4: usize,
}

/// What the IP header says besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<A> {
    pub src: A,
    /// TTL or hop limit.
    pub ttl: u8,
}

/// How far the packet goes, by its IP header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// It is the first of several fragments.
    pub fragment: bool,
    /// Offset of its end in the frame.
    pub end: usize,
}

/// What is known of a packet that is sound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sound<A> {
    pub src: A,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Bytes of the frame, in however many buffers, as they are counted.
    pub bytes: usize,
}

/// Families of IP headers.
pub(crate) trait Ip: Address {
    /// The IP header at `l3`; `None` where the frame ends before it does.
    fn network<P: Packet>(packet: &P, l3: usize) -> Option<Network<Self>>;
    fn extent<P: Packet>(packet: &P, l3: usize) -> Option<Extent>;
    /// The traffic class (DSCP and ECN).
    fn class<P: Packet>(packet: &P, l3: usize) -> Option<u8>;
}

impl Ip for V4 {
    #[inline(always)]
    fn network<P: Packet>(packet: &P, l3: usize) -> Option<Network<Self>> {
        let ip = packet.at::<{ Ipv4Hdr::LEN }>(l3)?;
        Some(Network { src: V4(u32_at::<{ offset_of!(Ipv4Hdr, src_addr) }, _>(ip)), ttl: ip[offset_of!(Ipv4Hdr, ttl)] })
    }

    #[inline(always)]
    fn extent<P: Packet>(packet: &P, l3: usize) -> Option<Extent> {
        const MORE_OR_OFFSET: u16 = 0x3fff_u16.to_be();
        let ip = packet.at::<{ Ipv4Hdr::LEN }>(l3)?;
        Some(Extent {
            fragment: u16_at::<{ offset_of!(Ipv4Hdr, frags) }, _>(ip) & MORE_OR_OFFSET != 0,
            end: l3 + u16::from_be(u16_at::<{ offset_of!(Ipv4Hdr, tot_len) }, _>(ip)) as usize,
        })
    }

    #[inline(always)]
    fn class<P: Packet>(packet: &P, l3: usize) -> Option<u8> {
        // All of the header, as others ask: a compiler then leaves the question out.
        packet.at::<{ Ipv4Hdr::LEN }>(l3).map(|ip| ip[1])
    }
}

impl Ip for V6 {
    #[inline(always)]
    fn network<P: Packet>(packet: &P, l3: usize) -> Option<Network<Self>> {
        const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
        let ip = packet.at::<{ Ipv6Hdr::LEN }>(l3)?;
        Some(Network { src: V6(v6_at::<SRC, _>(ip)), ttl: ip[offset_of!(Ipv6Hdr, hop_limit)] })
    }

    #[inline(always)]
    fn extent<P: Packet>(packet: &P, l3: usize) -> Option<Extent> {
        const LENGTH: usize = offset_of!(Ipv6Hdr, payload_len);
        let ip = packet.at::<{ Ipv6Hdr::LEN }>(l3)?;
        Some(Extent { fragment: false, end: l3 + Ipv6Hdr::LEN + u16::from_be(u16_at::<LENGTH, _>(ip)) as usize })
    }

    #[inline(always)]
    fn class<P: Packet>(packet: &P, l3: usize) -> Option<u8> {
        packet.at::<{ Ipv6Hdr::LEN }>(l3).map(|ip| (u16::from_be(u16_at::<0, _>(ip)) >> 4) as u8)
    }
}

/// EtherType and offset of what a frame carries behind its VLAN tags; zeros if it ends before.
#[inline(always)]
pub(crate) fn ethernet<P: Packet>(packet: &P) -> (u16, usize) {
    let Some(header) = packet.at::<{ EthHdr::LEN }>(0) else { return (0, 0) };
    let ether_type = u16_at::<{ offset_of!(EthHdr, ether_type) }, _>(header);
    if !is_tag(ether_type) {
        return (ether_type, EthHdr::LEN);
    }
    let mut found = (ether_type, EthHdr::LEN);
    for _ in 0..TAGS {
        if is_tag(found.0) {
            let Some(tag) = packet.at::<{ VlanHdr::LEN }>(found.1) else { return (0, 0) };
            found = (u16_at::<{ offset_of!(VlanHdr, ether_type) }, _>(tag), found.1 + VlanHdr::LEN);
        }
    }
    (found.0, blurred::<0x1f>(found.1 as u64, u64_at::<0, _>(header)))
}

#[inline(always)]
fn is_tag(ether_type: u16) -> bool {
    ether_type == EtherType::Ieee8021q as u16 || ether_type == EtherType::Ieee8021ad as u16
}

/// Follows the IPv4 packet at `l3`.
#[inline(always)]
pub(crate) fn ipv4<P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, l3: usize) -> S::Done {
    const OFFSET: u16 = 0x1fff_u16.to_be();
    let Some(ip) = run.packet.at::<{ Ipv4Hdr::LEN }>(l3) else { return run.foreign() };
    let dst = V4(halves_at::<{ offset_of!(Ipv4Hdr, dst_addr) }, _>(ip));
    let frags = u16_at::<{ offset_of!(Ipv4Hdr, frags) }, _>(ip);
    let version_ihl = ip[offset_of!(Ipv4Hdr, vihl)];
    let proto = ip[offset_of!(Ipv4Hdr, proto)];
    let ihl = (version_ihl & 0xf) as usize * 4;
    if version_ihl >> 4 != 4 {
        return run.foreign();
    }
    let l4 = l3 + ihl;
    let odd = if proto != TCP && proto != UDP {
        if proto == ICMP { Reason::Icmp } else { Reason::NotForVip }
    } else if frags & OFFSET != 0 {
        Reason::Fragment
    } else if ihl >= Ipv4Hdr::LEN
        && let Some(transport) = run.packet.at::<{ UdpHdr::LEN }>(l4)
    {
        let headers = Headers { dst, ports: halves_at::<0, _>(transport), proto, fragment: None, l3, l4 };
        return forward::flow(run, headers);
    } else {
        Reason::Malformed
    };
    forward::portless(run, dst, odd)
}

/// Follows the IPv6 packet at `l3`.
#[inline(always)]
pub(crate) fn ipv6<P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>, l3: usize) -> S::Done {
    const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    let Some(ip) = run.packet.at::<{ Ipv6Hdr::LEN }>(l3) else { return run.foreign() };
    if ip[0] >> 4 != 6 {
        return run.foreign();
    }
    let dst = V6(v6_at::<DST, _>(ip));
    let mut chain = Chain { proto: ip[offset_of!(Ipv6Hdr, next_hdr)], fragment: false, odd: 0, offset: (l3 + Ipv6Hdr::LEN) as u16 };
    if chain.proto != TCP && chain.proto != UDP {
        chain = Chain::unpack(extensions(run.packet, chain.offset as usize, chain.proto), dst.0[0]);
    }
    if chain.odd != 0 {
        return forward::portless(run, dst, Reason::from_u8(chain.odd));
    }
    let l4 = chain.offset as usize;
    let Some(ports) = run.packet.at::<{ UdpHdr::LEN }>(l4).map(halves_at::<0, _>) else {
        return forward::portless(run, dst, Reason::Malformed);
    };
    forward::flow(run, Headers { dst, ports, proto: chain.proto, fragment: Some(chain.fragment), l3, l4 })
}

/// Flags of a TCP header.
pub(crate) mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

impl<A: Ip> Headers<A> {
    /// What is known of a packet that is sound: whole, with lengths that fit each other and the frame. Else what is wrong with it.
    #[inline(always)]
    pub(crate) fn check<P: Packet>(&self, packet: &P) -> Result<Sound<A>, Reason> {
        let Some(Extent { fragment, end }) = A::extent(packet, self.l3) else { return Err(Reason::Malformed) };
        if self.fragment.unwrap_or(fragment) {
            return Err(Reason::Fragment);
        }
        let (flags, need) = if self.proto == TCP {
            let Some(tcp) = packet.at::<{ TcpHdr::LEN }>(self.l4) else { return Err(Reason::Malformed) };
            let [data_offset, flags] = [tcp[12], tcp[13]];
            // Compared as it stands there, with what is left of its low bits.
            if data_offset < (TcpHdr::LEN as u8 / 4) << 4 {
                core::hint::cold_path();
                return Err(Reason::Malformed);
            }
            (flags, (data_offset >> 4) as usize * 4)
        } else {
            let Some(udp) = packet.at::<{ UdpHdr::LEN }>(self.l4) else { return Err(Reason::Malformed) };
            (0, at_least(UdpHdr::LEN, u16::from_be(u16_at::<{ offset_of!(UdpHdr, len) }, _>(udp)) as usize)?)
        };
        if end < self.l4 + need {
            core::hint::cold_path();
            return Err(Reason::Malformed);
        }
        let Some(bytes) = packet.counted(end) else {
            core::hint::cold_path();
            return Err(Reason::Malformed);
        };
        // Read last, so that it need not be kept meanwhile.
        let Some(Network { src, .. }) = A::network(packet, self.l3) else { return Err(Reason::Malformed) };
        Ok(Sound { src, flags, bytes })
    }

    /// The flow that the packet belongs to.
    #[inline(always)]
    pub(crate) fn tuple(&self, src: A) -> Tuple<A> {
        Tuple { src, dst: self.dst, ports: self.ports }
    }
}

#[inline(always)]
fn at_least(least: usize, length: usize) -> Result<usize, Reason> {
    if length < least {
        core::hint::cold_path();
        return Err(Reason::Malformed);
    }
    Ok(length)
}

/// What a chain of IPv6 extension headers ends in: TCP or UDP at `offset`, or something that has no ports, which is why it is `odd`.
struct Chain {
    proto: u8,
    fragment: bool,
    /// A [`Reason`]; 0 = nothing is odd.
    odd: u8,
    offset: u16,
}

impl Chain {
    const fn odd(reason: Reason) -> u64 {
        Self { proto: 0, fragment: false, odd: reason as u8, offset: 0 }.pack()
    }

    const fn pack(self) -> u64 {
        self.offset as u64 | (self.proto as u64) << 16 | (self.odd as u64) << 24 | (self.fragment as u64) << 32
    }

    #[inline(always)]
    fn unpack(word: u64, noise: u64) -> Self {
        let word = opaque(word, noise);
        let offset = blurred::<0x3fff>(word, noise) as u16;
        Self { proto: (word >> 16) as u8, fragment: word >> 32 != 0, odd: (word >> 24) as u8, offset }
    }
}

/// Follows the headers from `offset` on, the first of which is a `next` (RFC 8200 section 4). A packed [`Chain`].
#[cold]
#[inline(never)]
fn extensions<P: Packet>(packet: &P, mut offset: usize, mut next: u8) -> u64 {
    let mut fragment = false;
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => {
                let Some(&[after, length]) = packet.at::<2>(offset) else { return Chain::odd(Reason::Malformed) };
                next = after;
                offset += (length as usize + 1) * 8;
            }
            // RFC 4302 section 2.2: in words of four bytes, less two.
            AUTHENTICATION => {
                let Some(&[after, length]) = packet.at::<2>(offset) else { return Chain::odd(Reason::Malformed) };
                next = after;
                offset += (length as usize + 2) * 4;
            }
            FRAGMENT => {
                let Some(header) = packet.at::<8>(offset) else { return Chain::odd(Reason::Malformed) };
                let place = u16::from_be(u16_at::<2, _>(header));
                if place >> 3 != 0 {
                    // What the first one carries stands here too.
                    return Chain::odd(if header[0] == ICMPV6 { Reason::Icmp } else { Reason::Fragment });
                }
                fragment |= place & 1 != 0;
                next = header[0];
                offset += 8;
            }
            _ => break,
        }
    }
    match next {
        TCP | UDP => Chain { proto: next, fragment, odd: 0, offset: offset as u16 }.pack(),
        ICMPV6 => Chain::odd(Reason::Icmp),
        HOP_BY_HOP | ROUTING | DEST_OPTIONS | AUTHENTICATION | FRAGMENT => Chain::odd(Reason::Malformed),
        _ => Chain::odd(Reason::NotForVip),
    }
}
