//! How long tables and plans take to make. One thread; sizes of a small, a large and a huge service.

use std::{collections::BTreeMap, hint::black_box, net::Ipv4Addr, time::Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh::{
    health::Health,
    model::{BackendId, Endpoint, Mode, Proto, VipAddr, Weight},
    plan::{Cache, Seen, ServiceInput, ServiceSpec, plan},
    table::{BaseTable, Member, SLACK_PERMILLE, Scheduler, overlay, owners, secondaries},
};

const SEED: u64 = 0x6d65_7368;
/// Slots (as a power of two) and members.
const SIZES: [(u8, usize); 3] = [(12, 40), (16, 1000), (20, 10_000)];

fn id(i: usize) -> BackendId {
    BackendId((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 8080).into())
}

/// Weights from 1 to 4.
fn weight(i: usize) -> Weight {
    Weight(1 + i as u16 % 4)
}

fn members(n: usize) -> Vec<Member> {
    (0..n).map(|i| Member { id: id(i), weight: weight(i) }).collect()
}

fn base(log2_slots: u8, n: usize) -> BaseTable {
    BaseTable::build(&members(n), log2_slots, SEED).expect("the sizes are legal")
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    group.sample_size(20);
    for (log2, n) in SIZES {
        let size = format!("2^{log2}x{n}");
        let members = members(n);
        group.bench_function(BenchmarkId::new("base", &size), |b| b.iter(|| BaseTable::build(black_box(&members), log2, SEED)));
        let base = base(log2, n);
        let mut one_down = base.weights();
        one_down[n / 2] = 0;
        let mut rack_down = base.weights();
        rack_down.iter_mut().step_by(20).for_each(|w| *w = 0);
        let uneven: Vec<u32> = (0..n).map(|i| u32::from(weight(i).0) * (2048 + (i * 37 % 82) as u32 - 41)).collect();
        for (case, effective) in [("one_down", &one_down), ("one_in_20_down", &rack_down), ("all_jitter_2%", &uneven)] {
            group.bench_function(BenchmarkId::new(format!("owners/{case}"), &size), |b| {
                b.iter(|| owners(&base, black_box(effective), SLACK_PERMILLE));
            });
            let owner = owners(&base, effective, SLACK_PERMILLE);
            group.bench_function(BenchmarkId::new(format!("secondaries/{case}"), &size), |b| {
                b.iter(|| secondaries(&base, &owner, black_box(effective)));
            });
        }
        group.bench_function(BenchmarkId::new("overlay/one_down", &size), |b| b.iter(|| overlay(&base, black_box(&one_down))));
    }
    group.finish();
}

/// The whole plan, again and again, while one backend of one service goes down and comes back.
fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(20);
    for (services, n) in [(1, 1000), (1000, 10)] {
        let specs: Vec<_> = (0..services).map(spec).collect();
        let endpoints: Vec<Vec<_>> = (0..services).map(|s| (0..n).map(|i| endpoint(s * n + i)).collect()).collect();
        let up = |i| (id(i), Seen { health: Health::Up, back_since: None });
        let mut seen: Vec<BTreeMap<_, _>> = (0..services).map(|s| (0..n).map(|i| up(s * n + i)).collect()).collect();
        let (intents, dynamic, gates) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut cache, now, mut down) = (Cache::default(), Instant::now(), false);
        let mut once = || {
            down = !down;
            let health = if down { Health::Down } else { Health::Up };
            seen[0].insert(id(n / 2), Seen { health, back_since: None });
            let inputs: Vec<_> = (0..services)
                .map(|s| ServiceInput {
                    spec: &specs[s],
                    endpoints: &endpoints[s],
                    intents: &intents,
                    seen: &seen[s],
                    dynamic: &dynamic,
                    gates: &gates,
                    shared: false,
                })
                .collect();
            plan(&inputs, SEED, now, &mut cache)
        };
        once();
        group.bench_function(BenchmarkId::new("one_backend_changes", format!("{services}x{n}")), |b| b.iter(&mut once));
    }
    group.finish();
}

fn spec(i: usize) -> ServiceSpec {
    ServiceSpec {
        name: format!("s{i}").parse().expect("a legal name"),
        vip: VipAddr { addr: Ipv4Addr::from_bits(0xc000_0200 + i as u32).into(), port: 80, proto: Proto::Tcp },
        mode: Mode::Nat,
        ways: mesh::model::Ways::default(),
        when_empty: Default::default(),
        announce: None,
        checked: true,
        log2_slots: None,
        scheduler: Scheduler::default(),
        locality: None,
        backup_below: 0,
    }
}

fn endpoint(i: usize) -> Endpoint {
    Endpoint::new(id(i), weight(i))
}

criterion_group!(benches, tables, plans);
criterion_main!(benches);
