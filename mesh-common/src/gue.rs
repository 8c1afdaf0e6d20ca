//! GUE with a list of who else may have the packet's flow (variant 0, draft-ietf-intarea-gue-09 sections 3 and 3.4), beside the bare variant 1.
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0|C|  Hlen   | protocol      | flags                         |
//! | kind of private data ("mh")   | next          | count         |
//! | addresses of the outer header's family, `count` of them ...   |
//! ```
//! Hlen counts the 32-bit words after the first. `next` is how many of the list have had the packet; each has one more than the one before, so that no
//! packet is passed on for ever. Other ends (Linux's own among them) skip private data.

use crate::abi::Family;

/// Kind of private data that is a list: what follows is `next`, `count` and addresses.
pub const LIST: [u8; 2] = *b"mh";
/// Where in the list's word `next` stands, counted from the UDP header's end.
pub const NEXT: u32 = 6;

/// Bytes in front of the list.
const FIXED: u32 = 8;
const IPIP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
/// Bits of the first byte.
const VARIANT: u8 = 0xc0;
const CONTROL: u8 = 0x20;
const WORDS: u8 = 0x1f;

/// Bytes of GUE with a list of one address.
#[inline(always)]
pub const fn room(v6: bool) -> usize {
    FIXED as usize + size_of_address(v6) as usize
}

const fn size_of_address(v6: bool) -> u32 {
    if v6 { 16 } else { 4 }
}

/// The first eight bytes of GUE with a list of one address of the outer header's family, as they lie in memory.
#[inline(always)]
pub const fn head(inner: Family, v6: bool) -> u64 {
    let words = 1 + size_of_address(v6) as u8 / 4;
    let protocol = match inner {
        Family::V4 => IPIP,
        Family::V6 => IPV6_IN_IP,
    };
    u64::from_ne_bytes([words, protocol, 0, 0, LIST[0], LIST[1], 0, 1])
}

/// A packet that can be read piece by piece.
pub trait Bytes {
    /// `N` bytes at `offset`; `None` where the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What stands between the UDP header and the packet inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its bytes; 0 = variant 1.
    pub len: u32,
    /// Number of the packet inside (4 or 41); 0 = its own first bits say it.
    pub protocol: u8,
    pub hop: Hop,
}

/// Who else may have the flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Nothing is said of that.
    Unsaid,
    /// The one at this offset, counted from the UDP header's end; `number` have had the packet before.
    Next { at: u32, number: u8 },
    /// All of them have had it.
    UsedUp,
}

/// Reads what begins at `at`, behind the UDP header of an outer packet of this family. `None`: it is malformed, or no data.
#[inline(always)]
pub fn read<B: Bytes>(bytes: &B, at: u32, v6: bool) -> Option<Head> {
    let [first, protocol, flags, more] = bytes.load::<4>(at)?;
    match first & VARIANT {
        0x00 => {}
        0x40 => return Some(Head { len: 0, protocol: 0, hop: Hop::Unsaid }),
        _ => return None,
    }
    // A flag that is not known may say that what follows is not what it seems to be (section 3.3).
    if first & CONTROL != 0 || flags != 0 || more != 0 || (protocol != IPIP && protocol != IPV6_IN_IP) {
        return None;
    }
    let words = (first & WORDS) as u32;
    let hop = if words == 0 { Hop::Unsaid } else { list(bytes.load::<4>(at + 4)?, words, v6)? };
    Some(Head { len: 4 + words * 4, protocol, hop })
}

#[inline(always)]
fn list(word: [u8; 4], words: u32, v6: bool) -> Option<Hop> {
    let [a, b, number, count] = word;
    if [a, b] != LIST {
        return Some(Hop::Unsaid);
    }
    let size = size_of_address(v6);
    if count == 0 || number > count || words != 1 + count as u32 * size / 4 {
        return None;
    }
    Some(if number < count { Hop::Next { at: FIXED + number as u32 * size, number } } else { Hop::UsedUp })
}

impl Bytes for &[u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(bytes: &[u8], v6: bool) -> Option<Head> {
        read(&bytes, 0, v6)
    }

    #[test]
    fn what_is_written_is_read() {
        for v6 in [false, true] {
            for (inner, protocol) in [(Family::V4, 4), (Family::V6, 41)] {
                let mut bytes = head(inner, v6).to_ne_bytes().to_vec();
                bytes.resize(room(v6), 0xaa);
                let len = room(v6) as u32;
                assert_eq!(hop(&bytes, v6), Some(Head { len, protocol, hop: Hop::Next { at: 8, number: 0 } }));
                bytes[NEXT as usize] += 1;
                assert_eq!(hop(&bytes, v6), Some(Head { len, protocol, hop: Hop::UsedUp }));
                // Of the other family it has another length.
                assert_eq!(hop(&bytes, !v6), None);
            }
        }
    }

    #[test]
    fn what_is_no_list_is_skipped_or_refused() {
        let list = [3, 4, 0, 0, b'm', b'h', 0, 2, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(hop(&list, false).map(|h| h.hop), Some(Hop::Next { at: 8, number: 0 }));
        let with = |at: usize, value: u8| {
            let mut bytes = list;
            bytes[at] = value;
            hop(&bytes, false)
        };
        assert_eq!(with(6, 1).map(|h| h.hop), Some(Hop::Next { at: 12, number: 1 }));
        assert_eq!(with(6, 2).map(|h| h.hop), Some(Hop::UsedUp));
        assert_eq!(with(4, 0).map(|h| (h.len, h.hop)), Some((16, Hop::Unsaid)));
        assert_eq!(with(0, 0).map(|h| (h.len, h.hop)), Some((4, Hop::Unsaid)));
        // Beyond the count, none, one too many, a word too few, control, flags, no IP inside, a variant that is none.
        for (at, value) in [(6, 3), (7, 0), (7, 3), (0, 2), (0, 0x23), (2, 1), (3, 1), (1, 6), (0, 0x83), (0, 0xc3)] {
            assert_eq!(with(at, value), None, "byte {at} = {value}");
        }
        for variant_1 in [0x45, 0x60] {
            assert_eq!(with(0, variant_1), Some(Head { len: 0, protocol: 0, hop: Hop::Unsaid }));
        }
        for length in 0..4 {
            assert_eq!(hop(&list[..length], false), None);
        }
        assert_eq!(hop(&list[..7], false), None);
    }
}
