//! Drains by themselves: counts in, what is due out.

use std::time::SystemTime;

use super::*;
use crate::control::drains::{Count, Drain, DrainEnd, DrainOrder, DrainState, DrainView, Due, Then};

struct World {
    drain: Drain,
    start: Instant,
    seconds: u64,
    /// That may have flows which nothing counts.
    slots: u32,
    silence: Duration,
}

impl World {
    fn new(deadline_s: Option<u64>, then: Then) -> Self {
        let start = Instant::now();
        let order = DrainOrder { since_ms: 0, deadline_ms: deadline_s.map(|s| s * 1000), then, cut: false };
        Self { drain: Drain::new(None, order, start), start, seconds: 0, slots: 0, silence: Duration::ZERO }
    }

    /// A second later so many flows are open (if they are counted), after so many packets in all.
    fn step(&mut self, open: Option<u64>, packets: u64) -> Due {
        let count = Count {
            open,
            quiet: Duration::from_secs(2),
            oldest: Some(Duration::from_secs(90)),
            slots: self.slots,
            silence: self.silence,
            packets,
            begun: 7,
        };
        let due = self.drain.step(count, self.now(), self.seconds * 1000);
        self.seconds += 1;
        due
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    fn view(&self) -> DrainView {
        let key = (name("web"), id("10.0.0.1:80"));
        self.drain.view(&key, self.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds))
    }
}

#[test]
fn it_ends_with_the_last_flow_and_tells_its_rate() {
    let mut world = World::new(None, Then::Wait);
    assert_eq!(world.step(Some(0), 10), Due::Nothing, "what is under way may still open a flow");
    for left in [8, 6, 4, 2] {
        assert_eq!(world.step(Some(left), 10), Due::Nothing);
    }
    let view = world.view();
    assert_eq!((view.state, view.flows, view.flows_at_start, view.new_flows), (DrainState::Draining, Some(2), Some(0), 0));
    assert_eq!((view.quiet_ms, view.oldest_ms), (Some(2000), Some(90_000)));
    let mut world = World::new(None, Then::Wait);
    for left in [10, 8, 6, 4, 2] {
        world.step(Some(left), 10);
    }
    let view = world.view();
    assert!((view.ended_per_s - 2.0).abs() < 1e-9 && view.estimate_ms == Some(1000), "{view:?}");
    assert_eq!((world.step(Some(0), 10), world.step(Some(0), 10)), (Due::Empty, Due::Nothing));
    let view = world.view();
    assert_eq!((view.state, view.ended, view.estimate_ms, view.took_ms), (DrainState::Ended, Some(DrainEnd::Empty), None, 5000));
    assert_eq!((view.quiet_ms, view.oldest_ms), (None, None), "of nobody");
}

#[test]
fn without_a_count_of_flows_silence_is_the_end() {
    let mut world = World::new(None, Then::Remove);
    for packets in [10, 20, 20, 20, 30, 30, 30] {
        assert_eq!(world.step(None, packets), Due::Nothing);
    }
    assert_eq!((world.view().flows, world.view().ended_per_s), (None, 0.0));
    assert!(world.view().packets_per_s > 2.0);
    assert_eq!(world.step(None, 30), Due::Remove);
}

/// Connections that are found by their ids may be silent for longer than the window of what is counted.
#[test]
fn connections_without_slots_end_after_the_silence_that_is_promised() {
    let mut world = World { silence: Duration::from_secs(30), ..World::new(None, Then::Wait) };
    for packets in [10, 11] {
        assert!((0..30).all(|_| world.step(None, packets) == Due::Nothing), "{packets}");
    }
    assert_eq!(world.step(None, 11), Due::Empty);
}

#[test]
fn nothing_ends_while_slots_may_have_flows() {
    for (open, shown) in [(None, true), (Some(0), false)] {
        let mut world = World { slots: 3, ..World::new(None, Then::Remove) };
        assert!((0..20).all(|_| world.step(open, 10) == Due::Nothing));
        assert_eq!(world.view().slots, Some(3));
        world.slots = 0;
        assert_eq!(world.step(open, 10), Due::Remove);
        assert_eq!(world.view().slots, shown.then_some(0));
    }
}

#[test]
fn what_a_deadline_does() {
    for (then, due) in [(Then::Wait, Due::Overdue), (Then::Cut, Due::Cut), (Then::Remove, Due::Remove)] {
        let mut world = World::new(Some(2), then);
        assert_eq!([world.step(Some(5), 0), world.step(Some(5), 0)], [Due::Nothing; 2], "{then:?}");
        assert_eq!((world.step(Some(5), 0), world.step(Some(5), 0)), (due, Due::Nothing), "{then:?}");
        let overdue = world.view().state == DrainState::Overdue;
        assert_eq!(overdue, then == Then::Wait);
        assert_eq!(world.step(Some(0), 0), if overdue { Due::Empty } else { Due::Nothing });
    }
}

#[test]
fn an_order_is_remembered_until_it_is_taken_back() {
    let mut bench = Bench::new(TWO, State::default());
    let (web, first) = (name("web"), id("10.0.0.1:80"));
    let order = DrainOrder { since_ms: 5, deadline_ms: Some(7), then: Then::Cut, cut: true };
    assert!(bench.core.drain(&web, first, order).unwrap().is_some());
    assert!(bench.core.drain(&web, first, order).unwrap().is_none(), "nothing new to tell");
    assert_eq!(bench.core.state().backends[&web][&first].drain, Some(order));
    let text = serde_json::to_string(bench.core.state()).unwrap();
    assert_eq!(&serde_json::from_str::<State>(&text).unwrap(), bench.core.state());
    bench.core.set_admin(&web, first, Admin::In).unwrap();
    assert_eq!(bench.core.state(), &State::default());
}
