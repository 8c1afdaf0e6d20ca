//! The ledger's rules with two balancers, searched: whichever of them a flow's packets reach, it does not miss its backend.
//!
//! Each search looks at every world that can come about, and ends when there are no more. A flow stands for any number of them, and a slot for any number
//! of slots, as in the searches of one node (`tests/ledger`); worlds that differ by the names of nodes, backends or flows are one. The two daemons look at
//! their slot in any order at the beginning of each tick, and hear of what is wanted at any time, each at another one. What they say to each other arrives
//! at any moment, in any order between reports and entries, but that a report goes after the entries that were made before it; `lag` ticks later at the
//! latest, however often it was lost before. Packets come by either node at any moment.
//!
//! After a start nodes may have defaults that differ, by the order of their own first checks. A flow that begins before both remember SYNs is then its
//! node's until both know it, or have come to the same default.
//!
//! What is not promised, and not searched: a flow that changes its balancer before the others can have been told of its handshake (or of its first datagram),
//! or whose handshake there was no room to remember; a tuple that is used again elsewhere within that moment; and a flow that begins with whoever stands in
//! for a dead backend while nodes, amid a change that has not come to all of them, name different ones. Joining, and the loss of a node, are
//! with the random worlds of `peers::ledger`.
//!
//! | search | worlds |
//! |---|---|
//! | a planned change | 799,073 |
//! | a planned change with a full ledger | 1,190,127 |
//! | a planned change where a node has once no room for what it is told | 2,244,051 |
//! | a backend dies, and each node finds it out at another time | 254,920 |
//! | a start that left nodes with other defaults: one of the two is wanted; the same with a full ledger; neither | 148,555; 263,010; 989,150 |
//! | the same without handshakes | 8,690; 26,456 |
//! | without handshakes: a planned change; two; one with delays of a tick | 16,652; 354,882; 331,669 |
//!
//! | larger: a planned change with late and forged SYNs | 4,263,331 |
//! | larger: a planned change with any number of flows | 3,725,055 |
//! | larger: a planned change, delays of a tick | 8,858,692 |
//! | larger: a planned change where nodes never have to have room for what they are told | 3,831,583 |
//! | larger: a start that left nodes with other defaults, delays of a tick; the same and a planned change | 1,537,227; 9,060,000 |
//! | larger: two planned changes | 9,000,000 and more: it was not seen to end |

mod apart;
mod canonical;
mod node;
#[path = "../search/mod.rs"]
mod search;
mod setup;
mod traces;
mod world;

use search::{asked_for, search};
use setup::{ALL, Fault, PARTED, Setup};
use world::World;

/// More than any of these searches has to look at.
const ENOUGH: usize = 3_000_000;

/// Flows without handshake.
const DATAGRAMS: Setup = Setup { handshakes: false, ..ALL };

fn all_of(name: &str, setup: Setup, most: usize) {
    search(World::<1>::new(setup), most).unbroken_in_all(name);
}

/// A search that takes long, or has not been seen to end, and is made only where `MESH_LEDGER_WORLDS` says how many worlds to look at, at most.
fn larger(name: &str, setup: Setup) {
    if let Some(most) = asked_for(name) {
        search(World::<1>::new(setup), most).unbroken(name);
    }
}

#[test]
fn a_flow_outlives_a_planned_change_by_either_node() {
    all_of("one planned change", ALL, ENOUGH);
}

#[test]
fn datagrams_outlive_a_planned_change_by_either_node() {
    all_of("without handshakes, one planned change", DATAGRAMS, ENOUGH);
}

#[test]
fn datagrams_outlive_a_change_upon_a_change() {
    all_of("without handshakes, two planned changes", Setup { wishes: 2, ..DATAGRAMS }, ENOUGH);
}

#[test]
fn datagrams_outlive_a_change_of_which_nodes_hear_late() {
    all_of("without handshakes, one planned change, what is said takes up to a tick", Setup { lag: 1, ..DATAGRAMS }, ENOUGH);
}

#[test]
fn a_flow_outlives_a_change_with_a_full_ledger() {
    all_of("one planned change, full ledger", Setup { full: true, ..ALL }, ENOUGH);
}

