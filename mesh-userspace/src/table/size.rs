use super::Member;

/// Smallest table: 256 slots.
pub const MIN_LOG2_SLOTS: u8 = 8;
/// Largest table: 1,048,576 slots, 8 MiB as published.
pub const MAX_LOG2_SLOTS: u8 = 20;

/// Slots that the member of the smallest weight should get: its share is then off by half a slot in 128 at worst.
const SLOTS_PER_UNIT: u64 = 128;
/// Slots per member that are not exceeded for the sake of a very small weight.
const SLOTS_PER_MEMBER: u64 = 512;

/// Size of the table for these members, as a power of two.
///
/// 128 slots per unit of the smallest weight (so 128 N for equal weights), at most 512 N, rounded up to a power of two between
/// 2^[`MIN_LOG2_SLOTS`] and 2^[`MAX_LOG2_SLOTS`]. Small on purpose: what stays in the cache costs next to nothing per packet.
/// Members of weight 0 don't count. A pure function of the members, so that balancers agree on it.
pub fn log2_slots(members: &[Member]) -> u8 {
    let weights = || members.iter().map(|m| u64::from(m.weight.0)).filter(|&w| w > 0);
    let Some(smallest) = weights().min() else { return MIN_LOG2_SLOTS };
    let (n, sum) = (weights().count() as u64, weights().sum::<u64>());
    let wanted = (SLOTS_PER_UNIT * sum).div_ceil(smallest).min(SLOTS_PER_MEMBER * n);
    let log2 = wanted.next_power_of_two().trailing_zeros() as u8;
    log2.clamp(MIN_LOG2_SLOTS, MAX_LOG2_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Weight, table::tests::id};

    fn size(weights: &[u16]) -> u8 {
        let members: Vec<_> = weights.iter().enumerate().map(|(i, &w)| Member { id: id(i), weight: Weight(w) }).collect();
        log2_slots(&members)
    }

    #[test]
    fn follows_the_number_of_members_and_the_smallest_weight() {
        let rows: &[(&[u16], u8)] = &[
            (&[], 8),
            (&[0, 0], 8),
            (&[1], 8),
            (&[1; 2], 8),
            (&[1; 3], 9),
            (&[7; 10], 11),
            (&[1, 3], 9),
            (&[1, 65535], 10),
            (&[1, 65535, 0], 10),
            (&[5; 1000], 17),
            (&[5; 20000], 20),
        ];
        for (weights, log2) in rows {
            assert_eq!(size(weights), *log2, "{} weights", weights.len());
        }
    }
}
