//! One fuzz target under libFuzzer: `cargo xtask fuzz`. `MESH_FUZZ` says which, `MESH_FUZZ_SEEDS` where to write what it begins with.
#![no_main]

use std::{env, path::Path, sync::OnceLock};

use clap::ValueEnum;
use mesh_tests::fuzz::{self, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: begin(), |input: &[u8]| {
    if let Some(target) = TARGET.get() {
        target.run(input);
    }
});

fn begin() {
    let target = env::var("MESH_FUZZ").ok().and_then(|name| Target::from_str(&name, false).ok());
    let target = target.unwrap_or_else(|| panic!("MESH_FUZZ names no target: packet, maps, config or api"));
    if let Some(directory) = env::var_os("MESH_FUZZ_SEEDS") {
        fuzz::write(Path::new(&directory), &target.seeds()).unwrap_or_else(|e| panic!("{e:#}"));
    }
    TARGET.get_or_init(|| target);
}
