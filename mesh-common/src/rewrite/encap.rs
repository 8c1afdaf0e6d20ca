//! Outer headers: IPv4 or IPv6, and UDP for GUE, made in registers and stored in whole words.

use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use super::{Macs, set};
use crate::{
    abi::{Family, GUE_PORT},
    flow::{V4, V6},
    gue,
    packet::{PacketMut, u32_at, u64_at},
};

/// TTL and hop limit of outer headers.
pub const OUTER_TTL: u8 = 64;

/// An outer header to put in front of an IP packet, which itself stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encap {
    pub outer: Outer,
    /// Offset of the packet's IP header.
    pub l3: usize,
    /// Bytes of the IP packet.
    pub len: u16,
    /// Its traffic class (DSCP and ECN), which the outer header repeats (RFC 6040 section 4.1).
    pub class: u8,
    pub inner: Family,
    /// GUE: the source port, as it lies in the packet.
    pub udp: Option<u16>,
    /// IPv6: the flow label, 20 bits.
    pub label: u32,
}

/// Addresses of the outer header. `hop`: GUE names who else may have the flow ([`gue`]); never behind VLAN tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outer {
    /// `sum`: of all words of the header that are the same for every packet, see [`crate::abi::Backend::addr_csum`].
    V4 {
        src: V4,
        dst: V4,
        sum: u16,
        hop: Option<V4>,
    },
    V6 {
        src: V6,
        dst: V6,
        hop: Option<V6>,
    },
}

impl Encap {
    /// Bytes that the packet grows by.
    #[inline(always)]
    pub const fn room(&self) -> usize {
        let ip = match self.outer {
            Outer::V4 { .. } => Ipv4Hdr::LEN,
            Outer::V6 { .. } => Ipv6Hdr::LEN,
        };
        if self.udp.is_some() { ip + UdpHdr::LEN + self.list() } else { ip }
    }

    /// Bytes of GUE behind its UDP header.
    #[inline(always)]
    const fn list(&self) -> usize {
        match self.outer {
            Outer::V4 { hop: Some(_), .. } => gue::room(false),
            Outer::V6 { hop: Some(_), .. } => gue::room(true),
            _ => 0,
        }
    }

    /// EtherType of the outer packet, as it lies in the frame.
    #[inline(always)]
    pub const fn ether_type(&self) -> u16 {
        match self.outer {
            Outer::V4 { .. } => EtherType::Ipv4 as u16,
            Outer::V6 { .. } => EtherType::Ipv6 as u16,
        }
    }

    /// Protocol number that stands in the outer header.
    #[inline(always)]
    const fn protocol(&self) -> u8 {
        outer_protocol(self.udp.is_some(), self.inner)
    }

    /// The outer IPv4 header; the last word's upper half is not part of it.
    #[inline(always)]
    pub fn ipv4_words(&self, src: V4, dst: V4, sum: u16) -> [u64; 3] {
        let total = (self.len + self.room() as u16).to_be();
        let first = ipv4_first(self.class);
        let check = !crate::checksum::fold_word(sum as u32 + total as u32 + (first & !0xff) as u32);
        let life = u16::from_ne_bytes([OUTER_TTL, self.protocol()]);
        [
            first as u64 | (total as u64) << 16 | (DONT_FRAGMENT as u64) << 48,
            life as u64 | (check as u64) << 16 | (src.0 as u64) << 32,
            dst.0 as u64,
        ]
    }

    /// The outer IPv6 header.
    #[inline(always)]
    pub fn ipv6_words(&self, src: V6, dst: V6) -> [u64; 5] {
        let payload = (self.len + self.room() as u16 - Ipv6Hdr::LEN as u16).to_be();
        let first = (6 << 28 | (self.class as u32) << 20 | self.label).to_be();
        let next = u16::from_ne_bytes([self.protocol(), OUTER_TTL]);
        [first as u64 | (payload as u64) << 32 | (next as u64) << 48, src.0[0], src.0[1], dst.0[0], dst.0[1]]
    }

    /// Writes the outer IPv4 header at `AT` of `bytes`.
    #[inline(always)]
    fn ipv4<const AT: usize, const N: usize>(&self, bytes: &mut [u8; N], src: V4, dst: V4, sum: u16) {
        let [a, b, c] = self.ipv4_words(src, dst, sum);
        set(bytes, AT, a.to_ne_bytes());
        set(bytes, AT + 8, b.to_ne_bytes());
        set(bytes, AT + 16, (c as u32).to_ne_bytes());
    }

    /// Writes the outer IPv6 header at `AT` of `bytes`.
    #[inline(always)]
    fn ipv6<const AT: usize, const N: usize>(&self, bytes: &mut [u8; N], src: V6, dst: V6) {
        let [a, b, c, d, e] = self.ipv6_words(src, dst);
        set(bytes, AT, a.to_ne_bytes());
        set(bytes, AT + 8, b.to_ne_bytes());
        set(bytes, AT + 16, c.to_ne_bytes());
        set(bytes, AT + 24, d.to_ne_bytes());
        set(bytes, AT + 32, e.to_ne_bytes());
    }

    /// Writes the UDP header of GUE at `AT` of `bytes`. It has no checksum, which tunnels may leave out over IPv6 too (RFC 6935 section 5): the
    /// packet inside has its own.
    #[inline(always)]
    pub fn udp<const AT: usize, const N: usize>(&self, bytes: &mut [u8; N], port: u16) {
        let length = (self.len + (UdpHdr::LEN + self.list()) as u16).to_be();
        set(bytes, AT, (port as u64 | (u16::from_ne_bytes(GUE_PORT) as u64) << 16 | (length as u64) << 32).to_ne_bytes());
    }
}

