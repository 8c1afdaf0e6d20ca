//! How many slots a change moves, by builder, as a multiple of those that must move.

use std::{net::Ipv4Addr, time::Instant};

use mesh::{
    model::{BackendId, Weight},
    table::{BaseTable, Member, SLACK_PERMILLE, Scheduler, overlay, owners, quotas, scheduled},
    weights::{Settings, steady},
};

use super::random::Random;

/// What one builder does to one change.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Change {
    pub builder: String,
    pub log2_slots: u8,
    pub members: usize,
    /// Largest and smallest share over the fair one.
    pub most: f64,
    pub least: f64,
    /// Slots moved over slots that must: a backend is removed, added, has twice the weight.
    pub remove: f64,
    pub add: f64,
    pub double: f64,
    pub build_ms: f64,
}

/// What failures do to the overlay.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Failures {
    pub log2_slots: u8,
    pub members: usize,
    pub first: f64,
    pub restore: f64,
    /// A twentieth of the backends at once, and one more on top.
    pub many: f64,
    pub one_more: f64,
    pub base_ms: f64,
    pub overlay_ms: f64,
}

/// What weights that change all the time do.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Jitter {
    pub log2_slots: u8,
    pub members: usize,
    /// Steps of the walk.
    pub steps: usize,
    /// Slots that a table which remembers itself would have to move, each step.
    pub least: f64,
    /// Moved over that: by the overlay without slack, with slack, and with slack and weights that are published in steps of 4 %.
    pub no_slack: f64,
    pub slack: f64,
    pub steady: f64,
    pub maglev: f64,
}

const BUILDERS: [(&str, Scheduler); 5] = [
    ("consistent-hash", Scheduler::Consistent),
    ("maglev", Scheduler::Maglev),
    ("ring", Scheduler::Ring),
    ("random", Scheduler::Random),
    ("round-robin", Scheduler::RoundRobin),
];

/// Each builder at this size, mean of so many trials. Backends have these weights in turn.
pub fn changes(log2_slots: u8, members: usize, weights: &[u16], trials: u64) -> Vec<Change> {
    BUILDERS.iter().map(|(name, kind)| change(name, *kind, (log2_slots, members), weights, trials)).collect()
}

fn change(name: &str, kind: Scheduler, (log2_slots, n): (u8, usize), weights: &[u16], trials: u64) -> Change {
    let all = |n: usize| weighted(n, weights);
    let total: f64 = all(n).iter().map(|m| f64::from(m.weight.0)).sum();
    let mut sum =
        Change { builder: name.into(), log2_slots, members: n, most: 0.0, least: 0.0, remove: 0.0, add: 0.0, double: 0.0, build_ms: 0.0 };
    let part = 1.0 / trials as f64;
    for seed in 0..trials {
        let began = Instant::now();
        let before = made(&all(n), kind, log2_slots, seed);
        sum.build_ms += began.elapsed().as_secs_f64() * 1e3 * part;
        let fair = |i: usize| f64::from(1u32 << log2_slots) * f64::from(weights[i % weights.len()]) / total;
        let shares = || before.1.iter().enumerate().map(|(i, (_, count))| f64::from(*count) / fair(i));
        sum.most += shares().fold(0.0, f64::max) * part;
        sum.least += shares().fold(f64::INFINITY, f64::min) * part;
        let without: Vec<_> = all(n).into_iter().filter(|m| m.id != id(n / 2)).collect();
        sum.remove += ratio(&before, &made(&without, kind, log2_slots, seed)) * part;
        sum.add += ratio(&before, &made(&all(n + 1), kind, log2_slots, seed)) * part;
        let mut double = all(n);
        double[n / 2].weight.0 *= 2;
        sum.double += ratio(&before, &made(&double, kind, log2_slots, seed)) * part;
    }
    sum
}

/// Owners by backend, with the number of slots each has.
type Made = (Vec<BackendId>, Vec<(BackendId, u32)>);

fn made(members: &[Member], kind: Scheduler, log2_slots: u8, seed: u64) -> Made {
    let Ok(base) = BaseTable::build(members, log2_slots, seed) else { return Made::default() };
    let table = scheduled(&base, kind, &base.weights());
    let of = |o: &u16| base.members().get(usize::from(*o)).map_or(id(usize::MAX >> 40), |m| m.id);
    let counts = table.counts(members.len());
    (table.owner.iter().map(of).collect(), base.members().iter().map(|m| m.id).zip(counts).collect())
}

/// Slots that moved over those that had to: the ones that backends have fewer of than before.
fn ratio(before: &Made, after: &Made) -> f64 {
    let moved = before.0.iter().zip(&after.0).filter(|(a, b)| a != b).count();
    let now = |id: &BackendId| after.1.iter().find(|(other, _)| other == id).map_or(0, |(_, n)| *n);
    let least: u32 = before.1.iter().map(|(id, n)| n.saturating_sub(now(id))).sum();
    moved as f64 / f64::from(least.max(1))
}

