//! What becomes of packets that need no memory, and of all that is cut off or torn.

use crate::world::{INGRESS, OWN_MAC, SERVICE, Segment, World};
use mesh_common::{
    abi::{Backend, BackendState, Family, Mode, Proto, Reason, SlotWord},
    account::Exit,
    forward::{Verdict, decide},
    host::Frame,
    packet::Packet,
};
use proptest::prelude::*;

const KINDS: [(Mode, Family, Proto); 8] = [
    (Mode::Dsr, Family::V4, Proto::Tcp),
    (Mode::Dsr, Family::V4, Proto::Udp),
    (Mode::Dsr, Family::V6, Proto::Tcp),
    (Mode::Dsr, Family::V6, Proto::Udp),
    (Mode::Nat, Family::V4, Proto::Tcp),
    (Mode::Nat, Family::V4, Proto::Udp),
    (Mode::Nat, Family::V6, Proto::Tcp),
    (Mode::Nat, Family::V6, Proto::Udp),
];

fn world((mode, family, proto): (Mode, Family, Proto)) -> World {
    World::new(mode, family, proto, 64)
}

/// The backend that a `dsr` frame went to.
fn taken_by(frame: &[u8]) -> usize {
    usize::from(frame[5])
}

#[test]
fn dsr_changes_nothing_but_the_ethernet_addresses() {
    for kind in KINDS.into_iter().filter(|(mode, ..)| *mode == Mode::Dsr) {
        let world = world(kind);
        let request = world.request(5000, Segment::Syn);
        let sent = world.send(request.clone()).unwrap();
        assert_eq!((&sent[6..12], &sent[12..]), (&OWN_MAC[..], &request[12..]));
        let stats = world.tables.backend_stats[taken_by(&sent)].get();
        assert_eq!((stats.tx, stats.bytes, stats.flows), (1, request.len() as u64, u64::from(kind.2 == Proto::Tcp)));
    }
}

#[test]
fn dsr_keeps_a_flow_where_it_is() {
    let world = world(KINDS[0]);
    for port in 5000..5100 {
        let first = taken_by(&world.send(world.request(port, Segment::Syn)).unwrap());
        for segment in [Segment::Ack, Segment::Fin, Segment::Rst] {
            assert_eq!(taken_by(&world.send(world.request(port, segment)).unwrap()), first);
        }
    }
    assert!(world.tables.backend_stats.iter().all(|stats| stats.get().tx >= 100), "one backend got next to nothing");
}

#[test]
fn a_slot_goes_to_the_first_that_can_take_it() {
    use BackendState::{Absent, Active, Down, Draining, Maintenance, Recovering, Soft};
    // Target 0 and secondary 1; states; who gets it. Slots on their way have rules of their own, which the ledger's tests go through.
    let rows = [
        ([Active, Active], Ok(0)),
        ([Recovering, Active], Ok(0)),
        ([Draining, Active], Ok(1)),
        ([Soft, Active], Ok(1)),
        ([Down, Active], Ok(1)),
        ([Maintenance, Active], Ok(1)),
        ([Absent, Active], Ok(1)),
        ([Down, Draining], Ok(1)),
        ([Draining, Down], Ok(0)),
        ([Soft, Absent], Ok(0)),
        ([Down, Down], Err(Reason::NoBackend)),
        ([Maintenance, Absent], Err(Reason::NoBackend)),
    ];
    for (states, wanted) in rows {
        let world = world(KINDS[0]);
        for (backend, state) in states.into_iter().enumerate() {
            world.set_state(backend, state);
        }
        world.tables.slots.iter().for_each(|cell| cell.set(SlotWord::steady(0, 1)));
        let got = world.send(world.request(5000, Segment::Syn)).map(|frame| taken_by(&frame));
        assert_eq!(got, wanted, "{states:?}");
    }
}

#[test]
fn an_unresolved_next_hop_is_told() {
    for kind in KINDS {
        let world = world(kind);
        for cell in &world.tables.backends {
            cell.set(Backend { flags: 0, ..cell.get() });
        }
        assert_eq!(world.send(world.request(5000, Segment::Syn)), Err(Reason::NextHop));
        assert_eq!(world.tables.ended(SERVICE, Reason::NextHop), 1);
    }
}

#[test]
fn the_way_out_is_the_backends() {
    for (ifindex, wanted) in [(0, Exit::Transmit), (INGRESS, Exit::Transmit), (99, Exit::Redirect(99))] {
        let world = world(KINDS[0]);
        for cell in &world.tables.backends {
            cell.set(Backend { ifindex, ..cell.get() });
        }
        let mut bytes = world.request(5000, Segment::Ack);
        assert_eq!(world.tables.run(&mut Frame::new(&mut bytes, INGRESS)).1, wanted);
        world.assert_counts_add_up();
    }
}

/// Every length of a frame: no panic, nothing read beyond the end, and what is cut off is not sent on.
#[test]
fn no_part_of_a_packet_is_forwarded() {
    for kind in KINDS {
        let whole = world(kind).request(5000, Segment::Syn);
        for length in 0..whole.len() {
            let world = world(kind);
            let cut = whole[..length].to_vec();
            let mut bytes = cut.clone();
            let (verdict, exit) = world.tables.run(&mut Frame::new(&mut bytes, INGRESS));
            assert!(
                matches!(verdict, Verdict::End { reason: Reason::Malformed | Reason::NotForVip, .. }),
                "{kind:?} cut to {length}: {verdict:?}"
            );
            assert!(exit == Exit::Drop || exit == Exit::Pass && bytes == cut);
            world.assert_counts_add_up();
        }
    }
}

proptest! {
    #[test]
    fn nothing_that_comes_in_panics(kind in 0..8_usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in any::<prop::sample::Index>()) {
        let world = world(KINDS[kind]);
        let mut bytes = world.request(5000, Segment::Syn);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let before = bytes.clone();
        let frame = Frame::new(&mut bytes, INGRESS);
        let told = decide(&frame, &world.tables);
        if let Verdict::Send(sending) = told {
            prop_assert!(frame.holds(sending.bytes));
        }
        let (verdict, exit) = world.tables.run(&mut Frame::new(&mut bytes, INGRESS));
        prop_assert_eq!(exit == Exit::Pass || exit == Exit::Drop, matches!(verdict, Verdict::End { .. }));
        if exit == Exit::Pass {
            prop_assert_eq!(before, bytes);
        }
        world.assert_counts_add_up();
    }
}
