//! How many slots a change moves, by builder, as a multiple of those that must move.

use std::{collections::HashMap, net::Ipv4Addr, time::Instant};

use mesh::{
    model::{BackendId, Weight},
    table::{BaseTable, Member, SLACK_PERMILLE, Scheduler, overlay, owners, quotas, scheduled},
    weights::{Settings, steady},
};

use super::random::Random;

/// What one builder does to one change.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Change {
    pub builder: String,
    pub log2_slots: u8,
    pub members: usize,
    /// Largest and smallest share over the fair one.
    pub most: f64,
    pub least: f64,
    /// How far shares are from the fair ones: root of the mean square.
    pub rms: f64,
    /// A backend is removed, added, has twice the weight.
    pub remove: Moved,
    pub add: Moved,
    pub double: Moved,
    pub build_ms: f64,
}

/// Slots that one change moves.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Moved {
    /// Over those that must.
    pub ratio: f64,
    /// Those beyond, as a part of the table.
    pub excess: f64,
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
    /// Largest share over the fair one when that many are gone.
    pub most: f64,
    /// The first failure and the one more where backends must not have more than their quota.
    pub first_tight: f64,
    pub one_more_tight: f64,
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
    /// Moved over that: by the overlay with so much slack, each of [`SLACKS`] in turn; with the project's and weights that are published in steps of 4 %;
    /// by a table that is built anew of the weights each time; by maglev's.
    pub slack: [f64; SLACKS.len()],
    pub steady: f64,
    pub anew: f64,
    pub maglev: f64,
}

/// Permille that a backend may have beyond its quota.
pub const SLACKS: [u32; 4] = [0, 10, SLACK_PERMILLE, 50];

