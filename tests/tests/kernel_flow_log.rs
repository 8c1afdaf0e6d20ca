//! The flow log's ring: which flows are told, once each, and what becomes of those that there is no room for.

use std::{collections::BTreeSet, net::IpAddr};

use mesh_common::{
    abi::{Family, FlowRecord, Mode, Proto},
    flow_log::{RING, sample},
};
use mesh_tests::fixture::{Engine, Frame, Hook, INGRESS, Kernel, Member, Service, Sizes, World, tcp};

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const CLIENT6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9];

fn world(mode: Mode, proto: Proto, v6: bool) -> World {
    let vip: IpAddr = if v6 { [0xfd00, 96, 0, 0, 0, 0, 0, 1].into() } else { [10, 96, 0, 1].into() };
    let at: IpAddr = if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, 1].into() } else { [10, 0, 0, 1].into() };
    let member = Member::new(1, (at, 80)).with(|m| m.ifindex = INGRESS);
    World::new(vec![Service::new((vip, 80), proto, mode, vec![member])])
}

fn load(hook: Hook, world: &World, every: u32) -> Kernel {
    let mut kernel = Kernel::load(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"));
    kernel.reset(&mut |maps| {
        world.publish(maps);
        maps.config.flow_sample = sample(every);
    });
    kernel
}

fn client(v6: bool, port: u16) -> (IpAddr, u16) {
    (if v6 { CLIENT6.into() } else { CLIENT.into() }, port)
}

fn frame(world: &World, port: u16, flags: u8) -> Vec<u8> {
    let service = &world.services[0];
    let vip = (service.vip, service.port);
    match service.proto {
        Proto::Tcp => Frame::tcp(client(service.vip.is_ipv6(), port), vip, flags).bytes(),
        Proto::Udp => Frame::udp(client(service.vip.is_ipv6(), port), vip).bytes(),
    }
}

fn ports(records: &[FlowRecord]) -> Vec<u16> {
    records.iter().map(|r| u16::from_be_bytes(r.client_port)).collect()
}

/// Each connection once, however often its SYN is sent, and nothing of packets in the midst of one.
#[test]
fn every_mode_tells_of_each_connection_once() {
    for hook in [Hook::Xdp, Hook::Tc] {
        for (mode, v6) in [(Mode::Dsr, false), (Mode::Dnat, false), (Mode::Tunnel, false), (Mode::Dsr, true), (Mode::Dnat, true)] {
            let world = world(mode, Proto::Tcp, v6);
            let mut kernel = load(hook, &world, 1);
            for port in 1000..1020 {
                for flags in [tcp::SYN, tcp::SYN, tcp::ACK, tcp::ACK | tcp::FIN] {
                    let out = kernel.send(&frame(&world, port, flags));
                    assert!(out.verdict.is_forward(), "{:?}", out.verdict);
                }
            }
            let (records, counts) = kernel.flows();
            assert_eq!((ports(&records), counts), ((1000..1020).collect(), [20, 0]), "{mode:?} by {hook:?}, IPv6: {v6}");
            let family = if v6 { Family::V6 } else { Family::V4 };
            let times: BTreeSet<u64> = records.iter().map(|r| r.time).collect();
            assert!(times.len() == 20 && !times.contains(&0));
            for record in records {
                let bytes: &[u8] = if v6 { &record.client.0 } else { &record.client.0[..4] };
                let wanted = match client(v6, 0).0 {
                    IpAddr::V4(a) => a.octets().to_vec(),
                    IpAddr::V6(a) => a.octets().to_vec(),
                };
                assert_eq!((bytes, record.family, record.port), (&wanted[..], family as u8, 80_u16.to_be_bytes()));
                assert_eq!((record.service, record.stats), (World::service_id(0), world.stats_index(0, 0)));
            }
        }
    }
}

#[test]
fn datagrams_are_told_once_a_flow() {
    let world = world(Mode::Dsr, Proto::Udp, false);
    let mut kernel = load(Hook::Xdp, &world, 1);
    for port in (1000..1010).cycle().take(50) {
        kernel.send(&frame(&world, port, 0));
    }
    let (records, counts) = kernel.flows();
    assert_eq!((ports(&records), counts), ((1000..1010).collect(), [10, 0]));
}

#[test]
fn a_sample_is_told_by_the_flow_and_none_where_it_is_off() {
    let world = world(Mode::Dsr, Proto::Tcp, false);
    let told = |every, mode: &World| {
        let mut kernel = load(Hook::Xdp, mode, every);
        (1000..1640).for_each(|port| drop(kernel.send(&frame(mode, port, tcp::SYN))));
        ports(&kernel.flows().0)
    };
    assert!(told(0, &world).is_empty());
    let some = told(8, &world);
    assert!((40..130).contains(&some.len()), "{}", some.len());
    assert_eq!(told(8, &world), some, "the same flows are told whenever they are asked about");
    // Translated flows are told by who sweeps them.
    assert!(told(1, &self::world(Mode::Nat, Proto::Tcp, false)).is_empty());
}

#[test]
fn what_there_is_no_room_for_is_counted_and_forwarded() {
    let world = world(Mode::Dsr, Proto::Tcp, false);
    let mut kernel = load(Hook::Xdp, &world, 1);
    // A record has a header of 8 bytes.
    let room = u64::from(RING) / (size_of::<FlowRecord>() as u64 + 8);
    let sent = room + 1000;
    for n in 0..sent {
        let out = kernel.send(&frame(&world, 1000 + n as u16, tcp::SYN));
        assert!(out.verdict.is_forward(), "{:?}", out.verdict);
    }
    let (records, [told, lost]) = kernel.flows();
    assert_eq!((records.len() as u64, told + lost), (told, sent));
    assert!((room - 2..=room).contains(&told) && lost >= 1000, "{told} of {room}, {lost} lost");
    kernel.send(&frame(&world, 999, tcp::SYN));
    assert_eq!(ports(&kernel.flows().0), [999], "there is room again");
}
