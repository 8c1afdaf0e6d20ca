//! Searches that take minutes and gigabytes, and are made only where `MESH_LEDGER_WORLDS` says how many worlds to look at, at most:
//! `MESH_LEDGER_WORLDS=40000000 cargo test -p mesh-common --release --test ledger -- --nocapture larger`.

use crate::{
    ENDS, PLANNED,
    search::{asked_for, search},
    setup::{Left, Setup},
    world::World,
};

fn all_of<const FLOWS: usize>(name: &str, setup: Setup) {
    if let Some(most) = asked_for(name) {
        search(World::<FLOWS>::new(setup), most).unbroken_in_all(name);
    }
}

#[test]
fn any_number_of_flows_outlives_planned_changes_and_one_of_health() {
    let setup = Setup { health: true, failures: Left::Few(1), strays: true, others: true, ..PLANNED };
    all_of::<1>("any number of flows, planned changes, stray SYNs, one change of health", setup);
}

#[test]
fn two_changes_of_health_break_no_flow() {
    all_of::<1>("one flow, planned changes, two changes of health", Setup { health: true, failures: Left::Few(2), ..PLANNED });
}

#[test]
fn reused_tuples_outlive_planned_changes() {
    all_of::<1>("one flow that ends, planned changes, what comes late", ENDS);
}

#[test]
fn three_flows_outlive_a_planned_change() {
    all_of::<3>("three flows, one planned change", Setup { changes: Left::Few(1), ..PLANNED });
}

#[test]
fn datagrams_outlive_two_changes_of_health() {
    let setup = Setup { handshakes: false, health: true, failures: Left::Few(2), ..PLANNED };
    all_of::<1>("one flow without handshake, planned changes, two changes of health", setup);
}

#[test]
fn any_number_of_datagrams_outlives_a_change_of_health() {
    let setup = Setup { handshakes: false, health: true, failures: Left::Few(1), others: true, ..PLANNED };
    all_of::<1>("any number of flows without handshake, planned changes, one change of health", setup);
}
