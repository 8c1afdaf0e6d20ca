//! Builds the kernel half from source and leaves its object in `OUT_DIR/mesh-datapath`, for the library to embed.
//!
//! Build scripts of dependents find it in `DEP_MESH_DATAPATH_OBJECT`, and in `DEP_MESH_DATAPATH_BENCH_DRIVER` the driver of the packet bench, which is
//! built along and embedded by nothing of the product.
//!
//! The object can't be stale: a change of anything that it is made of (mesh-ebpf, mesh-common, the manifests) runs this again.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

const PACKAGE: &str = "mesh-ebpf";
const BINARY: &str = "mesh-datapath";
const AGENT: &str = "mesh-agent";
const PROBE: &str = "mesh-probe";
const CLOCK: &str = "mesh-clock";
const BENCH_DRIVER: &str = "mesh-bench-driver";

/// Paths, from the workspace's root, that the object is made of.
const SOURCES: [&str; 6] = ["mesh-ebpf", "mesh-common/src", "mesh-common/Cargo.toml", "Cargo.toml", "Cargo.lock", "xtask/src/toolchain.rs"];

/// ISA v3 loads from kernel 6.1 on, v4 doesn't. Without the feature every header field is put together from single bytes.
///
/// All functions have to be in one section, seldom ones too: the loader knows those that are called by their address alone, which is counted from the
/// beginning of each section.
const RUSTFLAGS: [&str; 5] = [
    "-Ctarget-cpu=v3",
    "-Ctarget-feature=+allows-misaligned-mem-access",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--llvm-args=--profile-guided-section-prefix=false",
];

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // Not returned from main: that would bury the sentence under a backtrace of this script.
    tell("error", &format!("{error:#}"));
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    // Asked for when it runs: a script that was built in another checkout must not build that one's sources.
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().context("mesh-userspace has no parent folder")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-env-changed={}", toolchain::OVERRIDE);

    let choice = toolchain::choose().map_err(|missing| anyhow!("{missing}; run `cargo xtask setup`"))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let built = build(root, &choice, &inner_target(&out))?;
    for (binary, key) in [(BINARY, "object"), (AGENT, "agent"), (PROBE, "probe"), (CLOCK, "clock"), (BENCH_DRIVER, "bench_driver")] {
        let (from, to) = (built.join(binary), out.join(binary));
        fs::copy(&from, &to).with_context(|| format!("failed to copy {}", from.display()))?;
        println!("cargo::metadata={key}={}", to.display());
    }
    Ok(())
}

/// The inner cargo's own target folder, because the outer one is locked. Below the outer one and not below `OUT_DIR`, so that a check, a test
/// and a release build share what they have in common, which is everything.
fn inner_target(out: &Path) -> PathBuf {
    let outer = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    outer.unwrap_or(out).join("ebpf")
}

/// Runs the inner cargo; returns the folder that the objects are in.
fn build(root: &Path, choice: &toolchain::Choice, target_dir: &Path) -> Result<PathBuf> {
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let mut cargo = choice.command("cargo");
    cargo
        .current_dir(root)
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            BINARY,
            "--bin",
            AGENT,
            "--bin",
            PROBE,
            "--bin",
            CLOCK,
            "--bin",
            BENCH_DRIVER,
            "--target",
            target,
        ])
        .args(["-Zbuild-std=core", "--message-format=json", "--quiet", "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags()?)
        .env("PATH", path_with(&choice.linker.path)?)
        // What the outer cargo and clippy set for their own compiler.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .stdin(Stdio::null());
    if !choice.toolchain.nightly {
        // Set for this one command: exported, it would reach every other build script.
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = cargo.output().with_context(|| format!("failed to start {cargo:?}"))?;
    let messages = String::from_utf8_lossy(&output.stdout);
    messages.lines().filter_map(diagnostic).for_each(|text| tell(if output.status.success() { "warning" } else { "error" }, &text));
    if !output.status.success() {
        tell("error", &String::from_utf8_lossy(&output.stderr));
        bail!("the eBPF build failed with toolchain {} ({})", choice.toolchain.name, output.status);
    }
    Ok(target_dir.join(target).join("release"))
}

/// What the compiler has to say of our code. A message without a code is not about the code: rustc says of a `-C` flag that it is unstable.
fn diagnostic(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    let message = message.get("message")?;
    if message.get("code")?.is_null() && message.get("level")? != "error" {
        return None;
    }
    message.get("rendered")?.as_str().map(str::to_owned)
}

fn tell(level: &str, text: &str) {
    text.lines().filter(|l| !l.is_empty()).for_each(|line| println!("cargo::{level}={line}"));
}

fn rustflags() -> Result<String> {
    // aya-ebpf's register accessors depend on the machine that will run the program.
    let machine = format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?);
    Ok([machine.as_str()].into_iter().chain(RUSTFLAGS).collect::<Vec<_>>().join("\x1f"))
}

/// `PATH` with the linker's folder in front: rustc looks bpf-linker up by name.
fn path_with(linker: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = linker.parent().map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).context("the folder of bpf-linker can't be on PATH")
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo didn't set {name}"))
}
