//! The shortest ways to a broken flow that an earlier form of the rules allowed, one test each. A, B and C are backends 0, 1 and 2; the slot begins with A.
//!
//! Of the fourteen that are known, the last needs two balancers: `trace_14` of `tests/nodes`.

use mesh_common::{
    abi::{SlotFlags, SlotWord},
    ledger::rules::Sent,
};

use crate::{
    event::{Event, Old, Order},
    setup::{Setup, TIMES},
    world::{Flow, Health, NOBODY, World, isn},
};

const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;
/// More ticks than a slot takes from one owner to the next.
const MANY: u32 = 40;

/// A world with one flow, told on.
#[derive(Clone, Copy)]
struct Story(World<1>);

impl Story {
    fn new() -> Self {
        Self(World::new(Setup::ALL))
    }

    fn then(self, event: Event) -> Self {
        Self(self.0.after(event).unwrap_or_else(|broken| panic!("{broken:?} by {event:?} in {:?}", self.0)))
    }

    fn turns(self, backend: u8, to: Health) -> Self {
        self.then(Event::Health(backend, to))
    }

    /// The daemon does what it would, and a tick passes, so many times.
    fn ticks(self, n: u32) -> Self {
        (0..n).fold(self, |story, _| story.then(Event::Look(story.0.wish[0], story.0.wish[1])).then(Event::Write).then(Event::Tick))
    }

    /// The same until the slot is as asked, with a packet of the open flow in every tick if there is one.
    fn until(mut self, holds: impl Fn(&World<1>) -> bool) -> Self {
        for _ in 0..MANY {
            if holds(&self.0) {
                return self;
            }
            self = self.ticks(1);
            if matches!(self.0.flows[0], Flow::Open { .. }) {
                self = self.then(Event::Data(0));
            }
        }
        panic!("not within {MANY} ticks: {:?}", self.0)
    }

    /// A planned change, as far as the moment from which new flows are led there.
    fn changed_to(self, target: u8, secondary: u8) -> Self {
        self.then(Event::Wish(target, secondary)).until(|world| world.word.target() == u16::from(target))
    }

    /// A SYN of a new attempt, and who got it.
    fn syn(self) -> (Self, Option<u8>) {
        let story = self.then(Event::Syn(0));
        (story, story.reached())
    }

    /// Who got the last SYN.
    fn reached(&self) -> Option<u8> {
        let Flow::Opening { reached, .. } = self.0.flows[0] else { return None };
        (0..3).find(|backend| reached[usize::from(*backend)] == 0)
    }

    fn began_with(self, backend: u8) -> Self {
        let (story, to) = self.syn();
        assert_eq!(to, Some(backend), "{:?}", story.0);
        story
    }

    /// The client's ACK goes to who has answered its SYN, even where a change of health would excuse it.
    fn ack_reaches(mut self, backend: u8) {
        assert_eq!(
            self.0.deliver(0, Sent::Segment { seq: isn(self.0.attempts[0]).wrapping_add(1) }),
            Some(u16::from(backend)),
            "{:?}",
            self.0
        );
    }

    /// At whatever moment of the handshake's time the ACK comes.
    fn ack_reaches_soon(self, backend: u8) {
        (0..=TIMES.handshake).for_each(|n| self.ticks(n).ack_reaches(backend));
    }

    fn open_with(self, backend: u8) -> Self {
        self.began_with(backend).then(Event::Ack(0, backend))
    }
}

#[test]
fn trace_1_a_refused_syn_stays_where_it_went_while_the_slot_settles() {
    Story::new().changed_to(B, C).then(Event::Fill).began_with(A).then(Event::Fill).ack_reaches_soon(A);
}

#[test]
fn trace_2_who_was_suspected_is_not_at_rest_while_a_flow_is_elsewhere() {
    let mut story = Story::new().turns(A, Health::Keeps).open_with(B).turns(A, Health::Settling);
    let rest = Event::Health(A, Health::Up);
    for _ in 0..3 * TIMES.idle {
        story = story.ticks(1).then(Event::Data(0));
        assert!(!story.0.events().contains(&rest), "{:?}", story.0);
    }
    let silent = story.then(Event::Close(0)).ticks(TIMES.idle + 1);
    assert!(silent.0.events().contains(&rest), "{:?}", silent.0);
}

