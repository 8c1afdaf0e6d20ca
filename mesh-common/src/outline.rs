//! An IP header and all that follows it up to the transport, of any packet: read for those that are rare, where the flow's header view has given up.

use core::mem::offset_of;

use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};

use crate::{
    flow::{Address, V4, V6},
    packet::{Packet, u16_at, u32_at, u64_at},
    shared::{blurred, opaque},
};

/// IPv6 extension headers that are looked behind.
const EXTENSIONS: usize = 6;
/// Offsets in a frame lie below this.
const OFFSETS: i32 = 0x3fff;

/// What an IP header says, and where the parts are, as offsets in the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline<A> {
    pub src: A,
    pub dst: A,
    /// What follows the IP header and its extensions.
    pub proto: u8,
    pub ttl: u8,
    pub l3: usize,
    pub l4: usize,
    /// End of the packet, by its own account.
    pub end: usize,
    pub piece: Piece,
    /// Offset of the header that says so: the IPv4 header, or the IPv6 fragment header if there is one.
    pub fragment: usize,
}

/// Which part of its packet a fragment is; of a whole packet none of it is set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Piece {
    /// Not the first part, so without a transport header.
    pub later: bool,
    pub more: bool,
}

impl Piece {
    /// It is a part, and not all.
    pub(crate) const fn is_part(self) -> bool {
        self.later || self.more
    }
}

/// Families whose headers can be outlined.
pub(crate) trait Outlined: Address {
    const ICMP: u8;

    /// The IP header at `l3`; `None` where it is not all there, or none.
    fn outline<P: Packet>(packet: &P, l3: usize) -> Option<Outline<Self>>;
}

impl Outlined for V4 {
    const ICMP: u8 = IpProto::Icmp as u8;

    #[inline(always)]
    fn outline<P: Packet>(packet: &P, l3: usize) -> Option<Outline<Self>> {
        const MORE: u16 = 0x2000_u16.to_be();
        const OFFSET: u16 = 0x1fff_u16.to_be();
        let ip = packet.at::<{ Ipv4Hdr::LEN }>(l3)?;
        let [version_ihl, ..] = *ip;
        let ihl = (version_ihl & 0xf) as usize * 4;
        if version_ihl >> 4 != 4 || ihl < Ipv4Hdr::LEN {
            return None;
        }
        let frags = u16_at::<{ offset_of!(Ipv4Hdr, frags) }, _>(ip);
        let piece = Piece { later: frags & OFFSET != 0, more: frags & MORE != 0 };
        Some(Outline {
            src: V4(u32_at::<{ offset_of!(Ipv4Hdr, src_addr) }, _>(ip)),
            dst: V4(u32_at::<{ offset_of!(Ipv4Hdr, dst_addr) }, _>(ip)),
            proto: ip[offset_of!(Ipv4Hdr, proto)],
            ttl: ip[offset_of!(Ipv4Hdr, ttl)],
            l3,
            l4: l3 + ihl,
            end: l3 + u16::from_be(u16_at::<{ offset_of!(Ipv4Hdr, tot_len) }, _>(ip)) as usize,
            piece,
            fragment: l3,
        })
    }
}

impl Outlined for V6 {
    const ICMP: u8 = IpProto::Ipv6Icmp as u8;

    #[inline(always)]
    fn outline<P: Packet>(packet: &P, l3: usize) -> Option<Outline<Self>> {
        const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
        const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
        let ip = packet.at::<{ Ipv6Hdr::LEN }>(l3)?;
        if ip[0] >> 4 != 6 {
            return None;
        }
        let (src, dst) =
            (V6([u64_at::<SRC, _>(ip), u64_at::<{ SRC + 8 }, _>(ip)]), V6([u64_at::<DST, _>(ip), u64_at::<{ DST + 8 }, _>(ip)]));
        let ttl = ip[offset_of!(Ipv6Hdr, hop_limit)];
        let end = l3 + Ipv6Hdr::LEN + u16::from_be(u16_at::<{ offset_of!(Ipv6Hdr, payload_len) }, _>(ip)) as usize;
        let chain = chain(packet, l3 + Ipv6Hdr::LEN, ip[offset_of!(Ipv6Hdr, next_hdr)], src.0[0]);
        if chain == 0 {
            return None;
        }
        // One case to the verifier, however many headers there were.
        let chain = opaque(chain, src.0[0]);
        let l4 = blurred::<OFFSETS>(chain, dst.0[0]);
        let piece = Piece { later: chain >> 40 & 1 != 0, more: chain >> 41 & 1 != 0 };
        let fragment = blurred::<OFFSETS>(chain >> 16, dst.0[1]);
        Some(Outline { src, dst, proto: (chain >> 32) as u8, ttl, l3, l4, end, piece, fragment })
    }
}

/// Follows extension headers (RFC 8200 section 4) from `offset` on. What is behind a later fragment's header is no header any more. One word: where
/// they end, 16 bits; where the fragment header stands, as many; what follows; whether the packet is a later fragment; whether there are
/// more. 0 where the frame ends before they do.
#[inline(never)]
fn chain<P: Packet>(packet: &P, mut offset: usize, mut next: u8, noise: u64) -> u64 {
    const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
    const ROUTING: u8 = IpProto::Ipv6Route as u8;
    const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
    const DEST_OPTIONS: u8 = IpProto::Ipv6Opts as u8;
    const AUTHENTICATION: u8 = IpProto::Ah as u8;
    // What is said of the fragment, as it stands in the answer.
    let mut piece = 0;
    for _ in 0..EXTENSIONS {
        if next == HOP_BY_HOP || next == ROUTING || next == DEST_OPTIONS || next == AUTHENTICATION {
            let Some(&[after, length]) = packet.at::<2>(offset) else { return 0 };
            // RFC 4302 section 2.2: that header alone is counted in words of four bytes, less two.
            offset += if next == AUTHENTICATION { (length as usize + 2) * 4 } else { (length as usize + 1) * 8 };
            next = after;
        } else if next == FRAGMENT {
            let Some(header) = packet.at::<8>(offset) else { return 0 };
            let place = u16::from_be(u16_at::<2, _>(header));
            let (later, more) = (place >> 3 != 0, place & 1 != 0);
            piece = (offset as u64 & 0xffff) << 16 | (later as u64) << 40 | (more as u64) << 41;
            next = header[0];
            offset += 8;
            if later {
                break;
            }
        } else {
            break;
        }
        // One case to the verifier, whichever header it was.
        (offset, next, piece) = (blurred::<OFFSETS>(offset as u64, noise), opaque(next as u64, noise) as u8, opaque(piece, noise));
    }
    offset as u64 & 0xffff | (next as u64) << 32 | piece
}