/// Failures at this size.
pub fn failures(log2_slots: u8, n: usize) -> Option<Failures> {
    let mut base_ms = f64::INFINITY;
    let mut base = None;
    for _ in 0..5 {
        let began = Instant::now();
        base = BaseTable::build(&all(n), log2_slots, 5).ok();
        base_ms = base_ms.min(began.elapsed().as_secs_f64() * 1e3);
    }
    let base = base?;
    let out = |gone: &[usize]| -> Vec<u32> { (0..n).map(|i| u32::from(!gone.contains(&i))).collect() };
    let healthy = owners(&base, &base.weights(), SLACK_PERMILLE);
    let failed = owners(&base, &out(&[n / 3]), SLACK_PERMILLE);
    let mut overlay_ms = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        std::hint::black_box(overlay(&base, &out(&[n / 3])));
        overlay_ms = overlay_ms.min(began.elapsed().as_secs_f64() * 1e3);
    }
    let k = (n / 20).max(1);
    let some: Vec<usize> = (0..k).map(|i| (i * 19 + 3) % n).collect();
    let more: Vec<usize> = some.iter().copied().chain([(n / 3 * 2 + 1) % n]).collect();
    let many = owners(&base, &out(&some), SLACK_PERMILLE);
    let one_more = owners(&base, &out(&more), SLACK_PERMILLE);
    let owned = |owner: &[u16], gone: &[usize]| owner.iter().filter(|o| gone.contains(&usize::from(**o))).count() as f64;
    let extra: Vec<usize> = more.iter().copied().filter(|m| !some.contains(m)).collect();
    Some(Failures {
        log2_slots,
        members: n,
        first: differ(&healthy, &failed) / owned(&healthy, &[n / 3]),
        restore: differ(&failed, &owners(&base, &base.weights(), SLACK_PERMILLE)) / owned(&healthy, &[n / 3]),
        many: differ(&healthy, &many) / owned(&healthy, &some),
        one_more: differ(&many, &one_more) / owned(&many, &extra).max(1.0),
        base_ms,
        overlay_ms,
    })
}

/// All weights walk: each step multiplies every one by about 1 +- `spread`.
pub fn jitter(log2_slots: u8, n: usize, spread: f64, steps: usize, seed: u64) -> Option<Jitter> {
    const UNIT: f64 = 1e6;
    let slots = 1u32 << log2_slots;
    let step = Settings::default().step;
    let base = BaseTable::build(&all(n), log2_slots, seed).ok()?;
    let mut random = Random::new(seed);
    let (mut walked, mut published) = (vec![0f64; n], vec![0f64; n]);
    let weights = |logs: &[f64]| -> Vec<u32> { logs.iter().map(|l| (UNIT * l.exp()) as u32).collect() };
    let start = base.owner().to_vec();
    let (mut none, mut slack, mut calm, mut maglev) =
        (start.clone(), start.clone(), start, scheduled(&base, Scheduler::Maglev, &base.weights()).owner);
    let mut quota = quotas(&base.weights(), slots);
    let mut sums = [0f64; 5];
    for _ in 0..steps {
        for (walked, published) in walked.iter_mut().zip(&mut published) {
            *walked += spread * random.normal();
            *published = steady(*published, *walked, step);
        }
        let (now, told) = (weights(&walked), weights(&published));
        let shares = quotas(&now, slots);
        sums[0] += quota.iter().zip(&shares).map(|(a, b)| f64::from(a.saturating_sub(*b))).sum::<f64>();
        quota = shares;
        let nexts = [owners(&base, &now, 0), owners(&base, &now, SLACK_PERMILLE), owners(&base, &told, SLACK_PERMILLE)];
        let nexts = nexts.into_iter().chain([scheduled(&base, Scheduler::Maglev, &now).owner]);
        for ((next, old), sum) in nexts.zip([&mut none, &mut slack, &mut calm, &mut maglev]).zip(&mut sums[1..]) {
            *sum += differ(old, &next);
            *old = next;
        }
    }
    let [least, none, slack, calm, maglev] = sums;
    let (no_slack, slack, steady, maglev) = (none / least, slack / least, calm / least, maglev / least);
    Some(Jitter { log2_slots, members: n, steps, least: least / steps as f64, no_slack, slack, steady, maglev })
}

fn differ(a: &[u16], b: &[u16]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a != b).count() as f64
}

fn all(n: usize) -> Vec<Member> {
    weighted(n, &[1])
}

fn weighted(n: usize, weights: &[u16]) -> Vec<Member> {
    (0..n).map(|i| Member { id: id(i), weight: Weight(weights[i % weights.len()]) }).collect()
}

fn id(i: usize) -> BackendId {
    BackendId((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 8080).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_restores_move_just_what_they_must() {
        for n in [100, 1000] {
            let f = failures(16, n).unwrap();
            assert_eq!((f.first, f.restore, f.many), (1.0, 1.0, 1.0), "{f:?}");
        }
    }

    #[test]
    fn weights_that_are_published_in_steps_move_less_than_the_optimum() {
        let j = jitter(12, 40, 0.02, 25, 3).unwrap();
        assert!(j.steady < 0.8 && j.slack < j.no_slack && j.no_slack < j.maglev, "{j:?}");
    }

    #[test]
    fn the_consistent_table_moves_less_than_maglevs() {
        let rows = changes(12, 40, &[1], 1);
        assert!(rows[0].remove < rows[1].remove && rows[0].most < 1.02, "{rows:?}");
        let weighed = changes(12, 40, &[1, 2, 4], 1);
        assert!(weighed[0].remove < weighed[1].remove && weighed[0].most < 1.03 && weighed[0].least > 0.97, "{weighed:?}");
        assert!((rows[3].remove - 1.0).abs() < 1e-9, "a draw moves nothing that it need not: {rows:?}");
    }
}
