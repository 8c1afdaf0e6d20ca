//! How long it takes until packets go by another plan: from plan to steps, and from steps to stores in a real map. Needs the capability BPF.

use std::{collections::BTreeMap, hint::black_box, net::IpAddr, os::fd::AsFd, sync::Arc, time::Instant};

use aya::maps::{Array, IterableMap, MapData};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mesh::{
    dataplane::{
        Limits,
        image::{Image, Row},
        layout::Layout,
        op::Op,
        reconcile::{Batch, Translation, reconcile, standings::Clock},
        vip_index,
    },
    model::{BackendId, BackendState, Mode, Proto, VipAddr, Weight},
    plan::{PlannedBackend, ServicePlan, Standing},
    table::Table,
    weights::{Factor, Parts},
};
use mesh_common::{
    abi::{Addr, Family, SlotWord, VipKey},
    ledger::change::Times,
};

const LOG2_SLOTS: u8 = 16;
const SLOTS: usize = 1 << LOG2_SLOTS;
const BACKENDS: u16 = 1000;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Slots in a real map, the rest on the heap.
fn image(layout: &Layout, limits: &Limits) -> (Image, Array<MapData, u64>) {
    let map = Array::<MapData, u64>::create(limits.slots, BPF_F_MMAPABLE).expect("the capability BPF is needed");
    let slots = Row::<SlotWord>::map(map.map().fd().as_fd(), limits.slots as usize).expect("an mmapable array can be mapped");
    let heap = Image::heap(2 * layout.half_size as usize, limits.services as usize + 1, 1, limits.backends as usize, 1);
    (Image { slots, ..heap }, map)
}

/// A service whose slot `i` belongs to backend `i + shift`.
fn service(shift: usize) -> Arc<ServicePlan> {
    let member = |i: u16| PlannedBackend {
        id: BackendId((IpAddr::from([10, 0, (i >> 8) as u8, i as u8]), 80).into()),
        name: None,
        state: BackendState::Active,
        standing: Standing::Serving,
        configured: Weight::ONE,
        factor: Factor::ONE,
        effective: 2048,
        parts: Parts::ONE,
        capacity: None,
        backup: 0,
        quic: None,
        sparing: Default::default(),
    };
    let owner = |i: usize| ((i + shift) % usize::from(BACKENDS)) as u16;
    Arc::new(ServicePlan {
        name: "web".parse().expect("a name"),
        vip: VipAddr { addr: IpAddr::from([192, 0, 2, 1]), port: 80, proto: Proto::Tcp },
        mode: Mode::Dsr,
        ways: mesh::model::Ways::default(),
        when_empty: Default::default(),
        announce: None,
        members: (0..BACKENDS).map(member).collect(),
        table: Arc::new(Table {
            log2_slots: LOG2_SLOTS,
            owner: (0..SLOTS).map(owner).collect(),
            secondary: (0..SLOTS).map(|i| owner(i + 1)).collect(),
        }),
        no_backends: false,
        problem: None,
    })
}

fn apply(image: &Image, ops: &[Op]) {
    ops.iter().for_each(|op| op.apply(image, &mut || {}));
}

fn plan(image: &Image, layout: &mut Layout, service: &Arc<ServicePlan>) -> Batch {
    let translation = Translation { sources: &[], ports: true };
    let times = Times { handshake: 20, idle: 2000, patience: 400, lag: 16 };
    reconcile(
        image,
        layout,
        std::slice::from_ref(service),
        &BTreeMap::new(),
        &translation,
        Clock { now: 1, instant: Instant::now(), times },
    )
}

fn publish(c: &mut Criterion) {
    let limits = Limits { services: 4, slots: 4 * SLOTS as u32, backends: 4096, nat_flows: 1, ledger: 4, flows: 4 };
    let mut layout = Layout::new(&limits);
    let (image, _map) = image(&layout, &limits);
    let before = service(0);
    apply(&image, &plan(&image, &mut layout, &before).ops);
    let after = service(1);
    let changes = plan(&image, &mut layout.clone(), &after).ops;
    assert_eq!(changes.iter().map(Op::slots_written).sum::<usize>(), SLOTS);
    let table = Op::Table { base: 2 * SLOTS as u32, slots: vec![SlotWord::steady(1, 2); SLOTS] };
    let mut one = service(0);
    let altered = Arc::new(Table { owner: one.table.owner.iter().map(|o| if *o == 7 { 8 } else { *o }).collect(), ..(*one.table).clone() });
    Arc::make_mut(&mut one).table = altered;
    let few = plan(&image, &mut layout.clone(), &one).ops;

    let mut group = c.benchmark_group("publish");
    group.bench_function("stores, table of 65,536 slots anew", |b| b.iter(|| table.apply(black_box(&image), &mut || {})));
    group.bench_function("stores, all of 65,536 slots in place", |b| b.iter(|| apply(black_box(&image), &changes)));
    group.bench_function("stores, one backend of 1000 goes", |b| b.iter(|| apply(black_box(&image), &few)));
    let mut flip = false;
    group.bench_function("plan to packets, all of 65,536 slots", |b| {
        b.iter_batched(
            || {
                flip = !flip;
                service(usize::from(flip))
            },
            |service| {
                let batch = plan(&image, &mut layout, &service);
                apply(&image, &batch.ops);
                (batch, service)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn index(c: &mut Criterion) {
    let key = |i: u32| VipKey { addr: Addr::v4(i.to_be_bytes()), port: [0, 80], proto: Proto::Tcp as u8, family: Family::V4 as u8 };
    let mut group = c.benchmark_group("vip index");
    group.sample_size(10);
    for services in [10_000u32, 60_000] {
        // Each VIP has an entry of its own, and one for its address.
        let keys: Vec<_> = (0..2 * services).map(key).collect();
        group.bench_function(format!("{services} VIPs"), |b| {
            b.iter(|| vip_index::build(black_box(&keys), 0, vip_index::half_size(services)))
        });
    }
    group.finish();
}

criterion_group!(benches, publish, index);
criterion_main!(benches);
