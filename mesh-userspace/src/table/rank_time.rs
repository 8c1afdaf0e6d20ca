use std::sync::OnceLock;

use super::MAX_LOG2_SLOTS;

/// When a claim of each rank arrives at a backend of weight 1: the expected order statistics of 2^`log2_slots` exponential variables,
/// E\[k\] = sum over j <= k of 1 / (slots - j). Strictly increasing.
///
/// Dividing by the weight gives the arrival at any other backend, and makes the first claim on a slot fall to each backend with a probability
/// in proportion to its weight (weighted rendezvous). Only IEEE additions and divisions, in a fixed order: every node gets the same bits.
///
/// Computed once per size. A size above [`MAX_LOG2_SLOTS`] is answered as that size.
pub fn arrival(log2_slots: u8) -> &'static [f32] {
    static BY_SIZE: [OnceLock<Box<[f32]>>; MAX_LOG2_SLOTS as usize + 1] = [const { OnceLock::new() }; MAX_LOG2_SLOTS as usize + 1];
    let log2_slots = log2_slots.min(MAX_LOG2_SLOTS);
    BY_SIZE[usize::from(log2_slots)].get_or_init(|| {
        let slots = 1u32 << log2_slots;
        let mut sum = 0f64;
        let mut at = |j| {
            sum += 1.0 / f64::from(slots - j);
            sum as f32
        };
        (0..slots).map(&mut at).collect()
    })
}

/// Claim of a member on a slot: the earlier arrival wins, and of two at once the member that comes first. Compares as one integer, since the
/// bits of positive floats order like the floats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim(u64);

impl Claim {
    /// Beats every claim.
    pub const CLOSED: Self = Self(0);
    /// Loses to every claim.
    pub const OPEN: Self = Self(u64::MAX);

    /// `at`: positive and finite.
    pub fn new(at: f32, member: u16) -> Self {
        Self(u64::from(at.to_bits()) << 32 | u64::from(member))
    }

    /// The claimant; [`super::NONE`] for [`Claim::OPEN`].
    pub fn member(self) -> u16 {
        self.0 as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_increase_strictly_at_every_size_and_weight() {
        for log2 in [0, 1, 8, 12, 16, MAX_LOG2_SLOTS] {
            let arrival = arrival(log2);
            assert_eq!(arrival.len(), 1 << log2);
            for weight in [1.0f32, 3.0, 2048.0, 65535.0, 4294967295.0] {
                let scale = 1.0 / weight;
                assert!(arrival.windows(2).all(|w| w[0] * scale < w[1] * scale), "2^{log2} slots, weight {weight}");
            }
        }
    }

    #[test]
    fn claims_order_by_arrival_and_then_by_member() {
        let ascending = [Claim::CLOSED, Claim::new(1e-12, 9), Claim::new(0.5, 1), Claim::new(0.5, 2), Claim::new(12.0, 0), Claim::OPEN];
        assert!(ascending.is_sorted_by(|a, b| a < b));
        assert_eq!(Claim::OPEN.member(), super::super::NONE);
    }
}
