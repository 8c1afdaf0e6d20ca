//! Ways to a broken flow that need two balancers, one test each.

use mesh_common::abi::SlotFlags;

use crate::{
    setup::{ALL, Setup},
    world::{Event, Flow, World},
};

/// A world with one flow, told on.
#[derive(Clone, Copy)]
struct Story(World<1>);

impl Story {
    fn then(self, event: Event) -> Self {
        Self(self.0.after(event, true).unwrap_or_else(|broken| panic!("{broken:?} by {event:?} in {:?}", self.0)))
    }

    /// A tick in which both look, and hear all that there is to be heard.
    fn tick(self) -> Self {
        let looked = [0, 1].into_iter().fold(self, |story, node| story.then(Event::Look(node)).told());
        looked.then(Event::Tick)
    }

    fn told(self) -> Self {
        let entries = |story: &Self, node: usize| story.0.nodes[node].entries[0].is_some_and(|entry| entry.is_owed());
        let story = (0..2).fold(self, |story, node| if entries(&story, node) { story.then(Event::Entry(0, node)) } else { story });
        (0..2).fold(story, |story, node| story.then(Event::Report(node)))
    }

    fn until(mut self, holds: impl Fn(&World<1>) -> bool) -> Self {
        for _ in 0..40 {
            if holds(&self.0) {
                return self;
            }
            self = self.tick();
        }
        panic!("not within 40 ticks: {:?}", self.0)
    }

    fn owner(&self) -> Option<u8> {
        match self.0.flows[0] {
            Flow::Open { owner, .. } => Some(owner),
            _ => None,
        }
    }

    /// A flow begins by this node, with whomever it is led to.
    fn opens(self, node: usize) -> Self {
        let story = self.then(Event::Syn(0, node));
        let Flow::Opening { reached, .. } = story.0.flows[0] else { panic!("{:?}", story.0) };
        let owner = (0..3).find(|owner| reached[usize::from(*owner)] == 0);
        owner.map_or(story, |owner| story.then(Event::Ack(0, owner, node)))
    }
}

fn wanted(setup: Setup, target: u8) -> Story {
    [Event::Wish(target), Event::Follow(0), Event::Follow(1)].into_iter().fold(Story(World::new(setup)), Story::then)
}

/// A slot settles at one node, a SYN reaches the new owner there, and its ACK goes by the other node: at each moment of the change.
#[test]
fn trace_14_a_flow_that_begins_while_nodes_settle_goes_on_by_the_other() {
    let (mut story, mut owners, mut moments) = (wanted(ALL, 1), Vec::new(), 0);
    let rest = |world: &World<1>| world.nodes.iter().all(|node| node.is_steady() && node.word[0] == 1);
    while !rest(&story.0) {
        for first in 0..2 {
            let looked = [first, 1 - first].into_iter().fold(story, |story, node| story.then(Event::Look(node)));
            let open = looked.opens(first).told().then(Event::Data(0, 1 - first)).then(Event::Data(0, first));
            owners.extend(open.owner());
        }
        (story, moments) = (story.tick(), moments + 1);
        assert!(moments < 60, "{:?}", story.0);
    }
    assert!(owners.contains(&0) && owners.contains(&1) && moments > 8, "{owners:?}");
}

/// A flow that was silent for as long as it may be goes on by one node, and before the other is told of that, by the other.
#[test]
fn a_flow_that_was_silent_for_long_goes_on_by_one_node_and_then_by_the_other() {
    let story = wanted(Setup { lag: 1, ..ALL }, 1).until(|world| world.nodes.iter().all(|node| node.word[0] == 1));
    let open = story.then(Event::Look(0)).then(Event::Look(1)).opens(0).told();
    assert_eq!(open.owner(), Some(1));
    let silent = (0..open.0.setup.idle).fold(open.then(Event::Tick), |story, last| if last == 0 { story } else { story.tick() });
    let late = [Event::Look(0), Event::Look(1), Event::Data(0, 0), Event::Report(0), Event::Report(1), Event::Tick];
    late.into_iter().fold(silent, Story::then).then(Event::Data(0, 1));
}

/// What is wished changes while the default does, without handshakes: who has said that nothing goes by that is not named keeps to it.
#[test]
fn another_wish_waits_until_the_default_has_changed_everywhere() {
    let closes = |node: &crate::node::Node<1>| node.flags().has(SlotFlags::STRICT) && node.word[0] != node.word[1];
    let setup = Setup { wishes: 2, handshakes: false, ..ALL };
    let story = wanted(setup, 1).until(|world| world.nodes.iter().all(closes));
    let back = [Event::Wish(0), Event::Follow(0), Event::Look(0), Event::Look(1)].into_iter().fold(story, Story::then);
    assert!(back.0.nodes[0].is_strict(), "{:?}", back.0);
    let _ = (0..40).fold(back.then(Event::Data(0, 0)).told().then(Event::Tick), |story, n| story.tick().then(Event::Data(0, n % 2)));
}

/// One node is back with the old owner while the other still leads new flows away: a SYN that reached the one is repeated by the other.
#[test]
fn on_the_way_back_to_the_old_owner_handshakes_are_remembered() {
    let away = wanted(Setup { wishes: 2, ..ALL }, 1).until(|world| world.nodes.iter().all(|node| node.word[0] == 1));
    let back = [Event::Wish(0), Event::Follow(0)].into_iter().fold(away, Story::then).until(|world| world.nodes[0].word[0] == 0);
    assert_eq!(back.0.nodes[1].word[..2], [1, 0], "{:?}", back.0);
    let again = back.then(Event::Syn(0, 0)).told().then(Event::Again(0, 1)).then(Event::Ack(0, 0, 1));
    assert_eq!(again.owner(), Some(0));
}
