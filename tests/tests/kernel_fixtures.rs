//! The fixtures, run by the kernel: the object that the product embeds, under `BPF_PROG_TEST_RUN`.
//!
//! What differs by program: a test run does not tell which interface a packet is redirected to, and TC can only redirect, also out of the
//! interface that a packet came in by. The socket buffer of a test run has its VLAN tags in the bytes and no checksum offload, so that TC has to leave
//! the same bytes as XDP; tags in metadata and partial checksums are met by the namespace tests.

use std::sync::{Mutex, PoisonError};

use mesh_tests::fixture::{Hook, Kernel, Sizes, cases, run, sources, truncated, verifier};

/// Each program is loaded once, for all tests here: the verifier's work is the larger part of theirs, most of all in an emulated machine. Every
/// fixture begins with maps of its own, so it does not matter what the one before has left, or whether it failed.
fn with(hook: Hook, test: impl FnOnce(&mut Kernel)) {
    static LOADED: [Mutex<Option<Kernel>>; 2] = [const { Mutex::new(None) }; 2];
    let mut loaded = LOADED[usize::from(hook == Hook::Tc)].lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = loaded.get_or_insert_with(|| Kernel::load(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}")));
    kernel.turn_to(hook);
    test(kernel);
}

#[test]
fn every_fixture_by_xdp() {
    every_fixture(Hook::Xdp);
}

/// Most packets are taken before it: it has to do with all of them what is done there.
#[test]
fn every_fixture_by_what_xdp_leaves_packets_to() {
    every_fixture(Hook::XdpRest);
}

#[test]
fn every_fixture_by_tc() {
    every_fixture(Hook::Tc);
}

/// On kernels before 6.6 that is how large tables are reached.
#[test]
fn every_fixture_with_tables_reached_by_calls() {
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut kernel = Kernel::load_calling(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"));
        every_fixture_of(&mut kernel);
        let cost = verifier::cost(&mut kernel).unwrap_or_else(|e| panic!("{e:#}"));
        println!("with calls: {hook:?} insns {} stack {}", cost.insns, cost.stack);
    }
}

/// Packets that don't fit one buffer; TC takes none in a test run.
#[test]
fn every_fixture_of_several_buffers() {
    with(Hook::Xdp, |kernel| {
        for fixture in cases::jumbo() {
            run(kernel, &fixture).unwrap_or_else(|e| panic!("{e:#}"));
        }
    });
}

/// All lengths up to the end of the headers, and some beyond: the host's engine takes every length of everything.
#[test]
fn every_length_of_every_packet_by_xdp() {
    every_length(Hook::Xdp);
}

#[test]
fn every_length_of_every_packet_by_tc() {
    every_length(Hook::Tc);
}

#[test]
fn several_sources_are_room_for_as_many_flows() {
    for hook in [Hook::Xdp, Hook::Tc] {
        with(hook, |kernel| {
            for setting in sources::settings() {
                sources::exhaust(kernel, setting).unwrap_or_else(|e| panic!("{} by {hook:?}: {e:#}", setting.name("several sources")));
            }
        });
    }
}

/// How much work the verifier had; `cargo xtask test vm` collects these lines for every kernel.
#[test]
fn verifier_statistics() {
    for hook in [Hook::Xdp, Hook::XdpRest, Hook::Tc] {
        let name = verifier::name(hook);
        with(hook, |kernel| {
            let cost = verifier::cost(kernel).unwrap_or_else(|e| panic!("{e:#}"));
            println!("verifier {name} insns {} stack {}", cost.insns, cost.stack);
            let budget = verifier::budget(hook).unwrap_or_else(|e| panic!("{e:#}"));
            assert!(
                cost.insns <= budget.insns && cost.stack <= budget.stack,
                "{name}: {cost:?} is beyond tests/verifier.budget: {budget:?}"
            );
        });
    }
}

fn every_fixture(hook: Hook) {
    with(hook, every_fixture_of);
}

fn every_fixture_of(kernel: &mut Kernel) {
    let failed: Vec<String> = cases::all().iter().filter_map(|f| run(kernel, f).err()).map(|e| format!("{e:#}")).collect();
    assert!(failed.is_empty(), "{} fixtures failed:\n{}", failed.len(), failed.join("\n"));
}

fn every_length(hook: Hook) {
    with(hook, |kernel| {
        for fixture in cases::all() {
            truncated(kernel, &fixture, 97).unwrap_or_else(|e| panic!("{e:#}"));
        }
    });
}