#[test]
fn trace_3_a_repeated_syn_lives_as_long_as_a_first_one() {
    let story = Story::new().changed_to(B, C).began_with(B).ticks(TIMES.handshake).then(Event::Again(0));
    assert_eq!(story.reached(), Some(B));
    story.ack_reaches_soon(B);
}

#[test]
fn trace_4_an_entry_of_a_dead_backend_is_forgotten() {
    let story = Story::new().changed_to(B, C).began_with(B).turns(B, Health::Dead).then(Event::Fill).then(Event::Again(0));
    assert_eq!((story.reached(), story.0.entries[0]), (Some(A), None), "{:?}", story.0);
    story.then(Event::Wish(C, A)).ack_reaches_soon(A);
}

#[test]
fn trace_5_a_stray_syn_ends_no_flow() {
    let story = Story::new().changed_to(B, C).open_with(B).until(|world| world.word.target() == u16::from(B)).ticks(TIMES.handshake + 1);
    for late in [false, true] {
        story.then(Event::Data(0)).then(Event::Stray(0, late)).then(Event::Data(0));
    }
}

#[test]
fn trace_6_what_could_not_be_learnt_keeps_the_default() {
    let learning = Story::new().changed_to(B, C).until(|world| world.word.flags().has(SlotFlags::LEARN));
    learning.then(Event::Fill).began_with(A).then(Event::Fill).ack_reaches_soon(A);
    let flow = learning.then(Event::Fill).began_with(A).then(Event::Ack(0, A));
    (0..MANY).fold(flow, |story, _| story.ticks(1).then(Event::Data(0)));
}

#[test]
fn trace_7_a_new_secondary_takes_no_handshake_over() {
    let story = Story::new().turns(A, Health::Keeps).began_with(B).then(Event::Wish(A, C)).ticks(1);
    story.turns(A, Health::Dead).ack_reaches(B);
}

#[test]
fn trace_8_nor_does_a_repoint() {
    let story = Story::new().turns(A, Health::Keeps).began_with(B).then(Event::Wish(A, C)).ticks(1);
    story.turns(A, Health::Dead).ticks(1).ack_reaches(B);
}

#[test]
fn trace_9_nor_one_that_comes_after_the_failure() {
    Story::new().turns(A, Health::Dead).began_with(B).then(Event::Wish(A, C)).ack_reaches_soon(B);
}

#[test]
fn trace_10_nor_a_planned_change_after_it() {
    Story::new().turns(A, Health::Dead).began_with(B).then(Event::Wish(C, B)).ack_reaches_soon(B);
}

#[test]
fn trace_11_nothing_is_led_to_the_dead_and_a_flow_outlives_their_return() {
    let story = Story::new().turns(A, Health::Keeps).turns(B, Health::Dead).open_with(A);
    let story = story.turns(B, Health::Up).then(Event::Stray(0, false));
    (0..MANY).fold(story, |story, _| story.ticks(1).then(Event::Data(0)));
}

#[test]
fn trace_12_a_stray_syn_moves_no_flow_of_the_default() {
    let story = Story::new().open_with(A).changed_to(B, C);
    for late in [false, true] {
        story.then(Event::Stray(0, late)).then(Event::Data(0));
    }
}

#[test]
fn trace_13_a_repeated_syn_meets_no_change() {
    let story = Story::new().began_with(A).then(Event::Wish(B, C));
    for n in 0..=TIMES.handshake {
        let again = story.ticks(n).then(Event::Again(0));
        assert_eq!(again.reached(), Some(A), "{:?}", again.0);
        again.ack_reaches_soon(A);
    }
}

