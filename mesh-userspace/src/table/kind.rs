//! Other ways to make a table, for those who ask for them. Each is made anew from what everyone can take right now: exact, independent of order and
//! history, and without the small number of moves that the base and its overlay are made for.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{BaseTable, NONE, Permutation, Table, overlay, overlay::normal, quotas, secondary};

/// How flows are spread over backends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Scheduler {
    /// Stable matching with exact quotas: the fewest moves.
    #[default]
    Consistent,
    /// Maglev's table: sorted and weighted.
    Maglev,
    /// A hash ring with virtual nodes.
    Ring,
    /// Each slot draws its owner by weight.
    Random,
    /// Slots dealt out in turn, evenly mixed.
    RoundRobin,
}

/// Points on the ring of a backend of average weight.
const VIRTUAL_NODES: u128 = 160;
const RING_BITS: u8 = 31;

/// The table of this kind for what each member can take right now; `effective` as for [`overlay()`].
pub fn scheduled(base: &BaseTable, kind: Scheduler, effective: &[u32]) -> Table {
    if kind == Scheduler::Consistent {
        return overlay(base, effective);
    }
    let effective = normal(base, effective);
    let owner = match kind {
        _ if effective.iter().all(|w| *w == 0) => vec![NONE; base.owner().len()],
        Scheduler::Maglev => maglev(base, &effective),
        Scheduler::Ring => ring(base, &effective),
        Scheduler::RoundRobin => round_robin(base, &effective),
        Scheduler::Consistent | Scheduler::Random => secondary::race(base, &vec![NONE; base.owner().len()], &effective),
    };
    let secondary = secondary::race(base, &owner, &effective);
    Table { log2_slots: base.log2_slots(), owner, secondary }
}

/// Round by round every member saves up its weight, and takes the next free slot of its preference for the largest weight.
fn maglev(base: &BaseTable, effective: &[u32]) -> Vec<u16> {
    let slots = base.owner().len();
    let mut owner = vec![NONE; slots];
    let price = u64::from(effective.iter().copied().max().unwrap_or(1).max(1));
    let mut saved = vec![0u64; effective.len()];
    let mut rank = vec![0u32; effective.len()];
    let mut vacant = slots;
    loop {
        for (i, &weight) in effective.iter().enumerate() {
            saved[i] += u64::from(weight);
            if saved[i] < price {
                continue;
            }
            saved[i] -= price;
            let order = base.order(i);
            while owner[order.slot(rank[i]) as usize] != NONE {
                rank[i] += 1;
            }
            owner[order.slot(rank[i]) as usize] = i as u16;
            vacant -= 1;
            if vacant == 0 {
                return owner;
            }
        }
    }
}

/// Each slot belongs to the first point at or after its beginning.
fn ring(base: &BaseTable, effective: &[u32]) -> Vec<u16> {
    let all: u128 = effective.iter().map(|&w| u128::from(w)).sum();
    let live = effective.iter().filter(|w| **w > 0).count() as u128;
    let mut points = Vec::new();
    for (i, &weight) in (0..NONE).zip(effective).filter(|(_, w)| **w > 0) {
        let count = (VIRTUAL_NODES * live * u128::from(weight)).div_ceil(all.max(1)).clamp(1, 1 << 20) as u32;
        let order = Permutation::new(&base.members()[usize::from(i)].id, base.seed(), RING_BITS);
        points.extend((0..count).map(|k| (order.slot(k), i)));
    }
    points.sort_unstable();
    let at = |slot: usize| (slot as u32) << (RING_BITS - base.log2_slots());
    let owner = |slot| points.get(points.partition_point(|(point, _)| *point < at(slot))).or(points.first()).map_or(NONE, |(_, i)| *i);
    (0..base.owner().len()).map(owner).collect()
}