/// How weights walk.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Each step multiplies a weight by about 1 +- this.
    pub spread: f64,
    /// Part of the backends whose weights walk in a step.
    pub part: f64,
    pub steps: usize,
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
    let mut sum = Change { builder: name.into(), log2_slots, members: n, ..Change::default() };
    let part = 1.0 / trials as f64;
    for seed in 0..trials {
        let began = Instant::now();
        let before = made(&all(n), kind, log2_slots, seed);
        sum.build_ms += began.elapsed().as_secs_f64() * 1e3 * part;
        let fair = |i: usize| f64::from(1u32 << log2_slots) * f64::from(weights[i % weights.len()]) / total;
        let shares = || before.1.iter().enumerate().map(|(i, (_, count))| f64::from(*count) / fair(i));
        sum.most += shares().fold(0.0, f64::max) * part;
        sum.least += shares().fold(f64::INFINITY, f64::min) * part;
        sum.rms += (shares().map(|s| (s - 1.0).powi(2)).sum::<f64>() / n as f64).sqrt() * part;
        let without: Vec<_> = all(n).into_iter().filter(|m| m.id != id(n / 2)).collect();
        let mut double = all(n);
        double[n / 2].weight.0 *= 2;
        for (sum, members) in [(&mut sum.remove, without), (&mut sum.add, all(n + 1)), (&mut sum.double, double)] {
            let moved = moved(&before, &made(&members, kind, log2_slots, seed));
            *sum = Moved { ratio: sum.ratio + moved.ratio * part, excess: sum.excess + moved.excess * part };
        }
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

/// Slots that moved, and those that had to: the ones that backends have fewer of than before.
fn moved(before: &Made, after: &Made) -> Moved {
    let moved = before.0.iter().zip(&after.0).filter(|(a, b)| a != b).count() as f64;
    let now: HashMap<BackendId, u32> = after.1.iter().copied().collect();
    let least: u32 = before.1.iter().map(|(id, n)| n.saturating_sub(now.get(id).copied().unwrap_or(0))).sum();
    Moved { ratio: moved / f64::from(least.max(1)), excess: (moved - f64::from(least)) / before.0.len() as f64 }
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
    let tight = [vec![], vec![n / 3], some.clone(), more.clone()].map(|gone| owners(&base, &out(&gone), 0));
    let owned = |owner: &[u16], gone: &[usize]| owner.iter().filter(|o| gone.contains(&usize::from(**o))).count() as f64;
    let extra: Vec<usize> = more.iter().copied().filter(|m| !some.contains(m)).collect();
    Some(Failures {
        log2_slots,
        members: n,
        first: differ(&healthy, &failed) / owned(&healthy, &[n / 3]),
        restore: differ(&failed, &owners(&base, &base.weights(), SLACK_PERMILLE)) / owned(&healthy, &[n / 3]),
        many: differ(&healthy, &many) / owned(&healthy, &some),
        one_more: differ(&many, &one_more) / owned(&many, &extra).max(1.0),
        most: largest(&many, n) * (n - k) as f64 / many.len() as f64,
        first_tight: differ(&tight[0], &tight[1]) / owned(&tight[0], &[n / 3]),
        one_more_tight: differ(&tight[2], &tight[3]) / owned(&tight[2], &extra).max(1.0),
        base_ms,
        overlay_ms,
    })
}

/// Weights walk.
pub fn jitter(log2_slots: u8, n: usize, walk: &Walk, seed: u64) -> Option<Jitter> {
    const UNIT: f64 = 1e6;
    let slots = 1u32 << log2_slots;
    let step = Settings::default().step;
    let base = BaseTable::build(&all(n), log2_slots, seed).ok()?;
    let mut random = Random::new(seed);
    let (mut walked, mut published) = (vec![0f64; n], vec![0f64; n]);
    let weights = |logs: &[f64]| -> Vec<u32> { logs.iter().map(|l| (UNIT * l.exp()) as u32).collect() };
    // By each builder: of the overlay with each slack, in steps, anew, and maglev's.
    let mut tables = vec![base.owner().to_vec(); SLACKS.len() + 3];
    tables[SLACKS.len() + 2] = scheduled(&base, Scheduler::Maglev, &base.weights()).owner;
    let mut quota = quotas(&base.weights(), slots);
    let (mut least, mut sums) = (0.0, vec![0f64; tables.len()]);
    for _ in 0..walk.steps {
        for (walked, published) in walked.iter_mut().zip(&mut published) {
            let walks = walk.part >= 1.0 || random.unit() < walk.part;
            *walked += if walks { walk.spread * random.normal() } else { 0.0 };
            *published = steady(*published, *walked, step);
        }
        let (now, told) = (weights(&walked), weights(&published));
        let shares = quotas(&now, slots);
        least += quota.iter().zip(&shares).map(|(a, b)| f64::from(a.saturating_sub(*b))).sum::<f64>();
        quota = shares;
        let by_slack = SLACKS.into_iter().map(|slack| owners(&base, &now, slack));
        let others = [owners(&base, &told, SLACK_PERMILLE), anew(&walked, log2_slots, seed)?];
        let nexts = by_slack.chain(others).chain([scheduled(&base, Scheduler::Maglev, &now).owner]);
        for ((next, old), sum) in nexts.zip(&mut tables).zip(&mut sums) {
            *sum += differ(old, &next);
            *old = next;
        }
    }
    let mut ratios = sums.into_iter().map(|sum| sum / least);
    let slack = std::array::from_fn(|_| ratios.next().unwrap_or(f64::NAN));
    let [steady, anew, maglev] = std::array::from_fn(|_| ratios.next().unwrap_or(f64::NAN));
    Some(Jitter { log2_slots, members: n, steps: walk.steps, least: least / walk.steps as f64, slack, steady, anew, maglev })
}

/// A table that is built of these weights, which stand there as logarithms.
fn anew(logs: &[f64], log2_slots: u8, seed: u64) -> Option<Vec<u16>> {
    let weight = |log: &f64| Weight((4096.0 * log.exp()).round().clamp(1.0, 65_535.0) as u16);
    let members: Vec<_> = logs.iter().enumerate().map(|(i, log)| Member { id: id(i), weight: weight(log) }).collect();
    Some(BaseTable::build(&members, log2_slots, seed).ok()?.owner().to_vec())
}

fn largest(owner: &[u16], n: usize) -> f64 {
    let mut counts = vec![0u32; n];
    owner.iter().for_each(|o| counts[usize::from(*o)] += 1);
    counts.into_iter().max().map_or(0.0, f64::from)
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
        let j = jitter(12, 40, &Walk { spread: 0.02, part: 1.0, steps: 25 }, 3).unwrap();
        let [none, _, usual, most] = j.slack;
        assert!(j.steady < 0.8 && most < usual && usual < none && none < j.maglev, "{j:?}");
    }

    #[test]
    fn the_consistent_table_moves_less_than_maglevs() {
        let rows = changes(12, 40, &[1], 1);
        assert!(rows[0].remove.ratio < rows[1].remove.ratio && rows[0].most < 1.02, "{rows:?}");
        let weighed = changes(12, 40, &[1, 2, 4], 1);
        assert!(weighed[0].remove.ratio < weighed[1].remove.ratio && weighed[0].most < 1.03 && weighed[0].least > 0.97, "{weighed:?}");
        assert!((rows[3].remove.ratio - 1.0).abs() < 1e-9, "a draw moves nothing that it need not: {rows:?}");
    }
}
