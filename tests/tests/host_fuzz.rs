//! The fuzz targets without their fuzzer: what was kept of its inputs, and a bounded number of inputs made of those.

use mesh_tests::fuzz::{self, Mutator, Target};

/// Inputs of each target beside those that are kept: seconds.
const PACKETS: usize = 1500;
const TEXTS: usize = 500;

#[test]
fn packets() {
    feed(Target::Packet, PACKETS);
}

#[test]
fn maps() {
    feed(Target::Maps, PACKETS);
}

#[test]
fn configurations() {
    feed(Target::Config, TEXTS);
}

#[test]
fn requests() {
    feed(Target::Api, TEXTS);
}

#[test]
fn seeds_are_as_they_are_read() {
    for seed in Target::Packet.seeds() {
        assert!(fuzz::Script::read(&seed, true).bytes() == seed, "{}", seed.escape_ascii());
    }
}

/// A failure names its input, which then belongs into the corpus.
fn feed(target: Target, more: usize) {
    let mut inputs = fuzz::read(target).unwrap_or_else(|e| panic!("{e:#}"));
    assert!(!inputs.is_empty(), "no inputs of {} are kept", target.name());
    inputs.extend(target.seeds().into_iter().enumerate().map(|(i, seed)| (format!("seed {i}"), seed)));
    for (name, input) in &inputs {
        attempt(target, name, input);
    }
    let seed = std::env::var("MESH_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut mutator = Mutator::new(seed);
    for number in 0..more {
        attempt(target, &format!("number {number} of seed {seed}"), &mutator.next(&inputs));
    }
}

fn attempt(target: Target, name: &str, input: &[u8]) {
    let Err(why) = std::panic::catch_unwind(|| target.run(input)) else { return };
    let why = why.downcast_ref::<String>().cloned().or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    panic!("{} fails on {name}: {}\n{:?}", target.name(), why.unwrap_or_default(), input.escape_ascii().to_string());
}