/// The first two bytes of an outer IPv4 header.
#[inline(always)]
const fn ipv4_first(class: u8) -> u16 {
    u16::from_ne_bytes([0x45, class])
}

/// Flags and fragment offset of an outer IPv4 header, as they lie in the packet: a tunnel's end does not reassemble, and what never is fragmented
/// needs no identification (RFC 6864 section 4.1).
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// Protocol number of an outer header over a packet of family `inner`.
#[inline(always)]
pub const fn outer_protocol(gue: bool, inner: Family) -> u8 {
    match (gue, inner) {
        (true, _) => IpProto::Udp as u8,
        (false, Family::V4) => IpProto::Ipv4 as u8,
        (false, Family::V6) => IpProto::Ipv6 as u8,
    }
}

/// What [`Outer::V4`] has for `sum`.
pub fn constant_sum(src: V4, dst: V4, protocol: u8) -> u16 {
    let life = u16::from_ne_bytes([OUTER_TTL, protocol]);
    crate::checksum::fold(ipv4_first(0) as u64 + DONT_FRAGMENT as u64 + life as u64 + src.0 as u64 + dst.0 as u64)
}

/// Writes the outer header by plain stores into a frame that has grown by [`Encap::room`].
#[inline(always)]
pub(super) fn put<P: PacketMut>(packet: &mut P, macs: Macs, encap: &Encap) -> Option<()> {
    const V4_END: usize = EthHdr::LEN + Ipv4Hdr::LEN;
    const V6_END: usize = EthHdr::LEN + Ipv6Hdr::LEN;
    const V4_LIST: usize = V4_END + UdpHdr::LEN;
    const V6_LIST: usize = V6_END + UdpHdr::LEN;
    if encap.l3 != EthHdr::LEN {
        return tagged(packet, macs, encap);
    }
    match (encap.outer, encap.udp) {
        (Outer::V4 { src, dst, sum, .. }, None) => {
            let head = packet.at_mut::<V4_END>(0)?;
            ethernet(head, macs, encap);
            encap.ipv4::<{ EthHdr::LEN }, _>(head, src, dst, sum);
        }
        (Outer::V4 { src, dst, sum, hop }, Some(port)) => {
            if let Some(V4(hop)) = hop {
                let list = packet.at_mut::<{ V4_LIST + gue::room(false) }>(0)?;
                set(list, V4_LIST, gue::head(encap.inner, false).to_ne_bytes());
                set(list, V4_LIST + 8, hop.to_ne_bytes());
            }
            let head = packet.at_mut::<V4_LIST>(0)?;
            ethernet(head, macs, encap);
            encap.ipv4::<{ EthHdr::LEN }, _>(head, src, dst, sum);
            encap.udp::<V4_END, _>(head, port);
        }
        (Outer::V6 { src, dst, .. }, None) => {
            let head = packet.at_mut::<V6_END>(0)?;
            ethernet(head, macs, encap);
            encap.ipv6::<{ EthHdr::LEN }, _>(head, src, dst);
        }
        (Outer::V6 { src, dst, hop }, Some(port)) => {
            if let Some(V6([first, second])) = hop {
                let list = packet.at_mut::<{ V6_LIST + gue::room(true) }>(0)?;
                set(list, V6_LIST, gue::head(encap.inner, true).to_ne_bytes());
                set(list, V6_LIST + 8, first.to_ne_bytes());
                set(list, V6_LIST + 16, second.to_ne_bytes());
            }
            let head = packet.at_mut::<V6_LIST>(0)?;
            ethernet(head, macs, encap);
            encap.ipv6::<{ EthHdr::LEN }, _>(head, src, dst);
            encap.udp::<V6_END, _>(head, port);
        }
    }
    Some(())
}

/// The same behind VLAN tags, which go to the front.
#[inline(always)]
fn tagged<P: PacketMut>(packet: &mut P, macs: Macs, encap: &Encap) -> Option<()> {
    const TAGS: usize = 12;
    let tags = u64_at::<0, _>(packet.at::<8>(encap.room() + TAGS)?);
    let mut l4 = encap.l3;
    match encap.outer {
        Outer::V4 { src, dst, sum, .. } => {
            encap.ipv4::<0, _>(packet.at_mut::<{ Ipv4Hdr::LEN }>(encap.l3)?, src, dst, sum);
            l4 += Ipv4Hdr::LEN;
        }
        Outer::V6 { src, dst, .. } => {
            encap.ipv6::<0, _>(packet.at_mut::<{ Ipv6Hdr::LEN }>(encap.l3)?, src, dst);
            l4 += Ipv6Hdr::LEN;
        }
    }
    if let Some(port) = encap.udp {
        encap.udp::<0, _>(packet.at_mut::<{ UdpHdr::LEN }>(l4)?, port);
    }
    let head = packet.at_mut::<22>(0)?;
    macs.put(head);
    if encap.l3 == EthHdr::LEN + 4 {
        set(head, TAGS, (tags as u32).to_ne_bytes());
        set(head, TAGS + 4, encap.ether_type().to_ne_bytes());
    } else {
        set(head, TAGS, tags.to_ne_bytes());
        set(head, TAGS + 8, encap.ether_type().to_ne_bytes());
    }
    Some(())
}

#[inline(always)]
fn ethernet<const N: usize>(head: &mut [u8; N], macs: Macs, encap: &Encap) {
    macs.put(head);
    set(head, 12, encap.ether_type().to_ne_bytes());
}

/// The traffic class in the first word of an IPv4 or IPv6 header.
#[inline(always)]
pub(crate) fn class_of(family: Family, ip: &[u8; 4]) -> u8 {
    match family {
        Family::V4 => ip[1],
        Family::V6 => (u32::from_be(u32_at::<0, _>(ip)) >> 20) as u8,
    }
}
