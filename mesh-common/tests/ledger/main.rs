//! The ledger's rules, searched: in no world that can come about does a flow miss its backend.

mod recall;
mod search;
mod traces;
mod world;

use search::search;
use world::World;

/// Worlds that a search looks at. `MESH_LEDGER_WORLDS` has it look at more: some hundred bytes each.
fn most(usual: usize) -> usize {
    std::env::var("MESH_LEDGER_WORLDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn clean<const FLOWS: usize>(name: &str, handshakes: bool, health: bool, most: usize) {
    let found = search(World::<FLOWS>::new(handshakes), health, self::most(most));
    println!("{name}: {} worlds{}", found.worlds, if found.complete { ", all there are" } else { "" });
    if let Some((way, broken)) = found.broken {
        panic!("{name}: {broken:?} by {way:?}");
    }
}

#[test]
fn planned_changes_break_no_flow() {
    clean::<1>("one flow, planned changes", true, false, 250_000);
}

/// Flows share a bucket's room, and what their slot remembers of refusals. Slots share nothing but the health of backends, which changes at any moment
/// here: of several slots each goes through what it goes through here.
#[test]
fn planned_changes_break_none_of_three_flows() {
    clean::<3>("three flows, planned changes", true, false, 100_000);
}

#[test]
fn changes_of_health_break_none_of_three_flows() {
    clean::<3>("three flows, changes of health", true, true, 100_000);
}

#[test]
fn planned_changes_break_no_datagrams() {
    clean::<1>("one flow without handshake", false, false, 250_000);
}

#[test]
fn changes_of_health_break_no_open_flow() {
    clean::<1>("one flow, changes of health", true, true, 250_000);
}
