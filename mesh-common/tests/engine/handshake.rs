//! What handshakes tell of backends. The tables of these worlds draw every flow.

use crate::world::{Segment, World};
use mesh_common::abi::{BackendSignals, BackendStats, Config, Family, Mode, Proto};

const MILLISECOND: u64 = 1 << 20;

/// Signals of both backends in one; the flows of a test need not share one.
fn signals(world: &World) -> BackendSignals {
    world.tables.backend_signals.iter().map(|s| s.get()).fold(BackendSignals::default(), |mut sum, s| {
        sum.sampled += s.sampled;
        sum.syn_retransmits += s.syn_retransmits;
        sum.answer_time += s.answer_time;
        sum.accept_time += s.accept_time;
        (sum.stays, sum.stay_time, sum.aborted) = (sum.stays + s.stays, sum.stay_time + s.stay_time, sum.aborted + s.aborted);
        (0..32).for_each(|i| (sum.answers[i], sum.accepts[i]) = (sum.answers[i] + s.answers[i], sum.accepts[i] + s.accepts[i]));
        sum
    })
}

fn resets(world: &World) -> (u32, u32) {
    let stats = world.tables.backend_stats.iter().map(|s| s.get());
    stats.fold((0, 0), |(a, b), s: BackendStats| (a + s.client_resets, b + s.backend_resets))
}

fn wait(world: &World, time: u64) {
    world.tables.nanoseconds.set(world.tables.nanoseconds.get() + time);
}

#[test]
fn answers_are_timed_where_they_come_by() {
    for family in [Family::V4, Family::V6] {
        let world = World::new(Mode::Nat, family, Proto::Tcp, 256);
        let syn = world.send(world.request(5000, Segment::Syn)).unwrap();
        wait(&world, 3 * MILLISECOND);
        for _ in 0..2 {
            world.send(world.answer(&syn, Segment::SynAck)).unwrap();
            wait(&world, 2 * MILLISECOND);
        }
        for _ in 0..3 {
            world.send(world.request(5000, Segment::Ack)).unwrap();
        }
        let seen = signals(&world);
        assert_eq!((seen.sampled, seen.syn_retransmits, seen.handshakes()), (1, 0, (1, 1)));
        assert_eq!((seen.answer_time, seen.accept_time), (3 << 10, 7 << 10));
        // 3 x 1024 units lie between 2^11 and 2^12, 7 x 1024 between 2^12 and 2^13.
        assert_eq!((seen.answers[11], seen.accepts[12]), (1, 1));
    }
}

#[test]
fn without_answers_the_client_tells() {
    for family in [Family::V4, Family::V6] {
        let world = World::new(Mode::Dsr, family, Proto::Tcp, 256);
        for port in 5000..5100 {
            world.send(world.request(port, Segment::Syn)).unwrap();
        }
        wait(&world, MILLISECOND);
        for port in 5000..5100 {
            world.send(world.request(port, Segment::Ack)).unwrap();
        }
        let seen = signals(&world);
        // A flow may have taken over another one's word.
        let (_, accepted) = seen.handshakes();
        assert!(seen.sampled == 100 && (95..=100).contains(&accepted), "{accepted}");
        assert_eq!((seen.accept_time, u64::from(seen.accepts[10])), (accepted << 10, accepted));
    }
}

#[test]
fn a_syn_that_comes_again_is_counted_and_not_timed() {
    for mode in [Mode::Dsr, Mode::Nat] {
        let world = World::new(mode, Family::V4, Proto::Tcp, 256);
        let mut syn = Vec::new();
        for _ in 0..3 {
            syn = world.send(world.request(5000, Segment::Syn)).unwrap();
            wait(&world, MILLISECOND);
        }
        if mode == Mode::Nat {
            world.send(world.answer(&syn, Segment::SynAck)).unwrap();
        }
        world.send(world.request(5000, Segment::Ack)).unwrap();
        let seen = signals(&world);
        assert_eq!((seen.sampled, seen.syn_retransmits, seen.handshakes()), (1, 2, (0, 0)));
        // The next connection from the same port is another one.
        world.send(world.request(5000, Segment::Fin)).unwrap();
        world.send(world.request(5000, Segment::Syn)).unwrap();
        assert_eq!((signals(&world).sampled, signals(&world).syn_retransmits), (2, 2));
    }
}

