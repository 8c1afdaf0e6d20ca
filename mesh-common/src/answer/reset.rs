//! A TCP RST for a packet that nobody takes (RFC 9293 section 3.5.2).

use network_types::tcp::TcpHdr;

use crate::{
    answer::Answered,
    checksum,
    header::{TCP, tcp},
    icmp::turn_around,
    packet::{u32_at, u64_at},
    patch::Patch,
};

/// The shortest frame that Ethernet knows, without its checksum.
const SHORTEST: usize = 60;

/// Turns the packet whose IP header is at `l3` into a RST to its sender: if `opening` for one that opens a connection, if `midst` or `opening` for all
/// others.
#[inline(never)]
pub(crate) fn send<A: Answered, P: Patch>(packet: &mut P, l3: usize, opening: bool, midst: bool) -> bool {
    turn::<A, P>(packet, l3, opening, midst).is_some()
}

#[inline(always)]
fn turn<A: Answered, P: Patch>(packet: &mut P, l3: usize, opening: bool, midst: bool) -> Option<()> {
    const ACK: u8 = tcp::ACK;
    let ip = A::outline(packet, l3)?;
    let header = packet.at::<{ TcpHdr::LEN }>(ip.l4)?;
    let (ports, numbers) = (u32_at::<0, _>(header), u64_at::<4, _>(header));
    let [data_offset, flags, ..] = u32_at::<12, _>(header).to_ne_bytes();
    let length = ip.end.checked_sub(ip.l4 + (data_offset >> 4) as usize * 4)?;
    let opens = flags & (tcp::SYN | ACK) == tcp::SYN;
    if flags & tcp::RST != 0 || !(opening || midst && !opens) {
        return None;
    }
    let (seq, ack) = (numbers as u32, (numbers >> 32) as u32);
    let (seq, ack, flags) = if flags & ACK != 0 {
        (ack, 0, tcp::RST)
    } else {
        let length = length as u32 + (flags & tcp::SYN != 0) as u32 + (flags & tcp::FIN != 0) as u32;
        (0, u32::from_be(seq).wrapping_add(length).to_be(), tcp::RST | ACK)
    };
    let l4 = ip.l3 + A::HEADER;
    let end = l4 + TcpHdr::LEN;
    let padded = if end < SHORTEST { SHORTEST } else { end };
    if !packet.resize(padded) {
        return None;
    }
    turn_around(packet)?;
    let pseudo = A::put_header(packet, ip.l3, ip.dst, ip.src, TCP, TcpHdr::LEN)?;
    let ports = ports.rotate_left(16);
    let offset_flags = u32::from_ne_bytes([(TcpHdr::LEN as u8 / 4) << 4, flags, 0, 0]);
    let check = !checksum::fold(pseudo + ports as u64 + seq as u64 + ack as u64 + offset_flags as u64);
    let put = packet.patch(l4, (ports as u64 | (seq as u64) << 32).to_ne_bytes())
        && packet.patch(l4 + 8, (ack as u64 | (offset_flags as u64) << 32).to_ne_bytes())
        && packet.patch(l4 + 16, (check as u32).to_ne_bytes());
    // Only IPv4 frames without a tag, or with one, are shorter than the shortest: by six bytes or two.
    let padded = (padded == end || packet.patch(end, [0; 2])) && (padded < end + 6 || packet.patch(end + 2, [0; 4]));
    (put && padded).then_some(())
}
