//! The life of a translated flow.

use crate::world::{BACKEND_PORT, CLIENT_MAC, OWN_MAC, PORT, SERVICE, Segment, World, address, said};
use mesh_common::abi::{BackendState, Family, Mode, NatFlow, Proto, Reason};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn tcp(family: Family) -> World {
    World::new(Mode::Nat, family, Proto::Tcp, 256)
}

/// Opens a connection all the way; the SYN as the backend got it.
fn connect(world: &World, port: u16) -> Vec<u8> {
    let syn = world.send(world.request(port, Segment::Syn)).unwrap();
    world.send(world.answer(&syn, Segment::SynAck)).unwrap();
    world.send(world.request(port, Segment::Ack)).unwrap();
    syn
}

fn only_flow(world: &World) -> NatFlow {
    let mut flows = world.tables.nat_flows.iter().map(|flow| flow.get()).filter(|flow| flow.claim != 0);
    let flow = flows.next().unwrap();
    assert!(flows.next().is_none(), "more than one flow");
    flow
}

#[test]
fn both_directions_are_translated() {
    for family in FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            let world = World::new(Mode::Nat, family, proto, 256);
            let forwarded = world.send(world.request(5000, Segment::Syn)).unwrap();
            let there = said(&forwarded);
            assert_eq!(there.src.0, address(family, 2));
            assert_eq!(there.dst.1, BACKEND_PORT);
            assert_eq!(there.ttl, 63);
            let reply = world.send(world.answer(&forwarded, Segment::SynAck)).unwrap();
            let back = said(&reply);
            assert_eq!((back.src, back.dst, back.ttl), ((world.vip(), PORT), (world.client(), 5000), 63));
            assert_eq!((&reply[..6], &reply[6..12]), (&CLIENT_MAC[..], &OWN_MAC[..]));
            world.assert_counts_add_up();
        }
    }
}

#[test]
fn a_retransmitted_syn_finds_its_flow() {
    for family in FAMILIES {
        let world = tcp(family);
        let first = world.send(world.request(5000, Segment::Syn)).unwrap();
        assert_eq!(world.send(world.request(5000, Segment::Syn)).unwrap(), first);
        assert_eq!((world.flows(), world.half_open()), (1, 1));
    }
}

#[test]
fn a_flow_is_half_open_until_the_client_has_acknowledged() {
    let world = tcp(Family::V4);
    let syn = world.send(world.request(5000, Segment::Syn)).unwrap();
    world.send(world.answer(&syn, Segment::SynAck)).unwrap();
    assert_eq!((world.half_open(), only_flow(&world).stage), (1, NatFlow::REPLIED));
    world.send(world.request(5000, Segment::Ack)).unwrap();
    world.send(world.request(5000, Segment::Ack)).unwrap();
    assert_eq!((world.half_open(), only_flow(&world).stage), (0, NatFlow::ESTABLISHED));
}

#[test]
fn a_udp_flow_is_established_by_an_answer() {
    let world = World::new(Mode::Nat, Family::V6, Proto::Udp, 256);
    let request = world.send(world.request(5000, Segment::Syn)).unwrap();
    world.send(world.request(5000, Segment::Syn)).unwrap();
    assert_eq!(world.half_open(), 1);
    world.send(world.answer(&request, Segment::Ack)).unwrap();
    assert_eq!(world.half_open(), 0);
}

#[test]
fn what_has_no_flow_is_not_made_one() {
    let world = tcp(Family::V4);
    for segment in [Segment::Ack, Segment::SynAck, Segment::Fin, Segment::Rst] {
        assert_eq!(world.send(world.request(5000, segment)), Err(Reason::NoFlow));
    }
    assert_eq!(world.flows(), 0);
    // To a source address and one of its ports, but nobody's reply: the host gets it.
    let stray = world.frame((address(Family::V4, 100), BACKEND_PORT), (address(Family::V4, 2), 40_007), Segment::Ack);
    assert_eq!(world.send(stray), Err(Reason::NotForVip));
    world.assert_counts_add_up();
}

#[test]
fn only_the_backend_itself_is_answered_for() {
    let world = tcp(Family::V4);
    let there = said(&connect(&world, 5000));
    let other = if there.dst.0 == address(Family::V4, 100) { 101 } else { 100 };
    let forged = world.frame((address(Family::V4, other), BACKEND_PORT), there.src, Segment::Ack);
    assert_eq!(world.send(forged), Err(Reason::NotForVip));
}

#[test]
fn a_syn_on_a_closed_flow_selects_anew() {
    let closings: [fn(&World, &[u8]); 3] = [
        |world, syn| {
            world.send(world.request(5000, Segment::Fin)).unwrap();
            world.send(world.answer(syn, Segment::Fin)).unwrap();
        },
        |world, _| {
            world.send(world.request(5000, Segment::Rst)).unwrap();
        },
        |world, syn| {
            world.send(world.answer(syn, Segment::Rst)).unwrap();
        },
    ];
    for close in closings {
        let world = tcp(Family::V4);
        let first = said(&connect(&world, 5000));
        close(&world, &world.send(world.request(5000, Segment::Ack)).unwrap());
        let at_first = usize::from(first.dst.0 == address(Family::V4, 101));
        world.set_state(at_first, BackendState::Draining);
        let second = said(&world.send(world.request(5000, Segment::Syn)).unwrap());
        assert_ne!(second.dst.0, first.dst.0);
        assert_eq!((world.flows(), world.half_open()), (1, 1));
    }
}