#[test]
fn resets_are_told_by_who_sent_them() {
    let world = World::new(Mode::Nat, Family::V4, Proto::Tcp, 256);
    for port in 5000..5003 {
        let syn = world.send(world.request(port, Segment::Syn)).unwrap();
        world.send(world.answer(&syn, Segment::Rst)).unwrap();
    }
    let syn = world.send(world.request(5003, Segment::Syn)).unwrap();
    world.send(world.answer(&syn, Segment::SynAck)).unwrap();
    world.send(world.request(5003, Segment::Rst)).unwrap();
    assert_eq!(resets(&world), (1, 3));
    // A refused handshake is over: its port's next SYN is no retransmission.
    assert_eq!(signals(&world).syn_retransmits, 0);
    world.send(world.request(5000, Segment::Syn)).unwrap();
    assert_eq!((signals(&world).sampled, signals(&world).syn_retransmits), (5, 0));
}

#[test]
fn connections_are_timed_up_to_their_first_fin() {
    for mode in [Mode::Dsr, Mode::Nat] {
        for family in [Family::V4, Family::V6] {
            let world = World::new(mode, family, Proto::Tcp, 256);
            let syn = world.send(world.request(5000, Segment::Syn)).unwrap();
            if mode == Mode::Nat {
                world.send(world.answer(&syn, Segment::SynAck)).unwrap();
            }
            for _ in 0..3 {
                wait(&world, MILLISECOND);
                world.send(world.request(5000, Segment::Ack)).unwrap();
            }
            assert_eq!((signals(&world).stays, signals(&world).handshakes().1), (0, 1));
            wait(&world, 2 * MILLISECOND);
            if mode == Mode::Nat {
                world.send(world.answer(&syn, Segment::Fin)).unwrap();
                wait(&world, MILLISECOND);
            }
            world.send(world.request(5000, Segment::Fin)).unwrap();
            let seen = signals(&world);
            assert_eq!((seen.stays, seen.stay_time, seen.handshakes().1), (1, 5 << 10, 1), "{mode:?}");
            // The next connection from that port, whose SYN comes again, and which is reset.
            world.send(world.request(5000, Segment::Syn)).unwrap();
            world.send(world.request(5000, Segment::Syn)).unwrap();
            world.send(world.request(5000, Segment::Ack)).unwrap();
            world.send(world.request(5000, Segment::Rst)).unwrap();
            world.send(world.request(5000, Segment::Fin)).unwrap();
            let seen = signals(&world);
            assert_eq!((seen.sampled, seen.syn_retransmits, seen.stays, seen.aborted), (2, 1, 1, 1), "{mode:?}");
        }
    }
}

/// A client whose last packets were lost, or a word that nobody took: the next SYN begins anew.
#[test]
fn a_connection_that_was_not_ended_is_followed_by_another() {
    let world = World::new(Mode::Dsr, Family::V4, Proto::Tcp, 256);
    for sampled in 1..3 {
        world.send(world.request(5000, Segment::Syn)).unwrap();
        wait(&world, MILLISECOND);
        world.send(world.request(5000, Segment::Ack)).unwrap();
        assert_eq!((signals(&world).sampled, signals(&world).syn_retransmits), (sampled, 0));
    }
}

#[test]
fn the_mask_draws_its_part_of_the_flows() {
    let world = World::new(Mode::Dsr, Family::V4, Proto::Tcp, 256);
    world.tables.configure(|config| config.sample_mask = Config::SAMPLE_MASK);
    for port in 1..=16_000 {
        world.send(world.request(port, Segment::Syn)).unwrap();
    }
    let sampled = signals(&world).sampled;
    assert!((850..1150).contains(&sampled), "{sampled} of 16000");
}