/// All breakers are open, or all are drained: the service's policy is for new flows alone.
#[test]
fn while_nobody_takes_new_flows_old_ones_stay_and_then_go_on() {
    let open = Story::new().changed_to(B, C).open_with(B);
    let nobody = |word: &World<1>| word.word.target() == SlotWord::NONE;
    let closed = open.then(Event::Wish(NOBODY, NOBODY)).until(nobody);
    let mut new = Story::new().then(Event::Wish(NOBODY, NOBODY)).until(nobody).0;
    assert_eq!(new.deliver(0, Sent::Syn { isn: isn(2) }), None, "the service's policy counts");
    let goes_on = |story: Story| (0..MANY).fold(story, |story, _| story.ticks(1).then(Event::Data(0)));
    let again = goes_on(closed).then(Event::Wish(C, A));
    goes_on(again.until(|world| world.word.target() == u16::from(C)));
    // Nor does it matter where they were on their way to.
    let moving = Story::new().changed_to(B, C).open_with(B).then(Event::Wish(NOBODY, NOBODY)).until(nobody).turns(A, Health::Dead);
    moving.ticks(2).then(Event::Data(0));
}

/// A to B to C and back to A, with a flow of each time that never falls silent.
#[test]
fn chained_changes_and_a_return_break_no_flow() {
    for (first, then) in [(B, C), (C, B), (B, A), (C, A)] {
        let story = Story::new().open_with(A).changed_to(first, then).changed_to(then, first);
        (0..MANY).fold(story, |story, _| story.ticks(1).then(Event::Data(0)));
    }
}

/// A tuple that is used again while an entry of its last use lives is recognised by its sequence number.
#[test]
fn a_reused_tuple_is_another_flow() {
    let story = Story::new().changed_to(B, C).began_with(B).then(Event::Close(0)).changed_to(C, A);
    let (story, to) = story.syn();
    story.ack_reaches_soon(to.expect("the second attempt reaches somebody"));
}

/// A flow of A that ends while its slot is on the way to B.
fn ended() -> Story {
    let open = Story(World::new(Setup { ends: true, ..Setup::ALL }))
        .then(Event::Wish(B, C))
        .until(|world| world.word.flags().has(SlotFlags::PREPARE));
    let open = open.then(Event::Anew(0, Order::Beyond)).then(Event::Ack(0, A)).until(|world| world.word.target() == u16::from(B));
    open.then(Event::Fin(0)).then(Event::Data(0))
}

/// A tuple that is used again after an end is another flow, and what comes late of the one before does nothing to it.
#[test]
fn what_comes_after_an_end_begins_anew() {
    let story = ended().then(Event::Close(0)).then(Event::Anew(0, Order::Beyond));
    assert_eq!(story.reached(), Some(B), "{:?}", story.0);
    let open = story.then(Event::Ack(0, B));
    let late = [Old::PastSyn, Old::PastFin, Old::Syn, Old::PastReset, Old::Syn].map(|old| Event::Late(0, old));
    late.into_iter().fold(open, Story::then).then(Event::Data(0));
}

/// Who has ended still acknowledges what its backend sends, whatever SYN comes late.
#[test]
fn a_late_syn_ends_no_half_closed_flow() {
    ended().then(Event::Late(0, Old::Syn)).then(Event::Data(0)).then(Event::Fin(0)).then(Event::Data(0));
}

/// What was lost of a connection that has ended, and is sent once more, ends nothing; the tuple's next one is only led by the same entry.
#[test]
fn what_is_sent_again_after_an_end_breaks_nothing() {
    let story = ended().then(Event::Late(0, Old::Data)).then(Event::Data(0)).then(Event::Close(0)).then(Event::Anew(0, Order::Beyond));
    assert_eq!(story.reached(), Some(A), "{:?}", story.0);
    story.then(Event::Ack(0, A)).then(Event::Data(0));
}