#[test]
fn flows_outlast_slots_and_states() {
    for state in [BackendState::Draining, BackendState::Soft, BackendState::Recovering] {
        let world = tcp(Family::V6);
        let first = said(&connect(&world, 5000));
        let at_first = usize::from(first.dst.0 == address(Family::V6, 101));
        world.set_state(at_first, state);
        for slot in &world.tables.slots {
            slot.set(mesh_common::abi::SlotWord::steady(1 - at_first as u16, 1 - at_first as u16));
        }
        assert_eq!(said(&world.send(world.request(5000, Segment::Ack)).unwrap()), first);
        assert_eq!(said(&world.send(world.request(5000, Segment::Syn)).unwrap()), first, "a SYN that comes late");
        assert_ne!(said(&world.send(world.request(6000, Segment::Syn)).unwrap()).dst, first.dst);
    }
}

#[test]
fn a_dead_backend_keeps_nothing() {
    for state in [BackendState::Down, BackendState::Maintenance, BackendState::Absent] {
        let world = tcp(Family::V4);
        let first = said(&connect(&world, 5000));
        world.set_state(usize::from(first.dst.0 == address(Family::V4, 101)), state);
        assert_eq!(world.send(world.request(5000, Segment::Ack)), Err(Reason::NoBackend));
        let second = said(&world.send(world.request(5000, Segment::Syn)).unwrap());
        assert_ne!(second.dst.0, first.dst.0);
        assert_eq!(world.tables.ended(SERVICE, Reason::NoBackend), 1);
    }
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let world = World::new(Mode::Nat, Family::V4, Proto::Tcp, 8);
    let mut kept = Vec::new();
    let mut refused = 0;
    for port in 5000..5100 {
        match world.send(world.request(port, Segment::Syn)) {
            Ok(frame) => kept.push((port, frame)),
            Err(reason) => {
                assert_eq!(reason, Reason::NatFull);
                refused += 1;
            }
        }
    }
    assert!(kept.len() <= 8 && kept.len() >= 6, "{} of 8 places were taken", kept.len());
    assert_eq!(world.flows(), kept.len());
    assert_eq!(world.half_open(), kept.len() as i64);
    assert_eq!(world.tables.ended(SERVICE, Reason::NatFull), refused);
    for (port, frame) in &kept {
        assert_eq!(&world.send(world.request(*port, Segment::Syn)).unwrap(), frame);
    }
    world.assert_counts_add_up();
}

#[test]
fn the_limit_of_half_open_flows_holds() {
    let world = tcp(Family::V4);
    world.tables.configure(|config| config.nat.half_open_limit = 3);
    let opened = (5000..5010).filter(|port| world.send(world.request(*port, Segment::Syn)).is_ok()).count();
    assert_eq!((opened, world.tables.ended(SERVICE, Reason::HalfOpenLimit)), (3, 7));
    let syn = world.send(world.request(5000, Segment::Syn)).unwrap();
    world.send(world.answer(&syn, Segment::SynAck)).unwrap();
    world.send(world.request(5000, Segment::Ack)).unwrap();
    assert!(world.send(world.request(5010, Segment::Syn)).is_ok(), "one of them is established");
}

#[test]
fn what_has_expired_is_taken_over() {
    type Live = fn(&World, u16);
    // Half open: 4 ticks where there is no other place; established: 1000; one side closed: 100; closed: 20.
    let lives: [(u32, Live); 4] = [
        (4, |world, port| {
            world.send(world.request(port, Segment::Syn)).unwrap();
        }),
        (1000, |world, port| {
            connect(world, port);
        }),
        (100, |world, port| {
            connect(world, port);
            world.send(world.request(port, Segment::Fin)).unwrap();
        }),
        (20, |world, port| {
            connect(world, port);
            world.send(world.request(port, Segment::Rst)).unwrap();
        }),
    ];
    for (ticks, live) in lives {
        let world = World::new(Mode::Nat, Family::V4, Proto::Tcp, 1);
        live(&world, 5000);
        world.pass(ticks);
        assert_eq!(world.send(world.request(6000, Segment::Syn)), Err(Reason::NatFull), "idle for {ticks} ticks");
        world.pass(1);
        world.send(world.request(6000, Segment::Syn)).unwrap();
        assert_eq!(only_flow(&world).client_port, 6000_u16.to_be_bytes());
        assert_eq!(world.half_open(), 1);
        assert_eq!(world.send(world.request(5000, Segment::Ack)), Err(Reason::NoFlow));
    }
}

#[test]
fn traffic_keeps_a_flow_alive() {
    let world = World::new(Mode::Nat, Family::V4, Proto::Udp, 1);
    let request = world.send(world.request(5000, Segment::Ack)).unwrap();
    // Until it is answered it is half open.
    world.send(world.answer(&request, Segment::Ack)).unwrap();
    for _ in 0..5 {
        world.pass(150);
        world.send(world.answer(&request, Segment::Ack)).unwrap();
        assert_eq!(world.send(world.request(6000, Segment::Ack)), Err(Reason::NatFull));
    }
    world.pass(201);
    assert!(world.send(world.request(6000, Segment::Ack)).is_ok());
}

#[test]
fn a_used_up_ttl_goes_nowhere() {
    let world = tcp(Family::V4);
    let syn = connect(&world, 5000);
    let mut request = world.request(5000, Segment::Ack);
    let mut answer = world.answer(&syn, Segment::Ack);
    (request[22], answer[22]) = (1, 1);
    assert_eq!(world.send(request), Err(Reason::TtlExceeded));
    assert_eq!(world.send(answer), Err(Reason::TtlExceeded));
}

#[test]
fn replies_follow_the_client_to_another_router() {
    let world = tcp(Family::V4);
    let syn = connect(&world, 5000);
    let mut moved = world.request(5000, Segment::Ack);
    moved[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    world.send(moved).unwrap();
    let reply = world.send(world.answer(&syn, Segment::Ack)).unwrap();
    assert_eq!(reply[..6], [2, 0, 0, 0, 0, 0x77]);
}