/// Exact quotas, each member's slots at even distances.
fn round_robin(base: &BaseTable, effective: &[u32]) -> Vec<u16> {
    let slots = base.owner().len() as u32;
    let quotas = quotas(effective, slots);
    // The k-th of q slots is due at (2k + 1) / 2q of the way; whoever is due first is next.
    let due = |k: u32, quota: u32| ((2 * u128::from(k) + 1) << 64) / (2 * u128::from(quota));
    let mut turns: BinaryHeap<_> = (0..NONE).zip(&quotas).filter(|(_, q)| **q > 0).map(|(i, &q)| Reverse((due(0, q), i, 0))).collect();
    let mut owner = Vec::with_capacity(slots as usize);
    while let Some(Reverse((_, i, k))) = turns.pop() {
        owner.push(i);
        let quota = quotas[usize::from(i)];
        if k + 1 < quota {
            turns.push(Reverse((due(k + 1, quota), i, k + 1)));
        }
    }
    owner
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::table::tests::{members, table_of};

    const KINDS: [Scheduler; 5] = [Scheduler::Consistent, Scheduler::Maglev, Scheduler::Ring, Scheduler::Random, Scheduler::RoundRobin];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the kind: the order of members and the unit of weights make no difference, who has no weight has no slot, and nobody is missing.
        #[test]
        fn every_kind_is_a_function_of_members_and_weights(weights in vec(0u16..60, 1..30), out in vec(any::<bool>(), 30), unit in 1u32..999, seed: u64) {
            let base = table_of(&weights, 10, seed);
            let mut reversed = members(&weights);
            reversed.reverse();
            let again = BaseTable::build(&reversed, 10, seed).unwrap();
            let effective: Vec<u32> = base.weights().iter().zip(&out).map(|(w, out)| if *out { 0 } else { *w }).collect();
            let scaled: Vec<u32> = effective.iter().map(|w| w * unit).collect();
            for kind in KINDS {
                let table = scheduled(&base, kind, &effective);
                prop_assert_eq!(&table, &scheduled(&again, kind, &scaled), "{:?}", kind);
                prop_assert_eq!(table.owner.len(), 1024);
                let counts = table.counts(weights.len());
                prop_assert!(counts.iter().zip(&effective).all(|(c, w)| *w > 0 || *c == 0), "{:?}", kind);
                prop_assert_eq!(counts.iter().sum::<u32>(), if effective.iter().any(|w| *w > 0) { 1024 } else { 0 });
                prop_assert!(table.owner.iter().zip(&table.secondary).all(|(o, s)| *o == NONE || o != s), "{:?}", kind);
            }
        }

        #[test]
        fn dealt_out_slots_are_exact_and_evenly_mixed(weights in vec(1u16..50, 2..20), seed: u64) {
            let base = table_of(&weights, 10, seed);
            let table = scheduled(&base, Scheduler::RoundRobin, &base.weights());
            let quotas = quotas(&base.weights(), 1024);
            prop_assert_eq!(table.counts(weights.len()), quotas.clone());
            for (i, quota) in quotas.iter().enumerate().filter(|(_, q)| **q > 0) {
                let first_half = table.owner[..512].iter().filter(|o| usize::from(**o) == i).count() as u32;
                prop_assert!(first_half.abs_diff(quota / 2) <= 2, "{} of {}", first_half, quota);
            }
        }

        #[test]
        fn maglev_is_nearly_exact(weights in vec(1u16..5, 2..20), seed: u64) {
            let base = table_of(&weights, 12, seed);
            let counts = scheduled(&base, Scheduler::Maglev, &base.weights()).counts(weights.len());
            let fair = quotas(&base.weights(), 4096);
            prop_assert!(counts.iter().zip(&fair).all(|(c, f)| c.abs_diff(*f) <= 2), "{:?} {:?}", counts, fair);
        }
    }

    #[test]
    fn shares_of_the_drawn_kinds_are_about_right() {
        let base = table_of(&[1, 2, 3, 4], 14, 9);
        for kind in [Scheduler::Ring, Scheduler::Random] {
            let counts = scheduled(&base, kind, &base.weights()).counts(4);
            for (count, weight) in counts.iter().zip(1..) {
                let fair = 16_384.0 * f64::from(weight) / 10.0;
                assert!((f64::from(*count) / fair - 1.0).abs() < 0.3, "{kind:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_backend_that_leaves_a_ring_or_a_draw_takes_only_its_own_slots_along() {
        let base = table_of(&[1; 20], 12, 4);
        let mut one_down = base.weights();
        one_down[7] = 0;
        for kind in [Scheduler::Random, Scheduler::Ring] {
            let (before, after) = (scheduled(&base, kind, &base.weights()), scheduled(&base, kind, &one_down));
            let strays = before.owner.iter().zip(&after.owner).filter(|(a, b)| a != b && **a != 7).count();
            // The points of the ring that remain are more by a twentieth each, so that a little moves.
            assert!(strays * 100 <= 4096 * if kind == Scheduler::Random { 0 } else { 12 }, "{kind:?}: {strays}");
        }
    }

    /// Nodes of two versions that serve one VIP must agree: see `golden_tables`.
    #[test]
    fn golden_kinds() {
        let base = table_of(&[1, 2, 3, 40, 7], 10, 0x6d65_7368);
        let prints = KINDS.map(|kind| scheduled(&base, kind, &base.weights()).fingerprint());
        assert_eq!(prints, GOLDEN, "{prints:#x?}");
    }

    const GOLDEN: [u64; 5] =
        [0x8199_6638_a956_4890, 0x3d50_f279_ef98_5024, 0x24bb_238e_f19e_f0e3, 0xf8cf_4936_8e34_2a87, 0x44fb_cedd_b861_9029];
}
