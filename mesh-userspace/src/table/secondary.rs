use super::{
    BaseTable, NONE, Permutation,
    overlay::normal,
    rank_time::{Claim, arrival},
};

/// For each slot the live member other than its owner whose claim is earliest: where the overlay would in all likelihood move the slot if its owner
/// failed (it differs where that member is full). [`NONE`] if there is no other.
///
/// `owner` and `effective` as of [`super::owners`]. Where the weights of the live are the configured ones, only slots that concern the others
/// are looked at again.
pub fn secondaries(base: &BaseTable, owner: &[u16], effective: &[u32]) -> Vec<u16> {
    let effective = normal(base, effective);
    if base.members().iter().zip(&effective).any(|(m, &w)| w > 0 && w != u32::from(m.weight.0)) {
        return race(base, owner, &effective);
    }
    let lives = |member: u16| effective.get(usize::from(member)).is_some_and(|&w| w > 0);
    let mut secondary = base.secondary().to_vec();
    let fits = |slot: usize, secondary: u16| lives(secondary) && secondary != owner[slot] && owner[slot] == base.owner()[slot];
    let stale: Vec<u32> = (0..).zip(&secondary).filter(|&(slot, &s)| !fits(slot as usize, s)).map(|(slot, _)| slot).collect();
    let runners = runners(base, &effective);
    if stale.len() * runners.len() > FULL_RACE * owner.len() {
        return race(base, owner, &effective);
    }
    let best = scan(&runners, base.log2_slots(), &stale, owner);
    stale.iter().zip(best).for_each(|(&slot, claim)| secondary[slot as usize] = claim.member());
    secondary
}

/// A race to the end takes about this many claims per slot.
const FULL_RACE: usize = 12;

/// Every live member claims its favourite slots in rounds of arrival time; whatever has no taker when looking it up has become cheaper is looked up.
pub(super) fn race(base: &BaseTable, owner: &[u16], effective: &[u32]) -> Vec<u16> {
    let runners = runners(base, effective);
    let mut best = vec![Claim::OPEN; owner.len()];
    let pace_of_all: f32 = 1.0 / runners.iter().map(|r| 1.0 / r.pace).sum::<f32>();
    let rounds = rounds(runners.len());
    let arrival = arrival(base.log2_slots());
    let mut rank = vec![0usize; runners.len()];
    for round in 1..=rounds {
        let until = round as f32 * pace_of_all;
        for (runner, rank) in runners.iter().zip(&mut rank) {
            while let Some(when) = arrival.get(*rank).map(|a| a * runner.pace).filter(|&when| when <= until) {
                let slot = runner.order.slot(*rank as u32) as usize;
                *rank += 1;
                let claim = Claim::new(when, runner.member);
                if claim < best[slot] && owner[slot] != runner.member {
                    best[slot] = claim;
                }
            }
        }
    }
    let missing: Vec<u32> = (0..).zip(&best).filter(|(_, b)| **b == Claim::OPEN).map(|(slot, _)| slot).collect();
    let looked_up = scan(&runners, base.log2_slots(), &missing, owner);
    missing.iter().zip(looked_up).for_each(|(&slot, claim)| best[slot as usize] = claim);
    best.into_iter().map(Claim::member).collect()
}

/// Rounds x, of one claim per slot each, after which looking the rest up is cheaper than another round. The rest is exp(-x) of the table (and somewhat
/// more, for the owner's claims don't count), and costs `runners` claims a slot: x = ln(runners).
fn rounds(runners: usize) -> u32 {
    if runners < 4 { 0 } else { runners.ilog2() * 7 / 10 + 1 }
}

struct Runner {
    member: u16,
    order: Permutation,
    pace: f32,
}

fn runners(base: &BaseTable, effective: &[u32]) -> Vec<Runner> {
    let live = (0..NONE).zip(effective).filter(|(_, w)| **w > 0);
    live.map(|(member, &w)| Runner { member, order: base.order(member.into()), pace: 1.0 / w as f32 }).collect()
}

/// The earliest claim on each of `slots` by another than its owner.
fn scan(runners: &[Runner], log2_slots: u8, slots: &[u32], owner: &[u16]) -> Vec<Claim> {
    let arrival = arrival(log2_slots);
    let mut best = vec![Claim::OPEN; slots.len()];
    for runner in runners {
        for (best, &slot) in best.iter_mut().zip(slots) {
            let claim = Claim::new(arrival[runner.order.rank(slot) as usize] * runner.pace, runner.member);
            if claim < *best && owner[slot as usize] != runner.member {
                *best = claim;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::table::{SLACK_PERMILLE, owners, tests::table_of};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn are_the_earliest_claims_of_others(weights in vec(0u16..50, 1..40), out in vec(any::<bool>(), 40), jitter in vec(1u32..3, 40), seed: u64) {
            let base = table_of(&weights, 9, seed);
            let factor = |i: usize, jitter: u32| u32::from(!out[i]) * jitter * 10;
            for dynamic in [false, true] {
                let effective: Vec<u32> =
                    base.weights().iter().enumerate().map(|(i, w)| w * factor(i, if dynamic { jitter[i] } else { 1 })).collect();
                let owner = owners(&base, &effective, SLACK_PERMILLE);
                let all: Vec<u32> = (0..512).collect();
                let expected: Vec<u16> = scan(&runners(&base, &normal(&base, &effective)), 9, &all, &owner).into_iter().map(Claim::member).collect();
                prop_assert_eq!(secondaries(&base, &owner, &effective), expected);
            }
        }
    }
}
