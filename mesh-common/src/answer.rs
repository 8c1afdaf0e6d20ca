//! What the balancer has to say itself about a packet that it can't send on: a RST, or an ICMP error, to the packet's sender.

pub(crate) mod error;
mod reset;

use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    abi::{Reason, ServiceFlags, ServiceInfo},
    aside::{Cause, Outcome},
    checksum,
    flow::{Address, V4, V6},
    header::TCP,
    icmp::{Icmp, TTL},
    packet::Packet,
    patch::{Patch, QUOTE},
    read,
    tables::Tables,
};
pub use error::Said;

/// Families whose packets are answered.
pub(crate) trait Answered: Icmp {
    /// An address that a packet can come from.
    fn is_somebody(self) -> bool;

    /// Puts an IP header at `l3` for `len` bytes of `proto`; the sum of the pseudo header that the family's checksums cover.
    fn put_header<P: Patch>(packet: &mut P, l3: usize, src: Self, dst: Self, proto: u8, len: usize) -> Option<u64>;

    /// Bytes of that header.
    const HEADER: usize;
    /// Bytes of a packet that are quoted at most. More than "8 bytes" (RFC 792), so that what is in tunnels can be told; RFC 4443 wants all that fits, which no
    /// receiver needs.
    const QUOTED: usize;
    /// As it lies in the frame.
    const ETHER_TYPE: u16;
    const UNREACHABLE: [u8; 2];
    const TOO_BIG: [u8; 2];
    const EXCEEDED: [u8; 2];
}

impl Reason {
    /// Whoever sent the packet may be told.
    #[inline(always)]
    pub(crate) const fn is_told(self) -> bool {
        matches!(self, Self::NoBackend | Self::TtlExceeded | Self::TooBig)
    }
}

/// Tells the sender of the packet whose IP header is at `l3` why it ends here, if it may be told and the service wants it.
#[inline(always)]
pub(crate) fn tell<A: Answered, P: Patch, T: Tables>(packet: &mut P, tables: &T, l3: usize, cause: Cause) -> Outcome {
    let (service, reason) = (cause.service(), cause.reason());
    let may = may_tell::<A, P>(packet, l3);
    if may == Reason::Malformed as u32 {
        return Outcome::end(service, Reason::Malformed);
    }
    let silent = Outcome::end(service, reason);
    if may != 0 {
        return silent;
    }
    let (kind, told) = match reason {
        Reason::NoBackend => return rejected::<A, P, T>(packet, tables, l3, service),
        Reason::TtlExceeded => (A::EXCEEDED, Reason::TtlTold),
        _ => (A::TOO_BIG, Reason::TooBigTold),
    };
    if error::send::<A, P, T>(packet, tables, l3, kind, cause.mtu()) { Outcome::end(service, told) } else { silent }
}

/// 0: whoever sent the packet may be answered; else a [`Reason`], [`Reason::Malformed`] where there is no packet.
#[inline(never)]
fn may_tell<A: Answered, P: Packet>(packet: &P, l3: usize) -> u32 {
    let Some(ip) = A::outline(packet, l3) else { return Reason::Malformed as u32 };
    if ip.piece.later || !A::is_somebody(ip.src) || packet.at::<1>(0).is_none_or(|[first]| first & 1 != 0) {
        return Reason::Spoofed as u32;
    }
    0
}

/// A service without a backend, or a flow whose backend is dead.
#[inline(always)]
fn rejected<A: Answered, P: Patch, T: Tables>(packet: &mut P, tables: &T, l3: usize, id: u32) -> Outcome {
    let silent = Outcome::end(id, Reason::NoBackend);
    let Some(service) = tables.service(id) else { return silent };
    let flags = read!(service, ServiceInfo.flags as u32) as u16;
    if flags & ServiceFlags::PASS != 0 {
        return Outcome::end(id, Reason::HandedOver);
    }
    let reject = flags & ServiceFlags::REJECT != 0;
    let sent = if read!(service, ServiceInfo.proto as u8) == TCP {
        reset::send::<A, P>(packet, l3, reject, flags & ServiceFlags::RESET != 0)
    } else {
        reject && error::send::<A, P, T>(packet, tables, l3, A::UNREACHABLE, 0)
    };
    if sent { Outcome::end(id, Reason::Rejected) } else { silent }
}

impl Answered for V4 {
    const HEADER: usize = Ipv4Hdr::LEN;
    const QUOTED: usize = 128;
    const ETHER_TYPE: u16 = EtherType::Ipv4 as u16;
    const UNREACHABLE: [u8; 2] = [3, 3];
    const TOO_BIG: [u8; 2] = [3, 4];
    const EXCEEDED: [u8; 2] = [11, 0];

    #[inline(always)]
    fn is_somebody(self) -> bool {
        let [first, ..] = self.0.to_ne_bytes();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn put_header<P: Patch>(packet: &mut P, l3: usize, src: Self, dst: Self, proto: u8, len: usize) -> Option<u64> {
        let total = ((Ipv4Hdr::LEN + len) as u16).to_be();
        // Version and header length; then no identification, "don't fragment"; then TTL, protocol and the checksum.
        let first = 0x0045 | (total as u32) << 16;
        let second = 0x0040_u32 << 16;
        let third = TTL as u32 | (proto as u32) << 8;
        let check = !checksum::fold(first as u64 + second as u64 + third as u64 + src.0 as u64 + dst.0 as u64);
        let words = [first as u64 | (second as u64) << 32, (third | (check as u32) << 16) as u64 | (src.0 as u64) << 32];
        let put = packet.patch(l3, words[0].to_ne_bytes())
            && packet.patch(l3 + 8, words[1].to_ne_bytes())
            && packet.patch(l3 + 16, dst.0.to_ne_bytes());
        put.then_some(src.0 as u64 + dst.0 as u64 + (proto as u16).to_be() as u64 + (len as u16).to_be() as u64)
    }
}

impl Answered for V6 {
    const HEADER: usize = Ipv6Hdr::LEN;
    const QUOTED: usize = QUOTE;
    const ETHER_TYPE: u16 = EtherType::Ipv6 as u16;
    const UNREACHABLE: [u8; 2] = [1, 4];
    const TOO_BIG: [u8; 2] = [2, 0];
    const EXCEEDED: [u8; 2] = [3, 0];

    #[inline(always)]
    fn is_somebody(self) -> bool {
        let [first, ..] = self.0[0].to_ne_bytes();
        // Neither multicast, nor unspecified, nor loopback.
        first != 0xff && (self.0[0] != 0 || self.0[1] & 0xffff_ffff != 0)
    }

    #[inline(always)]
    fn put_header<P: Patch>(packet: &mut P, l3: usize, src: Self, dst: Self, proto: u8, len: usize) -> Option<u64> {
        let first = 0x60 | (((len as u16).to_be() as u64) << 32) | (proto as u64) << 48 | (TTL as u64) << 56;
        let put = packet.patch(l3, first.to_ne_bytes()) && packet.patch(l3 + 8, src.addr().0) && packet.patch(l3 + 24, dst.addr().0);
        put.then_some(src.sum::<false>() + dst.sum::<false>() + (proto as u16).to_be() as u64 + (len as u16).to_be() as u64)
    }
}
