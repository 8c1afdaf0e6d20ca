//! `cargo xtask fuzz`: the fuzz targets under libFuzzer, in a build of their own that tells what code an input reaches.
//!
//! The flags that this takes are stable ones, so any toolchain that builds mesh does. What stands in `tests/fuzz` is run by the tests of the host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    setup::{self, Need},
    workspace::{cargo, root, run as execute, target},
};

#[derive(clap::Args)]
pub struct Args {
    /// What is fed [default: everything, one after the other].
    targets: Vec<Target>,
    /// For so long each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Afterwards keep in tests/fuzz the least number of inputs that reach as much, and what was kept as a regression.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    /// Frames, to maps as the daemon writes them.
    Packet,
    /// Frames, to maps that are overwritten in places.
    Maps,
    /// The configuration.
    Config,
    /// Bodies of requests to the API.
    Api,
}

/// An input that broke something once begins its name with this.
const REGRESSION: &str = "regression-";
const LONGEST: &str = "-max_len=4096";

/// What libFuzzer has to be told by the code.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=yes",
];

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let work = target().join("fuzz");
    let program = build(&work)?;
    let targets = if args.targets.is_empty() { Target::value_variants() } else { &args.targets };
    let mut broken = Vec::new();
    for &target in targets {
        let place = Place::new(&work, target)?;
        let limit = format!("-max_total_time={}", args.seconds);
        let artifacts = format!("-artifact_prefix={}/", place.found.display());
        let mut command = place.command(&program, target);
        command.args([&limit, LONGEST, "-timeout=20", "-rss_limit_mb=4096", &artifacts]);
        let done = execute(command.args([&place.corpus, &place.seeds, &place.kept]));
        if let Err(error) = done {
            broken.push(format!("{target:?}: {error:#}; the input is in {}", place.found.display()));
            continue;
        }
        if args.keep {
            place.keep(&program, target)?;
        }
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(())
}

fn build(work: &Path) -> Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags: Vec<String> = COVERAGE.iter().map(|flag| format!("{flag:?}")).collect();
    let mut command = cargo(&["build", "--locked", "--package", "mesh-tests", "--bin", "mesh-fuzz", "--features", "guided"]);
    // By the command line, and so neither for build scripts nor for the kernel half, which they build.
    command.args(["--config", &format!("target.{host}.rustflags=[{}]", flags.join(","))]);
    command.args(["--config", "profile.dev.opt-level=1", "--target", &host]);
    execute(command.arg("--target-dir").arg(work))?;
    Ok(work.join(host).join("debug/mesh-fuzz"))
}

/// Where the inputs of a target are.
struct Place {
    /// What the fuzzer keeps for itself from run to run.
    corpus: PathBuf,
    seeds: PathBuf,
    /// What broke something.
    found: PathBuf,
    /// In the repository.
    kept: PathBuf,
}

impl Place {
    fn new(work: &Path, target: Target) -> Result<Self> {
        let name = format!("{target:?}").to_lowercase();
        let [corpus, seeds, found] = ["corpus", "seeds", "found"].map(|kind| work.join(kind).join(&name));
        let place = Self { corpus, seeds, found, kept: root().join("tests/fuzz").join(&name) };
        for directory in [&place.corpus, &place.seeds, &place.found, &place.kept] {
            fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
        }
        Ok(place)
    }

    fn command(&self, program: &Path, target: Target) -> Command {
        let mut command = Command::new(program);
        command.env("MESH_FUZZ", format!("{target:?}").to_lowercase()).env("MESH_FUZZ_SEEDS", &self.seeds).env("RUST_BACKTRACE", "0");
        command
    }

    fn keep(&self, program: &Path, target: Target) -> Result<()> {
        let least = self.corpus.with_file_name("least");
        if least.exists() {
            fs::remove_dir_all(&least)?;
        }
        fs::create_dir_all(&least)?;
        let mut command = self.command(program, target);
        // How often a place is reached is not told apart: there would be ten times as many.
        execute(command.args(["-merge=1", "-use_counters=0", LONGEST]).args([&least, &self.kept, &self.seeds, &self.corpus]))?;
        for entry in fs::read_dir(&self.kept)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(REGRESSION) {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(&least)? {
            let entry = entry?;
            fs::copy(entry.path(), self.kept.join(entry.file_name()))?;
        }
        Ok(())
    }
}
