//! Translation at scale: a million flows at once, and a flood beside them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use aya::{TestRun, TestRunOptions};
use mesh_common::abi::{Mode, NatBucket, NatFlow, Proto, SlotWord};
use mesh_tests::fixture::{Engine, Frame, Hook, Kernel, Member, Service, Sizes, World};

/// What the daemon makes of `nat_flows: 1048576`.
const FLOWS: u32 = 1 << 20;
const ENTRIES: u32 = FLOWS / 2 * 3;
const BUCKETS: u32 = FLOWS / 2;
const BACKENDS: u8 = 200;

fn vip() -> (IpAddr, u16) {
    (Ipv4Addr::new(198, 51, 100, 1).into(), 80)
}

fn world(half_open_limit: u32) -> World {
    let members = (0..BACKENDS).map(|n| Member::new(n, (Ipv4Addr::new(10, 1, 0, n).into(), 8080))).collect();
    let mut service = Service::new(vip(), Proto::Udp, Mode::Nat, members);
    service.slots = (0..1024_u16).map(|i| SlotWord::steady(i % u16::from(BACKENDS), SlotWord::NONE)).collect();
    World::new(vec![service]).with_nat(|nat| {
        (nat.ports, nat.half_open_limit) = (vec![1024..=32_767], half_open_limit);
        (nat.half_open_ticks, nat.udp_ticks) = (100_000, 100_000);
    })
}

fn load(entries: u32, buckets: u32, half_open_limit: u32) -> Kernel {
    let sizes = Sizes { slots: 2048, backends: 256, backend_stats: 256, nat_flows: entries, nat_index: buckets, ..Sizes::SMALL };
    let mut kernel = Kernel::load(Hook::Xdp, sizes).unwrap_or_else(|e| panic!("{e:#}"));
    let world = world(half_open_limit);
    kernel.reset(&mut |maps| world.publish(maps));
    kernel
}

/// The client's first datagram, by number. Only addresses and ports differ, so the frame is made once.
fn client(frame: &mut [u8], n: u32) {
    // Sixteen ports of each address: neighbours in everything, which is where a poor choice of source ports would line up.
    frame[26..30].copy_from_slice(&(0x0b00_0000 + n / 16).to_be_bytes());
    frame[34..36].copy_from_slice(&(40_000 + (n % 16) as u16).to_be_bytes());
}

/// Whether it was sent on.
fn sent(kernel: &mut Kernel, frame: &[u8]) -> bool {
    const XDP_TX: u32 = 3;
    let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
    kernel.program().and_then(|p| Ok(p.test_run(options)?)).unwrap_or_else(|e| panic!("{e:#}")).return_value == XDP_TX
}

#[test]
fn a_million_flows_at_once() {
    let mut kernel = load(ENTRIES, BUCKETS, u32::MAX);
    let memory = u64::from(ENTRIES) * size_of::<NatFlow>() as u64 + u64::from(BUCKETS) * size_of::<NatBucket>() as u64;
    assert!(memory <= 128 << 20, "the maps take {memory} bytes");
    let mut frame = Frame::udp((Ipv4Addr::UNSPECIFIED.into(), 0), vip()).bytes();
    without_checksums(&mut frame);
    let begun = Instant::now();
    let refused = (0..FLOWS).filter(|n| {
        client(&mut frame, *n);
        !sent(&mut kernel, &frame)
    });
    let refused = refused.count();
    println!("{FLOWS} flows in {memory} bytes, {refused} refused, {:?}", begun.elapsed());
    // Those that find all eight ways of their bucket taken: 2 of 10,000.
    assert!(refused < 500, "{refused} of {FLOWS} were refused");
    let live = kernel.maps().flows().count();
    assert_eq!(live, FLOWS as usize - refused);
    // Each of them goes on, by the entry that it has.
    for n in (0..FLOWS).step_by(1009) {
        client(&mut frame, n);
        sent(&mut kernel, &frame);
    }
    assert_eq!(kernel.maps().flows().count(), live);
}

#[test]
fn a_flood_does_not_push_out_what_is_established() {
    const ESTABLISHED: u32 = 500;
    let mut kernel = load(3072, 1024, 256);
    let mut frame = Frame::udp((Ipv4Addr::UNSPECIFIED.into(), 0), vip()).bytes();
    without_checksums(&mut frame);
    for n in 0..ESTABLISHED {
        client(&mut frame, n);
        assert!(sent(&mut kernel, &frame), "flow {n} did not begin");
        // As if its backend had answered.
        kernel.edit(&mut |maps| {
            maps.nat_flows.iter_mut().filter(|f| f.claim != 0).for_each(|f| f.stage = NatFlow::ESTABLISHED);
            maps.nat_gauges.half_open = 0;
        });
    }
    let of =
        |kernel: &mut Kernel| -> Vec<u64> { kernel.maps().flows().filter(|f| f.stage == NatFlow::ESTABLISHED).map(|f| f.claim).collect() };
    let before = of(&mut kernel);
    assert_eq!(before.len(), ESTABLISHED as usize);
    let mut through = 0;
    for n in 0..20_000 {
        client(&mut frame, 1_000_000 + n);
        through += u32::from(sent(&mut kernel, &frame));
        if n % 500 == 499 {
            // Time passes, so that the flood's flows are stuck.
            kernel.edit(&mut |maps| maps.nat_flows.iter_mut().filter(|f| f.claim != 0).for_each(|f| f.seen = f.seen.wrapping_sub(10)));
        }
    }
    assert_eq!(of(&mut kernel), before, "established flows were pushed out");
    let half_open = kernel.maps().flows().filter(|f| f.stage != NatFlow::ESTABLISHED).count();
    assert!((1..=257).contains(&half_open), "{half_open} half-open flows");
    assert!(through > 1000, "of 20,000 first packets only {through} got through: those that are stuck have to make room");
}

/// They would have to be made anew for each frame: UDP's may be absent, and the IPv4 header's is not looked at here.
fn without_checksums(frame: &mut [u8]) {
    frame[24..26].fill(0);
    frame[40..42].fill(0);
}
