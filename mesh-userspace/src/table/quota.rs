use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// How many of `slots` slots each weight gets: the method of Webster and Sainte-Lague, with at least one slot for every weight above 0.
///
/// Slots are handed out one by one, the next one to whom weight / (2 x slots so far + 1) is largest; a first slot goes before all others. Ties go
/// to the larger weight, then to the earlier index. As a divisor method it never takes a slot from a member because another one left, or because
/// the table grew. The sum is `slots`, unless all weights are 0.
pub fn quotas(weights: &[u32], slots: u32) -> Vec<u32> {
    let mut quota = rounded(weights, slots);
    let sum: u64 = quota.iter().map(|&q| u64::from(q)).sum();
    match sum.cmp(&u64::from(slots)) {
        Ordering::Less => hand_out(weights, &mut quota, u64::from(slots) - sum),
        Ordering::Greater => take_back(weights, &mut quota, sum - u64::from(slots)),
        Ordering::Equal => {}
    }
    quota
}

/// All slots that are worth more than the exact price W / M of a slot, times two to stay whole: near the result, and a prefix of the order of
/// hand-out, so that what remains is to walk that order from here.
fn rounded(weights: &[u32], slots: u32) -> Vec<u32> {
    let total: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    let of = |&w: &u32| {
        if w == 0 {
            return 0;
        }
        let above = (2 * u128::from(slots) * u128::from(w)).saturating_sub(total);
        above.div_ceil(2 * total).max(1) as u32
    };
    weights.iter().map(of).collect()
}

fn hand_out(weights: &[u32], quota: &mut [u32], mut missing: u64) {
    let takers = weights.iter().enumerate().filter(|(_, w)| **w > 0);
    let mut next: BinaryHeap<Turn> = takers.map(|(i, &w)| Turn::new(w, quota[i], i)).collect();
    while missing > 0 {
        let Some(turn) = next.pop() else { return };
        quota[turn.index] += 1;
        next.push(Turn::new(turn.weight, quota[turn.index], turn.index));
        missing -= 1;
    }
}

fn take_back(weights: &[u32], quota: &mut [u32], mut surplus: u64) {
    let givers = weights.iter().enumerate().filter(|&(i, _)| quota[i] > 0);
    let mut last: BinaryHeap<Reverse<Turn>> = givers.map(|(i, &w)| Reverse(Turn::new(w, quota[i] - 1, i))).collect();
    while surplus > 0 {
        let Some(Reverse(turn)) = last.pop() else { return };
        quota[turn.index] -= 1;
        if let Some(before) = quota[turn.index].checked_sub(1) {
            last.push(Reverse(Turn::new(turn.weight, before, turn.index)));
        }
        surplus -= 1;
    }
}

/// The slot that a member gets after it has `2 * so_far + 1 = divisor`; the greatest is handed out first.
#[derive(PartialEq, Eq)]
struct Turn {
    weight: u32,
    /// 0 for a first slot: infinitely urgent.
    divisor: u64,
    index: usize,
}

impl Turn {
    fn new(weight: u32, so_far: u32, index: usize) -> Self {
        let divisor = if so_far == 0 { 0 } else { 2 * u64::from(so_far) + 1 };
        Self { weight, divisor, index }
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: &Self, b: &Self| u128::from(a.weight) * u128::from(b.divisor);
        let first = (self.divisor == 0).cmp(&(other.divisor == 0));
        let worth = || if self.divisor == 0 { Ordering::Equal } else { cross(self, other).cmp(&cross(other, self)) };
        first.then_with(worth).then_with(|| self.weight.cmp(&other.weight)).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// The definition, slot by slot.
    fn by_hand(weights: &[u32], slots: u32) -> Vec<u32> {
        let mut quota = vec![0; weights.len()];
        for _ in 0..slots {
            let turns = weights.iter().enumerate().filter(|(_, w)| **w > 0).map(|(i, &w)| Turn::new(w, quota[i], i));
            let Some(turn) = turns.max() else { break };
            quota[turn.index] += 1;
        }
        quota
    }

    #[test]
    fn known_apportionments() {
        let rows: &[(&[u32], u32, &[u32])] = &[
            (&[], 8, &[]),
            (&[0, 0], 8, &[0, 0]),
            (&[5, 0], 8, &[8, 0]),
            (&[1, 1, 1], 256, &[86, 85, 85]),
            // Sainte-Lague's textbook house: 53,000 / 24,000 / 23,000 votes, seven seats.
            (&[53_000, 24_000, 23_000], 7, &[3, 2, 2]),
            (&[1, 1_000_000], 16, &[1, 15]),
            (&[1, 3, 2, 3], 2, &[0, 1, 0, 1]),
        ];
        for (weights, slots, expected) in rows {
            assert_eq!(quotas(weights, *slots), *expected, "{weights:?} over {slots}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn equals_its_definition(weights in vec(prop_oneof![0u32..6, 0u32..70_000, any::<u32>()], 0..40), slots in 0u32..300) {
            prop_assert_eq!(quotas(&weights, slots), by_hand(&weights, slots));
        }

        #[test]
        fn nobody_loses_when_another_leaves_or_the_table_grows(weights in vec(0u32..100, 2..60), gone: prop::sample::Index, log2 in 4u8..13) {
            let slots = 1 << log2;
            let before = quotas(&weights, slots);
            let gone = gone.index(weights.len());
            let mut without = weights.clone();
            without[gone] = 0;
            prop_assume!(without.iter().any(|&w| w > 0));
            let after = quotas(&without, slots);
            prop_assert_eq!(after.iter().sum::<u32>(), slots);
            prop_assert!((0..weights.len()).all(|i| i == gone || after[i] >= before[i]));
            prop_assert!(quotas(&weights, slots * 2).iter().zip(&before).all(|(larger, q)| larger >= q));
        }

        #[test]
        fn scaling_all_weights_changes_nothing(weights in vec(0u32..65_536, 1..60), scale in 1u32..65_536) {
            let scaled: Vec<u32> = weights.iter().map(|w| w * scale).collect();
            prop_assert_eq!(quotas(&weights, 4096), quotas(&scaled, 4096));
        }
    }
}
