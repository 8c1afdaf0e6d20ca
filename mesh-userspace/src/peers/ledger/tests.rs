//! Balancers of one slot, with clients whose packets reach now this one and now another, over a network that loses, repeats, delays and reorders what they
//! say to each other: no flow misses its backend.

mod world;

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};

use super::{Entry, Kind, Machine, Options, Report, Words};
use world::{Act, Fault, World};

fn acts() -> impl Strategy<Value = Vec<(u16, Act)>> {
    let flow = 0..world::FLOWS;
    let act = prop_oneof![
        6 => flow.clone().prop_map(Act::Syn),
        12 => flow.clone().prop_map(Act::Packet),
        2 => flow.clone().prop_map(Act::Close),
        6 => (flow, 0..3usize).prop_map(|(flow, node)| Act::Reroute(flow, node)),
        3 => (0..3u16, 1..3u16).prop_map(|(target, off)| Act::Wish(target, (target + off) % 3)),
        1 => (0..3usize, any::<bool>()).prop_map(|(node, forgets)| Act::Crash(node, forgets)),
        1 => (0..3usize, 0..6000u64).prop_map(|(node, time)| Act::Cut(node, time)),
    ];
    // Some pauses are longer than a slot takes to come to rest.
    let pause = prop_oneof![8 => 0..40u16, 3 => 40..600u16, 1 => 600..1500u16];
    prop::collection::vec((pause, act), 5..60)
}

type Script = (usize, u64, u8, Vec<(u16, Act)>);