/// A connection ends while its slot comes to rest with B; its tuple's next one begins there unnoticed, and the slot is led on to C while it goes on. Whatever
/// comes late or is forged then, the entry of the first one does not have the second end.
#[test]
fn a_connection_that_began_at_rest_is_not_ended_by_what_comes_late() {
    let arrived = |world: &World<1>| world.word.target() == world.word.default() && world.word.flags().has(SlotFlags::STRICT);
    let resting = |world: &World<1>| world.word.flags() == SlotFlags::STEADY;
    let moved = Story(World::new(Setup { ends: true, ..Setup::ALL })).changed_to(B, C);
    let first = moved.then(Event::Anew(0, Order::Beyond)).then(Event::Ack(0, B)).until(arrived);
    let late = |old| Event::Late(0, old);
    let ways = [
        (Event::Reset(0), Order::Beyond, vec![late(Old::Syn)]),
        (Event::Reset(0), Order::Before, vec![Event::Forged(0, true)]),
        (Event::Close(0), Order::Beyond, vec![late(Old::PastFin), late(Old::Syn)]),
    ];
    for (end, order, late) in ways {
        let rest = first.then(end).until(resting);
        assert!(rest.0.entries[0].is_some(), "{:?}", rest.0);
        let second = rest.then(Event::Anew(0, order)).then(Event::Ack(0, B)).then(Event::Wish(C, A)).ticks(1).then(Event::Data(0));
        let second = second.until(|world| world.word.target() == u16::from(C));
        for (at, silent) in (0..MANY).flat_map(|at| (0..=TIMES.idle).map(move |silent| (at, silent))) {
            let goes_on = (0..at).fold(second, |story, _| story.ticks(1).then(Event::Data(0)));
            late.iter().fold(goes_on, |story, event| story.then(*event)).ticks(silent).then(Event::Data(0));
        }
    }
}

/// A SYN that is not beyond the end may be one of before: it goes where the entry leads, as ever.
#[test]
fn a_syn_that_is_not_beyond_the_end_changes_nothing() {
    let story = ended().then(Event::Close(0)).then(Event::Anew(0, Order::Before));
    assert_eq!(story.reached(), Some(A), "{:?}", story.0);
    story.then(Event::Ack(0, A)).then(Event::Forged(0, true)).then(Event::Data(0));
}

/// A backend that still has a socket of the tuple's last use answers the SYN by an ACK, and the client by a RST whose number is that of the old flow: it has
/// to reach that backend, or no SYN ever does anything but ask for one more. It moves no flow.
#[test]
fn a_reset_reaches_whoever_got_the_syn() {
    let mut story = Story::new().changed_to(B, C).began_with(B);
    assert_eq!(story.0.deliver(0, Sent::Reset { seq: 1 << 20 }), Some(u16::from(B)));
    story.ack_reaches_soon(B);
    let mut open = Story::new().open_with(A).changed_to(B, C).then(Event::Stray(0, false));
    open.0.deliver(0, Sent::Reset { seq: 1 << 20 });
    open.then(Event::Data(0));
}

/// A bucket without room turns no flow away from its backend, for as long as that lasts.
#[test]
fn a_full_ledger_moves_nobody() {
    let story = Story::new().then(Event::Fill).open_with(A).then(Event::Wish(B, C));
    let story = (0..MANY).fold(story, |story, _| story.ticks(1).then(Event::Data(0)));
    story.then(Event::Close(0)).began_with(A).ack_reaches_soon(A);
}

#[test]
fn one_refusal_holds_no_slot_up_where_flows_begin_all_the_time() {
    let after = |world: World<3>, event| world.after(event).unwrap_or_else(|broken| panic!("{broken:?} by {event:?} in {world:?}"));
    let looks = |world: World<3>| [Event::Look(B, C), Event::Write, Event::Tick].into_iter().fold(world, after);
    let mut world = World::new(Setup::ALL);
    while world.word.target() != u16::from(B) {
        world = looks(world);
    }
    world = after(world, Event::Refused);
    for n in 0..MANY as usize {
        world = [Event::Syn(n % 3), Event::Close(n % 3)].into_iter().fold(looks(world), after);
        if world.word.flags() == SlotFlags::STEADY {
            return;
        }
    }
    panic!("not within {MANY} ticks: {world:?}");
}
