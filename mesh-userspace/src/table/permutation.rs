use std::net::{IpAddr, SocketAddr};

use crate::model::BackendId;

/// A backend's order of preference among the slots of a table: a keyed bijection on [0, 2^`log2_slots`).
///
/// Add, then three times: multiply by an odd number, fold the upper half onto the lower. Each step is invertible, so both directions cost the
/// same few instructions and no list of preferences is ever stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permutation {
    offset: u32,
    multiply: [u32; 3],
    invert: [u32; 3],
    mask: u32,
    fold: u32,
}

impl Permutation {
    /// `log2_slots`: at most 31. `seed` is the table's: secret, and the same on every node that serves the table.
    pub fn new(id: &BackendId, seed: u64, log2_slots: u8) -> Self {
        let mut state = digest(id, seed);
        let mut next = || {
            state = state.wrapping_add(GOLDEN);
            mix(state) as u32
        };
        let offset = next();
        let multiply = [next() | 1, next() | 1, next() | 1];
        let bits = u32::from(log2_slots.min(31));
        Self { offset, multiply, invert: multiply.map(inverse), mask: (1 << bits) - 1, fold: bits.div_ceil(2) }
    }

    /// The slot of this rank; 0 is the favourite.
    #[inline]
    pub fn slot(&self, rank: u32) -> u32 {
        let [a, b, c] = self.multiply;
        let x = self.folded(rank.wrapping_add(self.offset).wrapping_mul(a) & self.mask);
        let x = self.folded(x.wrapping_mul(b) & self.mask);
        self.folded(x.wrapping_mul(c) & self.mask)
    }

    /// The rank of this slot.
    #[inline]
    pub fn rank(&self, slot: u32) -> u32 {
        let [a, b, c] = self.invert;
        let x = self.folded(slot & self.mask).wrapping_mul(c) & self.mask;
        let x = self.folded(x).wrapping_mul(b) & self.mask;
        self.folded(x).wrapping_mul(a).wrapping_sub(self.offset) & self.mask
    }

    /// Its own inverse, because the shift is at least half of the width.
    #[inline]
    fn folded(&self, x: u32) -> u32 {
        x ^ x >> self.fold
    }
}

/// Inverse of an odd number modulo 2^32: each Newton step doubles the number of right bits, and an odd number is its own inverse modulo 8.
fn inverse(odd: u32) -> u32 {
    (0..4).fold(odd, |x, _| x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x))))
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Everything that tells one id from another, in an order that is fixed for good: tables of all nodes and versions depend on it.
fn digest(BackendId(at): &BackendId, seed: u64) -> u64 {
    let address = match at.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let (family, scope, flow) = match at {
        SocketAddr::V4(_) => (4, 0, 0),
        SocketAddr::V6(v6) => (6, v6.scope_id(), v6.flowinfo()),
    };
    let words = [(address >> 64) as u64, address as u64, u64::from(at.port()) << 8 | family, u64::from(scope) << 32 | u64::from(flow)];
    words.iter().fold(mix(seed ^ GOLDEN), |h, w| mix(h.wrapping_add(GOLDEN) ^ mix(w.wrapping_add(GOLDEN))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::id;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_slot_has_one_rank(backend in 0usize..1000, seed: u64, log2 in 0u8..=12) {
            let p = Permutation::new(&id(backend), seed, log2);
            let mut seen = vec![false; 1 << log2];
            for rank in 0..1u32 << log2 {
                let slot = p.slot(rank);
                prop_assert!(!std::mem::replace(&mut seen[slot as usize], true), "slot {slot} twice");
                prop_assert_eq!(p.rank(slot), rank);
            }
        }

        #[test]
        fn the_inverse_holds_at_every_width(backend in 0usize..1000, seed: u64, log2 in 13u8..=31, rank: u32) {
            let p = Permutation::new(&id(backend), seed, log2);
            let rank = rank & ((1 << log2) - 1);
            prop_assert_eq!(p.rank(p.slot(rank)), rank);
        }
    }

    #[test]
    fn ids_that_differ_in_any_part_have_different_orders() {
        let ids =
            ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "[::10.0.0.1]:80", "[::ffff:10.0.0.1]:80", "[fe80::1%1]:80", "[fe80::1%2]:80"];
        let first = |text: &&str| {
            let p = Permutation::new(&BackendId(text.parse().unwrap()), 7, 20);
            [0, 1, 2].map(|rank| p.slot(rank))
        };
        let mut orders: Vec<_> = ids.iter().map(first).collect();
        orders.sort_unstable();
        orders.dedup();
        assert_eq!(orders.len(), ids.len());
    }
}
