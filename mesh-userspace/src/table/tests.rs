//! What holds for every table: exactness, independence of order and history, least movement.

use std::net::Ipv4Addr;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

/// A distinct id for each number.
pub fn id(i: usize) -> BackendId {
    BackendId((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 8080).into())
}

pub fn members(weights: &[u16]) -> Vec<Member> {
    weights.iter().enumerate().map(|(i, &w)| Member { id: id(i), weight: Weight(w) }).collect()
}

pub fn table_of(weights: &[u16], log2_slots: u8, seed: u64) -> BaseTable {
    BaseTable::build(&members(weights), log2_slots, seed).unwrap()
}

fn moved(a: &[u16], b: &[u16]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

fn counts(owner: &[u16], members: usize) -> Vec<u32> {
    Table { log2_slots: 0, owner: owner.to_vec(), secondary: Vec::new() }.counts(members)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn base_is_exact_and_does_not_depend_on_order(weights in vec(0u16..200, 0..80), log2 in 8u8..=11, seed: u64, rotate: Index) {
        let base = table_of(&weights, log2, seed);
        let mut shuffled = members(&weights);
        shuffled.reverse();
        shuffled.extend_from_within(..shuffled.len() / 3);
        if !shuffled.is_empty() {
            let mid = rotate.index(shuffled.len());
            shuffled.rotate_left(mid);
        }
        let again = BaseTable::build(&shuffled, log2, seed).unwrap();
        prop_assert_eq!(base.members(), again.members());
        prop_assert_eq!(base.owner(), again.owner());
        prop_assert_eq!(counts(base.owner(), weights.len()), quotas(&base.weights(), 1 << log2));
    }

    #[test]
    fn overlay_at_configured_weights_is_the_base(weights in vec(0u16..200, 0..60), unit in 1u32..5000, seed: u64) {
        let base = table_of(&weights, 10, seed);
        let effective: Vec<u32> = base.weights().iter().map(|w| w * unit).collect();
        let table = overlay(&base, &effective);
        prop_assert_eq!(&table.owner[..], base.owner());
        prop_assert_eq!(table, overlay(&base, &base.weights()));
    }

    #[test]
    fn first_failure_moves_just_its_slots(weights in vec(1u16..200, 2..60), gone: Index, seed: u64) {
        let base = table_of(&weights, 10, seed);
        let gone = gone.index(weights.len());
        let mut effective = base.weights();
        effective[gone] = 0;
        let after = overlay(&base, &effective);
        let lost = base.owner().iter().filter(|&&o| usize::from(o) == gone).count();
        prop_assert_eq!(moved(base.owner(), &after.owner), lost);
        prop_assert!(!after.owner.contains(&(gone as u16)) && !after.secondary.contains(&(gone as u16)));
    }

    #[test]
    fn everybody_stays_under_the_cap(weights in vec(0u16..200, 1..60), factors in vec(0u32..4000, 60), seed: u64) {
        let base = table_of(&weights, 10, seed);
        let effective: Vec<u32> = base.weights().iter().zip(&factors).map(|(w, f)| w * f.saturating_sub(1000)).collect();
        let table = overlay(&base, &effective);
        let caps = caps(&effective, 1024, SLACK_PERMILLE);
        let counts = table.counts(weights.len());
        prop_assert!(counts.iter().zip(&caps).all(|(count, cap)| count <= cap), "{:?} over {:?}", counts, caps);
        let live = effective.iter().filter(|w| **w > 0).count();
        prop_assert_eq!(counts.iter().sum::<u32>(), if live > 0 { 1024 } else { 0 });
        prop_assert_eq!(table.is_vacant(), live == 0);
        for (owner, secondary) in table.owner.iter().zip(&table.secondary) {
            prop_assert_eq!(*secondary == NONE, live < 2);
            prop_assert!(*secondary == NONE || (secondary != owner && effective[usize::from(*secondary)] > 0));
        }
    }
}

/// Slots that move in `steps` changes of all ten weights by 2 %, as a multiple of those that must move where every step starts from the table before
/// it. `walk`: each step starts from the weights before it, else from the configured ones.
fn movement(walk: bool, steps: usize, noise: &mut Noise) -> f64 {
    const START: f64 = 1e6;
    let base = table_of(&[100; 10], 12, 11);
    let mut weights = [START; 10];
    let (mut owner, mut quota) = (base.owner().to_vec(), quotas(&base.weights(), 1 << 12));
    let (mut moves, mut least) = (0, 0);
    for _ in 0..steps {
        weights.iter_mut().for_each(|w| *w = if walk { *w } else { START } * (1.0 + 0.02 * noise.gauss()));
        let effective = weights.map(|w| w as u32);
        let (next, shares) = (owners(&base, &effective, SLACK_PERMILLE), quotas(&effective, 1 << 12));
        moves += moved(&owner, &next);
        least += quota.iter().zip(&shares).map(|(old, new)| old.saturating_sub(*new) as usize).sum::<usize>();
        (owner, quota) = (next, shares);
    }
    moves as f64 / least as f64
}

#[test]
fn weights_that_jitter_move_less_than_they_would_without_slack() {
    let mut noise = Noise(42);
    let jitter = movement(false, 60, &mut noise);
    assert!(jitter < 0.4, "{jitter}");
    let walks = (0..10).map(|_| movement(true, 8, &mut noise)).sum::<f64>() / 10.0;
    assert!(walks < 0.8, "{walks}");
}

/// A linear congruential generator: noise enough here.
struct Noise(u64);

impl Noise {
    /// Roughly normal, mean 0 and deviation 1: the sum of twelve uniform numbers.
    fn gauss(&mut self) -> f64 {
        let uniform = |_| {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..12).map(uniform).sum::<f64>() - 6.0
    }
}

#[test]
fn at_full_scale_one_failure_costs_exactly_its_slots_and_its_restore_too() {
    for n in [100, 1000] {
        let base = table_of(&vec![1; n], 16, 5);
        let healthy = overlay(&base, &base.weights());
        for gone in [0, n / 3, n - 1] {
            let mut effective = base.weights();
            effective[gone] = 0;
            let failed = owners(&base, &effective, SLACK_PERMILLE);
            assert_eq!(moved(&healthy.owner, &failed) as u32, healthy.counts(n)[gone]);
        }
        assert_eq!(owners(&base, &base.weights(), SLACK_PERMILLE), healthy.owner);
    }
}

#[test]
fn many_failures_one_after_the_other_leave_the_same_table_as_all_at_once() {
    let base = table_of(&[3; 100], 13, 1);
    let mut effective = base.weights();
    for gone in [5, 50, 17, 99, 0] {
        effective[gone] = 0;
        overlay(&base, &effective);
    }
    let other = table_of(&[3; 100], 13, 1);
    let at_once: Vec<u32> = (0..100).map(|i| if [0, 5, 17, 50, 99].contains(&i) { 0 } else { 3 }).collect();
    assert_eq!(overlay(&base, &effective), overlay(&other, &at_once));
    assert_eq!(overlay(&base, &base.weights()).owner, other.owner());
}

#[test]
fn secondaries_are_where_the_overlay_moves_a_failed_members_slots() {
    let base = table_of(&[1; 50], 13, 3);
    let healthy = overlay(&base, &base.weights());
    let (mut right, mut all) = (0, 0);
    for gone in 0..50 {
        let mut effective = base.weights();
        effective[gone] = 0;
        let after = owners(&base, &effective, SLACK_PERMILLE);
        let slots = (0..after.len()).filter(|&s| usize::from(healthy.owner[s]) == gone);
        for slot in slots {
            all += 1;
            right += usize::from(after[slot] == healthy.secondary[slot]);
        }
    }
    assert!(right * 1000 >= all * 970, "{right} of {all}");
}

#[test]
fn no_members_and_no_weights_make_a_vacant_table() {
    for base in [table_of(&[], 8, 1), table_of(&[0, 0], 8, 1)] {
        assert_eq!(overlay(&base, &base.weights()), Table::vacant(8));
        assert_eq!(overlay(&base, &[]), Table::vacant(8));
    }
}

#[test]
fn one_member_owns_everything_and_has_no_secondary() {
    let table = overlay(&table_of(&[9], 8, 1), &[9]);
    assert!(table.owner.iter().all(|&o| o == 0) && table.secondary.iter().all(|&s| s == NONE));
}

#[test]
fn more_than_a_table_can_hold_is_refused() {
    let members: Vec<_> = (0..=MAX_MEMBERS).map(|i| Member { id: id(i), weight: Weight::ONE }).collect();
    assert_eq!(BaseTable::build(&members, 8, 0).unwrap_err(), TableError::TooManyMembers(MAX_MEMBERS + 1));
    assert_eq!(BaseTable::build(&members[..1], MAX_LOG2_SLOTS + 1, 0).unwrap_err(), TableError::TooManySlots(MAX_LOG2_SLOTS + 1));
    // The fullest table has an overlay like any other.
    let full = BaseTable::build(&members[1..], 17, 0).unwrap();
    let mut effective = full.weights();
    effective[MAX_MEMBERS - 1] = 0;
    assert_eq!(overlay(&full, &effective).counts(MAX_MEMBERS).iter().filter(|&&c| c == 0).count(), 1);
    // More members than slots: the first ones by id get one each.
    let crowd = BaseTable::build(&members[..300], 8, 0).unwrap();
    assert!(counts(crowd.owner(), 300).iter().enumerate().all(|(i, &c)| c == u32::from(i < 256)));
}

/// Fingerprints of the tables of fixed inputs. They never change: nodes of two versions or architectures that serve one VIP must agree. A change here
/// is a new kind of table, to be switched over to on purpose.
#[test]
fn golden_tables() {
    let ramp: Vec<u16> = (1..=64).collect();
    let rows: [(&[u16], u8, u64, [u64; 2]); 4] = [
        (&[1, 1, 1], 8, 0, [0x2378_f6ce_9d4e_9865, 0x8c39_5a1b_a7b3_a665]),
        (&[1; 40], 12, 0x6d65_7368, [0xac12_3cb3_7d46_412d, 0x0ebb_8323_d064_07a6]),
        (&ramp, 13, u64::MAX, [0x3158_8af9_7015_6fa8, 0x3ed8_5b09_bb6e_2fe7]),
        (&[0, 1, 65535], 10, 1, [0xdea4_29d8_2dc2_3b55, 0xe2d2_f49e_2c42_4b25]),
    ];
    let prints = rows.map(|(weights, log2, seed, _)| {
        let base = table_of(weights, log2, seed);
        let mut down = base.weights();
        down[1] = 0;
        [overlay(&base, &base.weights()), overlay(&base, &down)].map(|t| t.fingerprint())
    });
    assert_eq!(prints, rows.map(|(.., prints)| prints), "{prints:#x?}");
}
