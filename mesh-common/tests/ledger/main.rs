//! The ledger's rules, searched: in no world that can come about does a flow miss its backend.
//!
//! A search ends when there is no world left. For that, worlds that differ by names or by ages that nobody asks for are one (`canonical`), times are the
//! shortest that still have a within and a beyond (`Setup::brief`), and whatever is without bounds may happen at any moment instead of being counted:
//! *whatever* is wished whenever the daemon looks, a bucket has or has not room for each packet, and further flows of the slot note that they were
//! elsewhere or refused (`Setup::others`), which is all that flows of a slot have to do with each other. So one flow stands for any number of them.
//! Slots share the health of backends and the room of buckets, both of which change at any moment here: so one slot stands for any number of them.
//!
//! What the ledger's design leaves to be proven, and where it is:
//!
//! | case | test |
//! |---|---|
//! | several slots | above; `netns_ledger`, `netns_second_chance` with real connections over 256 |
//! | chained changes A to B to C, return to the old owner | every search (changes without number); `traces::chained_changes_and_a_return_break_no_flow` |
//! | SYN repeated or late on both sides of a change, forged SYNs | `any_number_of_flows_outlives_planned_changes`; `traces::trace_3`, `_5`, `_12`, `_13` |
//! | 5-tuple reuse | every search (flows close and begin anew at any moment); those with ends: `reused_tuples_...`, `traces::what_comes_after_an_end_begins_anew` |
//! | ledger full, pending table full under flood | every search (room or none for each packet); `traces::a_full_ledger_moves_nobody`; the fixtures `cases::ledger`, on host and kernel; `netns_ledger::a_flood_holds_a_drain_up_and_breaks_nothing` |
//! | SOFT, DOWN and return | `changes_of_health_break_no_flow`; `traces::trace_2`, `_4`, `_7` to `_11`; `cases::ledger` and `cases::slots` |
//! | nobody takes new flows, and somebody does again | every search (`NOBODY` is wished at any moment); `traces::while_nobody_takes_new_flows_...` |
//! | DRAIN | a change of slots like any other: `netns_drain`, `netns_ledger` |
//! | UDP | `datagrams_outlive_planned_changes`, `larger::datagrams_...`; by two nodes: `tests/nodes` |
//! | check-to-write race of the daemon | every search: anything may happen between its look and its writing, up to a tick later |
//! | QUIC by connection id | asks for no memory: `cases::quic`; `netns_quic` |
//! | "treat DOWN as UP" | there is no such rule: in a panic nobody else is called dead, and who is dead stays so; `netns_suspicion::in_a_panic_...` |
//! | several CPUs at once | the check-and-act of entries is one compare-and-exchange (`ledger::places`); not searched |
//! | several nodes, their delays and losses | `tests/nodes`; `peers::ledger` of the daemon, with random worlds |
//!
//! The thirteen shortest traces that need one node have a test each, by number, in `traces`.

mod canonical;
mod ends;
mod event;
mod larger;
mod recall;
#[path = "../search/mod.rs"]
mod search;
mod searched;
mod setup;
mod traces;
mod world;

use search::search;
use setup::{Fault, Left, Setup};
use world::World;

/// More than any of these searches has to look at.
const ENOUGH: usize = 4_000_000;

/// Flows with handshakes, planned changes, and nothing else.
const PLANNED: Setup = Setup { health: false, strays: false, brief: true, ..Setup::ALL };

/// Connections end, and their tuples are used again.
const ENDS: Setup = Setup { ends: true, strays: true, ..PLANNED };

fn all_of<const FLOWS: usize>(name: &str, setup: Setup) {
    search(World::<FLOWS>::new(setup), ENOUGH).unbroken_in_all(name);
}

/// The search's own assumption about times, with longer ones.
#[test]
fn a_flow_outlives_planned_changes() {
    all_of::<1>("one flow, planned changes, longer times", Setup { brief: false, ..PLANNED });
}

#[test]
fn any_number_of_flows_outlives_planned_changes() {
    all_of::<1>("any number of flows, planned changes, stray SYNs", Setup { strays: true, others: true, ..PLANNED });
}

/// What flows have to do with each other, with two that are followed.
#[test]
fn two_flows_outlive_a_planned_change() {
    all_of::<2>("two flows, one planned change", Setup { changes: Left::Few(1), ..PLANNED });
}

#[test]
fn changes_of_health_break_no_flow() {
    all_of::<1>("one flow, planned changes, one change of health", Setup { health: true, failures: Left::Few(1), ..PLANNED });
}

#[test]
fn datagrams_outlive_planned_changes() {
    all_of::<1>("one flow without handshake, planned changes", Setup { handshakes: false, ..PLANNED });
}

/// A connection's end is remembered: what uses the tuple after it begins anew, whatever comes late.
#[test]
fn reused_tuples_outlive_a_planned_change() {
    let setup = Setup { changes: Left::Few(1), ..ENDS };
    all_of::<1>("one flow that ends, one planned change, what comes late", setup);
}

#[test]
fn reused_tuples_outlive_a_change_of_health() {
    let setup = Setup { health: true, failures: Left::Few(1), changes: Left::Few(0), ..ENDS };
    all_of::<1>("one flow that ends, one change of health, what comes late", setup);
}

/// A search that finds nothing would find something.
#[test]
fn the_search_finds_a_rule_that_is_not_kept() {
    let faults = [Fault::RefusalsForgotten, Fault::ElsewhereForgotten, Fault::Untouched, Fault::Unpromoted, Fault::Evicts];
    for fault in faults {
        let found = search(World::<1>::new(Setup { strays: true, others: true, fault: Some(fault), ..PLANNED }), ENOUGH);
        println!("{fault:?}: {:?} after {} worlds", found.broken, found.worlds);
        assert!(found.broken.is_some(), "{fault:?} breaks no flow in {} worlds", found.worlds);
    }
    for fault in [Fault::Unnumbered, Fault::Unordered] {
        let found = search(World::<1>::new(Setup { fault: Some(fault), ..ENDS }), ENOUGH);
        println!("{fault:?}: {:?} after {} worlds", found.broken, found.worlds);
        assert!(found.broken.is_some(), "{fault:?} breaks no flow in {} worlds", found.worlds);
    }
}
