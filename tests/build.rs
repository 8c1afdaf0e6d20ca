//! Hands on where mesh-userspace's build script left the kernel half's objects: tests and benches load what the product embeds.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    for key in ["DEP_MESH_DATAPATH_OBJECT", "DEP_MESH_DATAPATH_BENCH_DRIVER"] {
        let Ok(path) = env::var(key) else {
            println!("cargo::error=mesh-userspace's build script did not say where {key} is");
            return ExitCode::FAILURE;
        };
        println!("cargo::rustc-env={}={path}", key.trim_start_matches("DEP_"));
        println!("cargo::rerun-if-changed={path}");
    }
    ExitCode::SUCCESS
}
