//! Random bytes, random packets and random maps through the host's copy of the engine: nothing panics, and the books balance.

use mesh_common::abi::Mode;
use mesh_tests::fixture::{Engine, Host, Sizes, Verdict, random};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packet_over_sound_maps(world in random::world(), script in random::script()) {
        let mut host = Host::new(Sizes::SMALL);
        host.reset(&mut |maps| world.publish(maps));
        for event in script {
            host.edit(&mut |maps| event.apply(maps));
            let random::Event::Packet(packet) = event else { continue };
            let out = host.send(&packet);
            prop_assert!(out.bytes.len() <= packet.len() + Host::LONGER);
            // What `dnat` leaves to the host to route is changed as well.
            let routed = out.verdict == Verdict::Pass && world.services.iter().any(|s| s.mode == Mode::Dnat);
            let sent_on = out.verdict.is_forward() || routed && out.bytes.len() == packet.len();
            if !sent_on {
                prop_assert_eq!(out.bytes, packet, "only what is sent on is changed");
            }
        }
        prop_assert_eq!(host.counters().balance(), Ok(()));
    }

    #[test]
    fn any_packet_over_corrupted_maps(world in random::world(), script in random::hostile_script(), tick in any::<u32>()) {
        let mut host = Host::new(Sizes::SMALL);
        host.set_tick(tick);
        host.reset(&mut |maps| world.publish(maps));
        for event in script {
            host.edit(&mut |maps| event.apply(maps));
            if let random::Event::Packet(packet) = event {
                let out = host.send(&packet);
                prop_assert!(out.bytes.len() <= packet.len() + Host::LONGER);
            }
        }
    }

    #[test]
    fn any_bytes(world in random::world(), frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..160), 1..8)) {
        let mut host = Host::new(Sizes::SMALL);
        host.reset(&mut |maps| world.publish(maps));
        for frame in frames {
            let out = host.send(&frame);
            prop_assert_eq!(out.bytes, frame);
        }
    }
}
