//! The ledger's rules with two balancers, searched: whichever of them a flow's packets reach, it does not miss its backend.
//!
//! Each search looks at every world that can come about, and ends when there are no more. A flow stands for any number of them, and a slot for any number
//! of slots, as in the searches of one node (`tests/ledger`); worlds that differ by the names of nodes, backends or flows are one. The two daemons look at
//! their slot in any order at the beginning of each tick, and hear of what is wanted at any time, each at another one. What they say to each other arrives
//! at any moment, in any order between reports and entries, but that a report goes after the entries that were made before it; `lag` ticks later at the
//! latest, however often it was lost before. Packets come by either node at any moment.
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
//! | a backend dies, and each node finds it out at another time | 254,920 |
//! | without handshakes: a planned change; two; one with delays of a tick | 16,652; 354,882; 331,669 |
//!
//! | larger: a planned change with late and forged SYNs | 4,263,331 |
//! | larger: a planned change with any number of flows | 3,725,055 |
//! | larger: a planned change, delays of a tick | 8,858,692 |
//! | larger: two planned changes | 9,000,000 and more: it was not seen to end |

mod canonical;
mod node;
mod search;
mod setup;
mod traces;
mod world;

use search::{Found, search};
use setup::{ALL, Fault, Setup};
use world::World;

/// More than any of these searches has to look at.
const ENOUGH: usize = 2_000_000;

/// Flows without handshake.
const DATAGRAMS: Setup = Setup { handshakes: false, ..ALL };

fn all_of(name: &str, setup: Setup, most: usize) {
    let Found { worlds, complete, broken } = search(World::<1>::new(setup), most);
    println!("{name}: {worlds} worlds, {}", if complete { "all there are" } else { "and more" });
    assert!(broken.is_none(), "{name}: {broken:?}");
    assert!(complete, "{name}: there are more than {worlds} worlds");
}

/// A search that takes long, or has not been seen to end, and is made only where `MESH_LEDGER_WORLDS` says how many worlds to look at, at most.
fn larger(name: &str, setup: Setup) {
    let Some(most) = std::env::var("MESH_LEDGER_WORLDS").ok().and_then(|n| n.parse().ok()) else {
        println!("{name}: looked at if MESH_LEDGER_WORLDS says how many worlds at most");
        return;
    };
    let Found { worlds, complete, broken } = search(World::<1>::new(setup), most);
    println!("{name}: {worlds} worlds, {}", if complete { "all there are" } else { "and more" });
    assert!(broken.is_none(), "{name}: {broken:?}");
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

/// A search that finds nothing would find something.
#[test]
fn the_search_finds_a_rule_that_is_not_kept() {
    let twice = Setup { wishes: 2, ..ALL };
    let full = Setup { full: true, ..ALL };
    let of_flows = [Fault::Mute, Fault::Alone, Fault::Stale, Fault::ElsewhereForgotten].map(|fault| (fault, ALL));
    let of_datagrams = [Fault::Mute, Fault::Alone, Fault::Stale].map(|fault| (fault, DATAGRAMS));
    for (fault, setup) in of_flows.into_iter().chain(of_datagrams).chain([(Fault::RefusalsForgotten, full), (Fault::Unasked, twice)]) {
        let found = search(World::<1>::new(Setup { fault: Some(fault), ..setup }), ENOUGH);
        println!("{fault:?}: {:?} after {} worlds", found.broken, found.worlds);
        assert!(found.broken.is_some(), "{fault:?} breaks no flow in {} worlds", found.worlds);
    }
}
