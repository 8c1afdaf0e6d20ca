//! QUIC packets whose connection id says which backend they are for (QUIC-LB, draft-ietf-quic-load-balancers, server ids in the clear): they go there wherever
//! they come from, and whatever became of their slot, so a connection outlives changes of its client's address and of the table.
//!
//! A service that does not want it pays for none of it: its flags say so. What a client has chosen itself is no server id: packets that begin a connection,
//! and all that can't be told from them, go the way of any datagram.

use core::mem::offset_of;

use network_types::udp::UdpHdr;

use crate::{
    abi::{QUIC_ID_MOST, ServiceFlags, SlotWord, Vip, quic_key},
    nat::Opening,
    packet::{Packet, u16_at, u32_at},
    put, read,
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

/// The header is long (RFC 8999 section 5.1): it says how long the connection id is.
const LONG: u8 = 0x80;
/// RFC 9000 section 17.2 and RFC 9369 section 3.2: of long headers only the handshake's has an id that the server has chosen, and is sent by clients.
const TYPE: u8 = 0x30;
const V1: u32 = 1_u32.to_be();
const V1_HANDSHAKE: u8 = 0x20;
const V2: u32 = 0x6b33_43cf_u32.to_be();
const V2_HANDSHAKE: u8 = 0x30;
/// First octet of a connection id: the server knows of no ids ("unroutable" in the draft).
const NO_ID: u8 = 0xe0;
/// Octets that are read of it. Each packet has more of them, or of what is encrypted behind them (RFC 9001 section 5.4.2).
const READ: usize = 1 + QUIC_ID_MOST as usize;

/// Notes in [`Opening`] which backend the datagram at `l4` names: it may be suspected or about to leave, but not dead or gone.
#[cold]
#[inline(never)]
pub(crate) fn note<P: Packet, T: Tables>(packet: &P, tables: &T, vip: Shared<'_, Vip>, l4: usize) {
    let Some(opening) = tables.opening() else { return };
    put!(opening, Opening.named as u32, SlotWord::NONE as u32);
    let length = (read!(vip, Vip.flags as u16) >> ServiceFlags::QUIC_SHIFT) as u8 & 7;
    let Some(id) = server_id(packet, l4, length) else { return };
    let index = tables.quic(quic_key(read!(vip, Vip.service as u32), length, id));
    if let Some(backend) = Candidate::at(tables, read!(vip, Vip.backend_base as u32), index as u16)
        && backend.state().keeps_old()
    {
        put!(opening, Opening.named as u32, index & SlotWord::NONE as u32);
    }
}

/// Nobody is named: a packet in fragments is not QUIC's (RFC 9000 section 14), and has no room for more on the stack.
#[inline(always)]
pub(crate) fn forget<T: Tables>(tables: &T) {
    if let Some(opening) = tables.opening() {
        put!(opening, Opening.named as u32, SlotWord::NONE as u32);
    }
}

/// `backend`, unless another one was noted for a packet to a service that wants so (`wanted`: [`ServiceFlags`]): then [`SlotWord::NONE`].
#[inline(always)]
pub(crate) fn unless_another<T: Tables>(tables: &T, wanted: u16, backend: u16) -> u16 {
    if wanted & ServiceFlags::QUIC == 0 {
        return backend;
    }
    match tables.opening().map(|opening| read!(opening, Opening.named as u32) as u16) {
        Some(named) if named != SlotWord::NONE && named != backend => SlotWord::NONE,
        _ => backend,
    }
}

/// The server id of `length` bytes in the connection id of the datagram at `l4`, if a server has chosen that.
#[inline(always)]
fn server_id<P: Packet>(packet: &P, l4: usize, length: u8) -> Option<u32> {
    let head = packet.at::<{ UdpHdr::LEN + 1 }>(l4)?;
    let end = u16::from_be(u16_at::<{ offset_of!(UdpHdr, len) }, _>(head)) as usize;
    let first = head[UdpHdr::LEN];
    let at = if first & LONG == 0 {
        UdpHdr::LEN + 1
    } else {
        let long = packet.at::<6>(l4 + UdpHdr::LEN)?;
        let chosen_by_server = match u32_at::<1, _>(long) {
            V1 => first & TYPE == V1_HANDSHAKE,
            V2 => first & TYPE == V2_HANDSHAKE,
            _ => false,
        };
        if !chosen_by_server || long[5] <= length {
            return None;
        }
        UdpHdr::LEN + 6
    };
    if end < at + READ || length == 0 || length > QUIC_ID_MOST {
        return None;
    }
    let id = packet.at::<READ>(l4 + at)?;
    (id[0] & NO_ID != NO_ID).then(|| u32::from_be(u32_at::<1, _>(id)) >> (8 * (QUIC_ID_MOST - length) as u32))
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;
    use crate::host::Frame;

    fn read(mut bytes: Vec<u8>, length: u8) -> Option<u32> {
        server_id(&Frame::new(&mut bytes, 0), 0, length)
    }

    /// A UDP header and these bytes.
    fn datagram(bytes: &[u8]) -> Vec<u8> {
        let mut all = vec![0; 4];
        all.extend_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
        all.extend_from_slice(&[0; 2]);
        all.extend_from_slice(bytes);
        all
    }

    #[test]
    fn the_id_is_found_where_a_server_has_chosen_it() {
        let short = [0x40, 0x05, 1, 2, 3, 4, 9, 9];
        assert_eq!(read(datagram(&short), 1), Some(1));
        assert_eq!(read(datagram(&short), 2), Some(0x0102));
        assert_eq!(read(datagram(&short), 3), Some(0x01_0203));
        assert_eq!(read(datagram(&short), 4), Some(0x0102_0304));
        assert_eq!(read(datagram(&short), 0), None);
        assert_eq!(read(datagram(&short), 5), None);
        let long = |first: u8, version: u32, length: u8| {
            let mut bytes = vec![first];
            bytes.extend_from_slice(&version.to_be_bytes());
            bytes.extend_from_slice(&[length, 0x05, 1, 2, 3, 4, 9, 9, 9]);
            datagram(&bytes)
        };
        // Initial, 0-RTT, Handshake, Retry.
        for (first, v1, v2) in [(0xc0, None, None), (0xd0, None, None), (0xe0, Some(0x0102), None), (0xf0, None, Some(0x0102))] {
            assert_eq!(read(long(first, 1, 8), 2), v1, "{first:x}");
            assert_eq!(read(long(first, 0x6b33_43cf, 8), 2), v2, "{first:x}");
            assert_eq!(read(long(first, 0, 8), 2), None);
            assert_eq!(read(long(first, 7, 8), 2), None);
        }
        // The connection id has no room for a server id.
        assert_eq!(read(long(0xe0, 1, 2), 2), None);
        assert_eq!(read(long(0xe0, 1, 3), 2), Some(0x0102));
    }

    #[test]
    fn an_id_that_is_none_and_what_is_cut_short_name_nobody() {
        assert_eq!(read(datagram(&[0x40, 0xe5, 1, 2, 3, 4]), 1), None);
        for short in [&[][..], &[0x40], &[0x40, 5], &[0x40, 5, 1], &[0x40, 5, 1, 2, 3]] {
            assert_eq!(read(datagram(short), 1), None);
        }
        let long = [0xe0, 0, 0, 0, 1, 8, 5, 1, 2, 3, 4];
        for end in 0..long.len() {
            assert_eq!(read(datagram(&long[..end]), 1), None, "{end}");
        }
        assert_eq!(read(datagram(&long), 1), Some(1));
        // What lies behind the datagram is not of it.
        let mut padded = vec![0, 0, 0, 0, 0, 8 + 5, 0, 0];
        padded.extend_from_slice(&[0x40, 5, 1, 2, 3, 4, 0, 0]);
        assert_eq!(read(padded, 1), None);
    }
}