/// Plays `cases` worlds, the same at each run, so that what is found once is found again.
fn play(cases: u32, shrink: u32, fault: Option<Fault>) -> Result<(), TestError<Script>> {
    let config = ProptestConfig { cases, max_shrink_iters: shrink, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let worlds = (2..4usize, any::<u64>(), 0..30u8, acts());
    runner.run(&worlds, |(nodes, seed, loss, acts)| {
        let mut world = World::new(nodes, seed, loss).without(fault);
        for (pause, act) in acts {
            world.run(u64::from(pause) * 10)?;
            world.act(act)?;
        }
        // What comes to rest too early is another test's.
        if fault.is_none() { world.quiet() } else { Ok(()) }
    })
}

#[test]
fn flows_keep_their_backends_whatever_balancer_they_reach() {
    play(120, 60, None).unwrap_or_else(|error| panic!("{error}"));
}

/// Worlds in which nothing is found would show it.
#[test]
fn a_rule_that_is_not_kept_breaks_a_flow() {
    for fault in [Fault::Mute, Fault::Forgetful, Fault::Alone, Fault::Careless] {
        let found = play(400, 0, Some(fault));
        assert!(
            matches!(&found, Err(TestError::Fail(why, _)) if why.message().starts_with("flow ")),
            "{fault:?} breaks no flow: {found:?}"
        );
    }
}

/// A node dies amid a change, and comes back with empty maps.
fn comes_back_with_nothing(seed: u64, fault: Option<Fault>) -> Result<(), TestCaseError> {
    let mut world = of_two(seed, 10, 60).without(fault);
    world.act(Act::Syn(0))?;
    world.run(20)?;
    world.act(Act::Packet(0))?;
    world.wish_at(0, world::TOLD, (1, 2));
    world.wish_at(1, world::TOLD, (1, 2));
    world.run(16_000)?;
    world.act(Act::Crash(1, true))?;
    world.run(12_000)?;
    world.act(Act::Reroute(0, 1))?;
    world.run(1000)
}

#[test]
fn who_comes_back_with_nothing_is_told_all_before_it_serves() {
    for seed in 0..20 {
        comes_back_with_nothing(seed, None).unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert!(comes_back_with_nothing(seed, Some(Fault::Stubborn)).is_err(), "{seed}: its own word would do as well");
    }
}

/// A flow begins on the first node at each moment of a change, and goes on by the second, to which `world` has been prepared.
fn goes_on_elsewhere(prepared: impl Fn(u64) -> World) {
    for moment in (0..30_000).step_by(500) {
        let mut world = prepared(moment);
        let mut go = |time, act| world.run(time).and_then(|()| world.act(act)).unwrap_or_else(|error| panic!("{moment}: {error}"));
        go(moment, Act::Syn(0));
        go(20, Act::Packet(0));
        go(world::TOLD + 100, Act::Reroute(0, 1));
        go(20, Act::Packet(0));
        go(2000, Act::Reroute(0, 0));
        go(20, Act::Packet(0));
    }
}

fn of_two(seed: u64, loss: u8, delay: u64) -> World {
    let mut world = World::new(2, seed, loss);
    world.delay = delay;
    world.run(1000).unwrap_or_else(|error| panic!("{error}"));
    world
}

/// The fourteenth of the ways that an earlier form of the rules allowed: a slot settles on one node, a flow begins there with the new owner, and goes on by
/// another node, where the slot has not settled. Here it begins at each moment of a change.
#[test]
fn a_flow_that_begins_while_nodes_settle_goes_on_by_another_node() {
    goes_on_elsewhere(|moment| {
        let mut world = of_two(moment, 10, 60);
        world.act(Act::Wish(1, 2)).unwrap_or_else(|error| panic!("{error}"));
        world
    });
}

/// One node is told to change long before the other, or long after.
#[test]
fn flows_outlive_a_change_that_nodes_want_at_other_times() {
    for (first, second) in [(0, 12_000), (12_000, 0), (0, 28_000)] {
        goes_on_elsewhere(|moment| {
            let mut world = of_two(moment, 10, 60);
            world.wish_at(0, first, (1, 2));
            world.wish_at(1, second, (1, 2));
            world
        });
    }
}

/// Two nodes and a network that loses nothing; the second has room for entries or has none.
struct Full {
    nodes: [Machine; 2],
    now: u64,
    entry: Entry,
    taken: u64,
}

impl Full {
    fn run(&mut self, until: u64, room: bool) {
        while self.now < until {
            self.now += 10;
            for from in 0..2 {
                if self.nodes[from].wants_all() {
                    let all = [self.entry];
                    self.nodes[from].offer_all(if from == 0 { &all } else { &[] });
                }
                for (_, message) in self.nodes[from].due(self.now) {
                    let taken = &mut self.taken;
                    self.nodes[1 - from].hear(world::address(from), &message, self.now, |_| {
                        *taken += u64::from(room);
                        room
                    });
                }
            }
        }
    }

    /// Version that the second node knows of the first one's report, and how often the first has given up to tell it.
    fn known(&self) -> (u64, u64) {
        let [here, there] = [0, 1].map(|n| self.nodes[n].peers(self.now).remove(0).1);
        (there.version, here.counts.given_up)
    }
}

/// Who has no room for an entry has not heard it, nor what is said after it, until there is room; and the other is told that it is so.
#[test]
fn who_has_no_room_has_not_heard() {
    let entry = Entry { vip: world::vip(), hash: 7, backend: world::id(1), kind: Kind::Flow, age: 0 };
    let nodes = [0, 1].map(|n| {
        let options = Options { start: n as u64 + 1, tag: 1, lost: world::LOST, interval: 100 };
        Machine::new(options, [world::address(1 - n)], 0)
    });
    let mut full = Full { nodes, now: 0, entry, taken: 0 };
    full.run(500, true);
    assert!(full.taken > 0 && full.known().0 == full.nodes[0].version());
    let heard = full.known().0;
    full.nodes[0].offer(&[entry]);
    let version = full.nodes[0].say(&Report::from([(world::vip(), Words { log2_slots: 1, ..Words::default() })]));
    assert!(version > heard);
    full.run(1000, false);
    assert_eq!(full.known(), (heard, 0), "what was said after the entry is not known");
    full.run(9000, false);
    let (known, given_up) = full.known();
    assert_eq!(known, heard, "nor when the entries are told anew");
    assert!((2..=3).contains(&given_up), "{given_up}");
    assert!(full.nodes[0].peers(full.now)[0].1.heard < version, "the first node does not rely on it");
    full.taken = 0;
    full.run(11_000, true);
    assert!(full.taken > 0 && full.known().0 == version, "{:?} of {version}", full.known());
}

/// They never want the same.
#[test]
fn flows_outlive_wishes_that_contradict_each_other() {
    goes_on_elsewhere(|moment| {
        let mut world = of_two(moment, 10, 60);
        world.wish_at(0, 0, (1, 2));
        world.wish_at(1, 500, (2, 0));
        world
    });
}

#[test]
fn flows_outlive_a_network_that_loses_most_of_what_nodes_say() {
    goes_on_elsewhere(|moment| {
        let mut world = of_two(moment, 60, 60);
        world.act(Act::Wish(1, 2)).unwrap_or_else(|error| panic!("{error}"));
        world
    });
}

#[test]
fn flows_outlive_a_network_that_delivers_late_and_in_no_order() {
    goes_on_elsewhere(|moment| {
        let mut world = of_two(moment, 10, 600);
        world.act(Act::Wish(1, 2)).unwrap_or_else(|error| panic!("{error}"));
        world
    });
}

/// A change waits for who died while it was prepared until the time is over after which nobody does, and for a handshake.
#[test]
fn who_is_dead_holds_a_change_up_no_longer_than_is_said() {
    for moment in (0..3000).step_by(100) {
        let mut world = of_two(moment, 10, 60);
        world.wish_at(0, 0, (1, 2));
        world.wish_at(1, 0, (1, 2));
        world.run(moment).unwrap_or_else(|error| panic!("{error}"));
        world.kill(1);
        world.run(world::HELD_UP).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(world.target(0), 1, "{moment}");
    }
}
