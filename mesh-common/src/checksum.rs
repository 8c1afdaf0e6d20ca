//! The Internet checksum, updated without looking at what did not change.
//!
//! Ones'-complement sums don't depend on byte order (RFC 1071 section 2), so words are taken as they lie in memory.

/// What replacing `old` by `new` adds to the sum below a checksum: `~m + m'`.
#[inline(always)]
pub const fn replaced(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// A sum of 32-bit words brought down to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    fold_word((sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32)
}

/// The same of a sum that 32 bits hold. Each half is added to the other: what the lower one carries is what the upper one loses.
#[inline(always)]
pub const fn fold_word(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// "HC' = ~(~HC + ~m + m')" (RFC 1624 section 3); `delta` is the sum of all `~m + m'`.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u64) -> u16 {
    !fold(!checksum as u64 + delta)
}

/// The same for UDP, whose checksum may be absent: "If the computed checksum is zero, it is transmitted as all ones. An all zero transmitted
/// checksum value means that the transmitter generated no checksum" (RFC 768).
#[inline(always)]
pub const fn apply_udp(checksum: u16, delta: u64) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match apply(checksum, delta) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    fn from_scratch(words: &[u32]) -> u16 {
        let mut sum: u64 = 0;
        for word in words {
            sum += u64::from(word & 0xffff) + u64::from(word >> 16);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn update_equals_computing_from_scratch(words in prop::collection::vec(any::<u32>(), 2..12), new in any::<u32>(), at in any::<prop::sample::Index>()) {
            // A header that is not all zero never sums to zero, so the checksum's two zeros can't be mixed up.
            prop_assume!(words.iter().enumerate().any(|(i, w)| *w != 0 && i != at.index(words.len())));
            let mut changed: Vec<u32> = words.clone();
            let old = core::mem::replace(&mut changed[at.index(words.len())], new);
            prop_assert_eq!(apply(from_scratch(&words), replaced(old, new)), from_scratch(&changed));
        }

        #[test]
        fn a_sum_is_folded_with_all_that_it_carries(sum in any::<u64>(), edge in prop::sample::select(vec![0, 1, 0xffff, 0xffff_ffff, u64::MAX])) {
            for sum in [sum, edge, sum & edge, sum | edge] {
                let mut rest = sum;
                while rest > 0xffff {
                    rest = (rest & 0xffff) + (rest >> 16);
                }
                prop_assert_eq!(u64::from(fold(sum)), rest);
                if let Ok(word) = u32::try_from(sum) {
                    prop_assert_eq!(u64::from(fold_word(word)), rest);
                }
            }
        }

        #[test]
        fn udp_checksum_is_never_lost_nor_made_up(checksum in any::<u16>(), old in any::<u32>(), new in any::<u32>()) {
            prop_assert_eq!(apply_udp(checksum, replaced(old, new)) == 0, checksum == 0);
        }
    }
}
