//! The ledger's rules, searched: in no world that can come about does a flow miss its backend.

mod recall;
mod search;
mod traces;
mod world;

use search::search;
use world::World;

fn clean<const FLOWS: usize>(name: &str, handshakes: bool, health: bool, most: usize) {
    let found = search(World::<FLOWS>::new(handshakes), health, most);
    println!("{name}: {} worlds{}", found.worlds, if found.complete { ", all there are" } else { "" });
    if let Some((way, broken)) = found.broken {
        panic!("{name}: {broken:?} by {way:?}");
    }
}

#[test]
fn planned_changes_break_no_flow() {
    clean::<1>("one flow, planned changes", true, false, 250_000);
}

#[test]
fn planned_changes_break_no_datagrams() {
    clean::<1>("one flow without handshake", false, false, 250_000);
}

#[test]
fn changes_of_health_break_no_open_flow() {
    clean::<1>("one flow, changes of health", true, true, 250_000);
}
