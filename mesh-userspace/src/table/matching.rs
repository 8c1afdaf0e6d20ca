//! The stable matching of slots that nobody has with members that have room.
//!
//! Both sides judge a pair by the same number, the arrival of the member's claim on the slot, so there is exactly one stable matching: the one that
//! taking the earliest claim of all, again and again, leads to. Two ways to it differ in cost alone.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    NONE, Permutation,
    rank_time::{Claim, arrival},
};

/// A member that takes part in a matching.
#[derive(Clone, Copy, Debug)]
pub struct Seeker {
    pub member: u16,
    /// Slots that it may still get.
    pub room: u32,
    pub order: Permutation,
    /// 1 / weight: what the arrival of a rank is multiplied by.
    pub pace: f32,
}

impl Seeker {
    pub fn new(member: u16, room: u32, order: Permutation, weight: u32) -> Self {
        Self { member, room, order, pace: 1.0 / weight.max(1) as f32 }
    }
}

/// Gives every slot of `owner` that is [`NONE`] an owner, as long as there is room.
pub fn settle(owner: &mut [u16], log2_slots: u8, mut seekers: Vec<Seeker>) {
    seekers.retain(|s| s.room > 0);
    let vacant: Vec<u32> = (0..).zip(owner.iter()).filter(|(_, o)| **o == NONE).map(|(slot, _)| slot).collect();
    if vacant.is_empty() || seekers.is_empty() {
        return;
    }
    if vacant.len() * seekers.len() < SCAN_FACTOR * owner.len() {
        by_slots(owner, log2_slots, &vacant, seekers);
    } else {
        by_members(owner, log2_slots, vacant.len(), seekers);
    }
}

/// A race to the last slot takes about this many claims per slot of the table.
const SCAN_FACTOR: usize = 8;

/// Members walk down their preferences, as in deferred acceptance, where an earlier claim ousts a later one. The walk is cut into rounds of
/// arrival time: a claim that stands at the end of a round can't be ousted any more, so that members with room to spare need not walk to the end.
pub fn by_members(owner: &mut [u16], log2_slots: u8, mut vacant: usize, seekers: Vec<Seeker>) {
    let arrival = arrival(log2_slots);
    let mut held: Vec<Claim> = owner.iter().map(|&o| if o == NONE { Claim::OPEN } else { Claim::CLOSED }).collect();
    let mut room: Vec<u32> = seekers.iter().map(|s| s.room).collect();
    let mut rank = vec![0; seekers.len()];
    let by_member = places(&seekers);
    let mut walking: Vec<u32> = (0..seekers.len() as u32).collect();
    let mut until = 1.0 / seekers.iter().map(|s| 1.0 / s.pace).sum::<f32>();
    while vacant > 0 && !walking.is_empty() {
        let mut later = Vec::with_capacity(walking.len());
        while let Some(at) = walking.pop() {
            let i = at as usize;
            let seeker = &seekers[i];
            while room[i] > 0 {
                let Some(when) = arrival.get(rank[i] as usize).map(|a| a * seeker.pace) else { break };
                if when > until {
                    later.push(at);
                    break;
                }
                let slot = &mut held[seeker.order.slot(rank[i]) as usize];
                rank[i] += 1;
                let claim = Claim::new(when, seeker.member);
                if claim >= *slot {
                    continue;
                }
                let ousted = std::mem::replace(slot, claim);
                room[i] -= 1;
                if ousted == Claim::OPEN {
                    vacant -= 1;
                    continue;
                }
                let other = by_member[usize::from(ousted.member())];
                if room[other as usize] == 0 {
                    walking.push(other);
                }
                room[other as usize] += 1;
            }
        }
        walking = later;
        until *= ROUND;
    }
    for (o, claim) in owner.iter_mut().zip(held) {
        if *o == NONE {
            *o = claim.member();
        }
    }
}

/// How much longer each round of arrival time is than all before it. Shorter rounds oust less and visit the members more often.
const ROUND: f32 = 1.5;

fn places(seekers: &[Seeker]) -> Vec<u32> {
    let mut by_member = vec![0; seekers.iter().map(|s| usize::from(s.member) + 1).max().unwrap_or(0)];
    for (i, s) in (0..).zip(seekers) {
        by_member[usize::from(s.member)] = i;
    }
    by_member
}

