//! How flows spread over slots: evenly, each always to the same one, and to the slot that the table's size says.

use std::{collections::BTreeMap, net::Ipv4Addr};

use mesh_common::abi::{Mode, Proto, SlotWord};
use mesh_tests::fixture::{Engine, Frame, Host, Member, Service, Sizes, World, tcp};

const SLOTS: usize = 64;
const FLOWS: u32 = 32_000;

/// A service whose every slot has a backend of its own, told by its MAC.
fn host(slots: usize) -> Host {
    let members = (0..32).map(|n| Member::new(n, (Ipv4Addr::new(10, 1, 0, n).into(), 80))).collect();
    let owner = |slot: usize| SlotWord::steady((slot % 32) as u16, SlotWord::NONE);
    let vip = (Ipv4Addr::new(198, 51, 100, 1).into(), 80);
    let service = Service { slots: (0..slots).map(owner).collect(), ..Service::new(vip, Proto::Tcp, Mode::Dsr, members) };
    let mut host = Host::new(Sizes::SMALL);
    host.reset(&mut |maps| World::new(vec![service.clone()]).publish(maps));
    host
}

/// The backend that flow `n` goes to.
fn owner(host: &mut Host, n: u32) -> u8 {
    let client = Ipv4Addr::from(0xc000_0200 + n / 512);
    let frame = Frame::tcp((client.into(), 1024 + (n % 512) as u16), (Ipv4Addr::new(198, 51, 100, 1).into(), 80), tcp::ACK);
    let out = host.send(&frame.bytes());
    assert!(out.verdict.is_forward());
    out.bytes[5]
}

#[test]
fn evenly() {
    let mut host = host(32);
    let mut counts = BTreeMap::<u8, u32>::new();
    (0..FLOWS).for_each(|n| *counts.entry(owner(&mut host, n)).or_default() += 1);
    let share = FLOWS / 32;
    assert_eq!(counts.len(), 32);
    // 1000 flows a slot on average; the standard deviation is 31, so six of them are never seen by chance.
    assert!(counts.values().all(|c| c.abs_diff(share) < 190), "{counts:?}");
}

/// slot = hash >> shift: of a table twice as large, slots 2 n and 2 n + 1 take what slot n had.
#[test]
fn by_the_upper_bits() {
    let (mut small, mut large) = (host(16), host(32));
    for n in 0..2000 {
        assert_eq!(owner(&mut large, n) / 2, owner(&mut small, n));
    }
}

#[test]
fn a_change_of_one_slot_moves_its_flows_only() {
    let mut host = host(SLOTS);
    let before: Vec<u8> = (0..2000).map(|n| owner(&mut host, n)).collect();
    host.edit(&mut |maps| maps.slots[4 + 5] = SlotWord::steady(31, SlotWord::NONE));
    for (n, was) in (0..2000).zip(before) {
        let is = owner(&mut host, n);
        assert!(is == was || (was == 5 && is == 31), "flow {n} went from {was} to {is}");
    }
}
