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

fn load(hook: Hook) -> Kernel {
    Kernel::load_in_time(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Publishes the world; one flow in `every` is told. What was told before is known still: tests of one kernel use other ports.
fn publish(kernel: &mut Kernel, world: &World, every: u32) {
    kernel.reset(&mut |maps| {
        world.publish(maps);
        maps.config.flow_sample = sample(every);
    });
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
        let (mut kernel, mut before) = (load(hook), 0);
        for (at, (mode, v6)) in
            [(Mode::Dsr, false), (Mode::Dnat, false), (Mode::Tunnel, false), (Mode::Dsr, true), (Mode::Dnat, true)].into_iter().enumerate()
        {
            let world = world(mode, Proto::Tcp, v6);
            publish(&mut kernel, &world, 1);
            let range = 1000 + 100 * at as u16..1020 + 100 * at as u16;
            for port in range.clone() {
                for flags in [tcp::SYN, tcp::SYN, tcp::ACK, tcp::ACK | tcp::FIN] {
                    let out = kernel.send(&frame(&world, port, flags));
                    assert!(out.verdict.is_forward(), "{:?}", out.verdict);
                }
            }
            let (records, [told, lost]) = kernel.flows();
            assert_eq!((ports(&records), told - before, lost), (range.collect(), 20, 0), "{mode:?} by {hook:?}, IPv6: {v6}");
            before = told;
            told_rightly(&records, &world, v6);
        }
    }
}

fn told_rightly(records: &[FlowRecord], world: &World, v6: bool) {
    let times: BTreeSet<u64> = records.iter().map(|r| r.time).collect();
    assert!(times.len() == records.len() && !times.contains(&0));
    let (family, wanted) = match client(v6, 0).0 {
        IpAddr::V4(a) => (Family::V4, a.octets().to_vec()),
        IpAddr::V6(a) => (Family::V6, a.octets().to_vec()),
    };
    for record in records {
        assert_eq!((&record.client.0[..wanted.len()], record.family), (&wanted[..], family as u8));
        assert_eq!((record.service, record.stats), (World::service_id(0), world.stats_index(0, 0)));
        assert_eq!(record.port, 80_u16.to_be_bytes());
    }
}

#[test]
fn datagrams_are_told_once_a_flow() {
    let world = world(Mode::Dsr, Proto::Udp, false);
    let mut kernel = load(Hook::Xdp);
    publish(&mut kernel, &world, 1);
    for port in (1000..1010).cycle().take(50) {
        kernel.send(&frame(&world, port, 0));
    }
    let (records, counts) = kernel.flows();
    assert_eq!((ports(&records), counts), ((1000..1010).collect(), [10, 0]));
}

#[test]
fn a_sample_is_told_by_the_flow_and_none_where_it_is_off() {
    let world = world(Mode::Dsr, Proto::Tcp, false);
    let mut kernel = load(Hook::Xdp);
    let mut told = |every, world: &World, from: u16| {
        publish(&mut kernel, world, every);
        (from..from + 640).for_each(|port| drop(kernel.send(&frame(world, port, tcp::SYN))));
        ports(&kernel.flows().0)
    };
    assert!(told(0, &world, 1000).is_empty());
    let some = told(8, &world, 1000);
    assert!((40..130).contains(&some.len()), "{}", some.len());
    // Those were told, but for the few that share a word with another.
    assert!(told(8, &world, 1000).len() < 8);
    let more = told(4, &world, 1000);
    let again = more.iter().filter(|port| some.contains(port)).count();
    assert!((40..130).contains(&more.len()) && again < 8, "a larger sample has the smaller one within: {} and {again}", more.len());
    // Translated flows are told by who sweeps them.
    assert!(told(1, &self::world(Mode::Nat, Proto::Tcp, false), 3000).is_empty());
}

#[test]
fn what_there_is_no_room_for_is_counted_and_forwarded() {
    let world = world(Mode::Dsr, Proto::Tcp, false);
    let mut kernel = load(Hook::Xdp);
    publish(&mut kernel, &world, 1);
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
