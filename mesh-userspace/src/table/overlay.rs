use super::{BaseTable, NONE, Table, matching, quotas, secondary};

/// How far above its fair share a member may go before slots are taken from it: 2 %. Without it every small change of weight, and every further
/// failure on top of one, would set off a chain of moves.
pub const SLACK_PERMILLE: u32 = 20;

/// The table for what each member can take right now, with its secondaries.
///
/// `effective`: one weight per member of [`BaseTable::members`], in any unit, 0 for who gets nothing (down, draining); members beyond its
/// end get nothing. At the configured weights, or any multiple of them, it is the base table. When a member fails exactly its own slots move, and
/// when it comes back exactly they move back.
pub fn overlay(base: &BaseTable, effective: &[u32]) -> Table {
    let owner = owners(base, effective, SLACK_PERMILLE);
    let secondary = secondary::secondaries(base, &owner, effective);
    Table { log2_slots: base.log2_slots(), owner, secondary }
}

/// Owners alone, with a slack of `slack` thousandths of the fair share.
///
/// Live members keep their slots of the base, except for the least preferred ones beyond their cap; all other slots go to members with room by
/// stable matching. All are [`NONE`] if all weights are 0.
pub fn owners(base: &BaseTable, effective: &[u32], slack: u32) -> Vec<u16> {
    let effective = normal(base, effective);
    let caps = caps(&effective, base.owner().len() as u32, slack);
    let mut owner = base.owner().to_vec();
    let mut count = vec![0u32; caps.len()];
    for o in &mut owner {
        let Some(cap) = caps.get(usize::from(*o)) else { continue };
        if *cap == 0 {
            *o = NONE;
        } else {
            count[usize::from(*o)] += 1;
        }
    }
    evict(base, &caps, &mut count, &mut owner);
    let seekers = (0..NONE).zip(caps.iter().zip(&count)).filter(|(_, (cap, count))| cap > count);
    let seekers = seekers.map(|(i, (cap, count))| matching::Seeker::new(i, cap - count, base.order(i.into()), effective[usize::from(i)]));
    matching::settle(&mut owner, base.log2_slots(), seekers.collect());
    owner
}

/// The most slots that each member may own: its fair share plus the slack, rounded up, and never less than its exact quota at these weights, so that
/// the caps always add up to a full table and exact tables stay as they are.
pub fn caps(effective: &[u32], slots: u32, slack: u32) -> Vec<u32> {
    let sum: u128 = effective.iter().map(|&w| u128::from(w)).sum();
    let cap = |(&weight, quota): (&u32, u32)| {
        let share = u128::from(weight) * u128::from(slots) * (1000 + u128::from(slack));
        let cap = if sum == 0 { 0 } else { share.div_ceil(1000 * sum) };
        quota.max(cap.min(slots.into()) as u32)
    };
    effective.iter().zip(quotas(effective, slots)).map(cap).collect()
}

/// Takes from each member that is over its cap the slots that it likes least.
fn evict(base: &BaseTable, caps: &[u32], count: &mut [u32], owner: &mut [u16]) {
    if count.iter().zip(caps).all(|(count, cap)| count <= cap) {
        return;
    }
    let mut held: Vec<Vec<(u32, u32)>> = vec![Vec::new(); caps.len()];
    for (slot, &o) in (0..).zip(owner.iter()) {
        let i = usize::from(o);
        if i < caps.len() && count[i] > caps[i] {
            held[i].push((base.order(i).rank(slot), slot));
        }
    }
    for (i, mut slots) in held.into_iter().enumerate().filter(|(_, slots)| !slots.is_empty()) {
        let keep = caps[i] as usize;
        slots.select_nth_unstable(keep);
        slots[keep..].iter().for_each(|&(_, slot)| owner[slot as usize] = NONE);
        count[i] = caps[i];
    }
}

/// One weight for each member, and the configured ones themselves where a multiple of them is meant: rounding then can't tell two balancers apart
/// that count in other units.
pub(super) fn normal(base: &BaseTable, effective: &[u32]) -> Vec<u32> {
    let mut effective = effective.to_vec();
    effective.resize(base.members().len(), 0);
    let configured = base.members().iter().map(|m| u32::from(m.weight.0));
    let mut live = configured.clone().zip(&effective).filter(|(_, w)| **w > 0).map(|(c, &w)| (u64::from(c), u64::from(w)));
    let Some((c0, w0)) = live.next() else { return effective };
    if live.all(|(c, w)| c * w0 == c0 * w) && c0 > 0 {
        effective.iter_mut().zip(configured).filter(|(w, _)| **w > 0).for_each(|(w, c)| *w = c);
    }
    effective
}