/// Who has no room for an entry has not heard of it, nor of what is said after it.
#[test]
fn a_flow_outlives_a_change_where_a_node_has_no_room_for_what_it_is_told() {
    all_of("one planned change, once no room for an entry of the other", Setup { cramped: 1, ..ALL }, ENOUGH);
}

#[test]
fn a_flow_outlives_a_change_where_nodes_never_have_to_have_room() {
    larger("one planned change, no room for entries of the other at any moment", Setup { cramped: u8::MAX, ..ALL });
}

#[test]
fn a_flow_outlives_a_change_of_which_nodes_hear_late() {
    larger("one planned change, what is said takes up to a tick", Setup { lag: 1, ..ALL });
}

#[test]
fn a_flow_outlives_stray_syns_at_either_node() {
    larger("one planned change, stray SYNs", Setup { strays: true, ..ALL });
}

#[test]
fn a_flow_outlives_a_change_upon_a_change() {
    larger("two planned changes", Setup { wishes: 2, ..ALL });
}

/// Each node finds it out at another time; nobody is led to the dead for longer.
#[test]
fn a_flow_outlives_the_death_of_another_backend() {
    all_of("a backend dies", Setup { wishes: 0, deaths: 1, ..ALL }, ENOUGH);
}

#[test]
fn any_number_of_flows_outlives_a_change() {
    larger("any number of flows, one planned change", Setup { others: true, ..ALL });
}

/// After a start nodes have the defaults that the order of their own first checks has made: one of the two has what both want, ...
#[test]
fn a_flow_outlives_a_start_that_left_nodes_apart() {
    search(World::<1>::new(PARTED), ENOUGH).unbroken_in_all("defaults that differ, one of which is wanted");
}

/// ... or neither.
#[test]
fn a_flow_outlives_a_start_after_which_both_nodes_change() {
    search(World::<1>::new(PARTED).wanting(2), ENOUGH).unbroken_in_all("defaults that differ, neither of which is wanted");
}

#[test]
fn a_flow_outlives_a_start_with_a_full_ledger() {
    search(World::<1>::new(Setup { full: true, ..PARTED }), ENOUGH).unbroken_in_all("defaults that differ, full ledger");
}

#[test]
fn a_flow_outlives_a_start_of_which_nodes_hear_late() {
    larger("defaults that differ, what is said takes up to a tick", Setup { lag: 1, ..PARTED });
}

#[test]
fn a_flow_outlives_a_start_and_a_change_upon_it() {
    larger("defaults that differ, a planned change", Setup { wishes: 1, ..PARTED });
}

#[test]
fn datagrams_outlive_a_start_that_left_nodes_apart() {
    let datagrams = Setup { handshakes: false, ..PARTED };
    for wanted in [0, 2] {
        search(World::<1>::new(datagrams).wanting(wanted), ENOUGH).unbroken_in_all("without handshakes, defaults that differ");
    }
}

/// A search that finds nothing would find something.
#[test]
fn the_search_finds_a_rule_that_is_not_kept() {
    let twice = Setup { wishes: 2, ..ALL };
    let full = Setup { full: true, ..ALL };
    let of_flows = [Fault::Mute, Fault::Alone, Fault::Stale, Fault::ElsewhereForgotten].map(|fault| (fault, ALL));
    let of_datagrams = [Fault::Mute, Fault::Alone, Fault::Stale].map(|fault| (fault, DATAGRAMS));
    let cramped = (Fault::Shrugs, Setup { cramped: 1, ..ALL });
    let others = [(Fault::RefusalsForgotten, full), (Fault::Unasked, twice), cramped];
    let parted = (Fault::Defaulted, PARTED);
    for (fault, setup) in of_flows.into_iter().chain(of_datagrams).chain(others).chain([parted]) {
        let found = search(World::<1>::new(Setup { fault: Some(fault), ..setup }), ENOUGH);
        println!("{fault:?}: {:?} after {} worlds", found.broken, found.worlds);
        assert!(found.broken.is_some(), "{fault:?} breaks no flow in {} worlds", found.worlds);
    }
}