/// Slots look up the earliest claims on them. What fits when few slots are vacant: one member of a thousand has failed.
fn by_slots(owner: &mut [u16], log2_slots: u8, vacant: &[u32], mut seekers: Vec<Seeker>) {
    let by_member = places(&seekers);
    let mut choices = earliest(&seekers, log2_slots, vacant);
    // The earliest claim of all is final; a refused slot goes on with its next one, which is later: claims come out of the heap in order.
    let mut open: BinaryHeap<Reverse<(Claim, u32)>> = (0..).zip(&choices).map(|(at, c)| Reverse((c.first(), at))).collect();
    while let Some(Reverse((claim, at))) = open.pop() {
        if claim == Claim::OPEN {
            continue;
        }
        let slot = vacant[at as usize];
        let seeker = &mut seekers[by_member[usize::from(claim.member())] as usize];
        if seeker.room > 0 {
            seeker.room -= 1;
            owner[slot as usize] = claim.member();
            continue;
        }
        let choice = &mut choices[at as usize];
        let next = choice.advance().unwrap_or_else(|| {
            *choice = Choice::after(claim, &seekers, log2_slots, slot);
            choice.first()
        });
        open.push(Reverse((next, at)));
    }
}

/// The earliest claims on each of `slots`. Members outside, slots inside: a permutation's keys stay in registers.
fn earliest(seekers: &[Seeker], log2_slots: u8, slots: &[u32]) -> Vec<Choice> {
    let arrival = arrival(log2_slots);
    let mut choices = vec![Choice::default(); slots.len()];
    for seeker in seekers {
        for (choice, &slot) in choices.iter_mut().zip(slots) {
            choice.offer(Claim::new(arrival[seeker.order.rank(slot) as usize] * seeker.pace, seeker.member));
        }
    }
    choices
}

/// The earliest few claims on a slot, in order.
#[derive(Clone, Copy)]
struct Choice {
    claims: [Claim; 4],
    at: usize,
}

impl Default for Choice {
    fn default() -> Self {
        Self { claims: [Claim::OPEN; 4], at: 0 }
    }
}

impl Choice {
    /// The earliest claims that are later than `refused`, of members that still have room: whoever is full stays full.
    fn after(refused: Claim, seekers: &[Seeker], log2_slots: u8, slot: u32) -> Self {
        let arrival = arrival(log2_slots);
        let mut choice = Self::default();
        for seeker in seekers.iter().filter(|s| s.room > 0) {
            let claim = Claim::new(arrival[seeker.order.rank(slot) as usize] * seeker.pace, seeker.member);
            if claim > refused {
                choice.offer(claim);
            }
        }
        choice
    }

    #[inline]
    fn offer(&mut self, claim: Claim) {
        let [.., last] = &mut self.claims;
        if claim < *last {
            *last = claim;
            self.claims.sort_unstable();
        }
    }

    fn first(&self) -> Claim {
        self.claims[0]
    }

    /// The next one; nothing when those that were looked up are used up. [`Claim::OPEN`] when no other member claims the slot.
    fn advance(&mut self) -> Option<Claim> {
        self.at += 1;
        self.claims.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::table::tests::id;

    fn seekers(rooms: &[(u32, u32)], log2: u8) -> Vec<Seeker> {
        let seeker = |(i, &(room, weight)): (u16, &(u32, u32))| Seeker::new(i, room, Permutation::new(&id(i.into()), 5, log2), weight);
        (0..).zip(rooms).map(seeker).collect()
    }

    /// The definition: take the earliest claim on a vacant slot by a member with room, until there is none.
    fn by_definition(owner: &mut [u16], log2: u8, mut seekers: Vec<Seeker>) {
        let arrival = arrival(log2);
        let mut claims = Vec::new();
        for (at, s) in seekers.iter().enumerate() {
            claims.extend(
                (0..owner.len()).map(|slot| (Claim::new(arrival[s.order.rank(slot as u32) as usize] * s.pace, s.member), slot, at)),
            );
        }
        claims.sort_unstable();
        for (claim, slot, at) in claims {
            if owner[slot] == NONE && seekers[at].room > 0 {
                seekers[at].room -= 1;
                owner[slot] = claim.member();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn both_ways_lead_to_the_stable_matching(
            rooms in vec((0u32..40, 1u32..100_000), 1..20),
            taken in vec(any::<bool>(), 256),
        ) {
            let vacant: Vec<u32> = (0..256).filter(|&s| !taken[s as usize]).collect();
            // Whoever has the taken slots takes no part.
            let start: Vec<u16> = taken.iter().map(|&t| if t { 999 } else { NONE }).collect();
            let (mut expected, mut members, mut slots) = (start.clone(), start.clone(), start);
            by_definition(&mut expected, 8, seekers(&rooms, 8));
            by_members(&mut members, 8, vacant.len(), seekers(&rooms, 8));
            by_slots(&mut slots, 8, &vacant, seekers(&rooms, 8));
            prop_assert_eq!(&members, &expected);
            prop_assert_eq!(&slots, &expected);
        }
    }
}
