//! The fixtures, run by the host's copy of the engine.

use mesh_tests::fixture::{Host, Sizes, cases, run, sources, truncated};

#[test]
fn every_fixture_of_several_buffers() {
    let mut host = Host::new(Sizes::SMALL);
    for fixture in cases::jumbo() {
        run(&mut host, &fixture).unwrap_or_else(|e| panic!("{e:#}"));
    }
}

#[test]
fn every_fixture() {
    let mut host = Host::new(Sizes::SMALL);
    let failed: Vec<String> = cases::all().iter().filter_map(|f| run(&mut host, f).err()).map(|e| format!("{e:#}")).collect();
    assert!(failed.is_empty(), "{} fixtures failed:\n{}", failed.len(), failed.join("\n"));
}

/// Clocks start anywhere, and their ticks wrap around.
#[test]
fn every_fixture_at_any_time() {
    for tick in [0, 1, 74, u32::MAX - 1, u32::MAX] {
        let mut host = Host::new(Sizes::SMALL);
        host.set_tick(tick);
        for fixture in cases::all() {
            run(&mut host, &fixture).unwrap_or_else(|e| panic!("at tick {tick}: {e:#}"));
        }
    }
}

#[test]
fn every_length_of_every_packet() {
    let mut host = Host::new(Sizes::SMALL);
    for fixture in cases::all() {
        truncated(&mut host, &fixture, 1).unwrap_or_else(|e| panic!("{e:#}"));
    }
}

#[test]
fn several_sources_are_room_for_as_many_flows() {
    let mut host = Host::new(Sizes::SMALL);
    for setting in sources::settings() {
        sources::exhaust(&mut host, setting).unwrap_or_else(|e| panic!("{}: {e:#}", setting.name("several sources")));
    }
}
