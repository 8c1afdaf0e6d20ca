//! `cargo xtask bench`: starts the benchmark that is asked for.

mod ipvs;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    setup::{self, Need},
    workspace::{cargo, run as execute, target},
};

#[derive(clap::Args)]
pub struct Args {
    /// What to measure.
    subject: Subject,
    /// Print the result as JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Further options of the benches that need root; `cargo xtask bench failover -- --help` lists them.
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Time to build a slot table.
    Table,
    /// Time to publish a table to the kernel (needs root).
    Publish,
    /// Time of the loaded program for one packet (needs root).
    Packet,
    /// How long a backend that has failed is still sent packets, beside HAProxy; `-- --full` for the whole proof (needs root).
    Failover,
    /// Time that asking ten thousand backends takes (needs root).
    Probes,
    /// Time from a registration in each source of backends to the first packet; a thousand changes; a scrape of ten thousand backends (needs root).
    Discovery,
    /// Start, change and memory of a daemon with ten thousand services and a hundred thousand backends (needs root).
    Scale,
    /// Latency of HTTP backends of different speed under equal, ideal and controlled weights, beside HAProxy (needs root).
    Weights,
    /// Connections broken by drains, additions, weights, a failure, restarts, an upgrade and a flood: none may be (needs root).
    Churn,
    /// Connections and requests a second and their CPU time by way of mesh, nftables, HAProxy and nginx, in turns (needs root).
    E2e,
    /// Memory of the kernel's maps for 1, 100 and 10,000 services and for a million translated flows (needs root).
    Memory,
    /// Instructions of a packet by way of mesh and of IPVS, in a virtual machine that counts them; `-- --kernel 6.1` for another kernel than 6.12.
    Ipvs,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    match args.subject {
        Subject::Table => criterion("table", args.json),
        Subject::Publish => criterion("publish", args.json),
        Subject::Packet => plain("packet", args),
        Subject::Memory => {
            execute(&mut cargo(&["build", "--locked", "--package", "mesh-userspace", "--bin", "mesh"]))?;
            plain("memory", args)
        }
        Subject::Failover => release("failover", args),
        Subject::Probes => release("probes", args),
        Subject::Scale => release("scale", args),
        Subject::Weights => release("weights", args),
        Subject::Churn => release("churn", args),
        Subject::E2e => release("e2e", args),
        Subject::Ipvs => ipvs::run(args.json, &args.options),
        Subject::Discovery => {
            setup::ensure(&[Need::Peers])?;
            release("discovery", args)
        }
    }
}

/// Runs a bench of what is in the kernel, which is always built in full; the bench around it need not be, and is there already.
fn plain(subject: &str, args: &Args) -> Result<()> {
    let mut command = cargo(&["run", "--locked", "--package", "mesh-tests", "--bin", "mesh-bench", "--", subject]);
    execute(command.args(args.json.then_some("--json")).args(&args.options))
}

/// Runs a bench of what users run: the daemon, built for release.
fn release(subject: &str, args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Bench])?;
    execute(&mut cargo(&["build", "--locked", "--release", "--package", "mesh-userspace", "--package", "mesh-tests", "--bins"]))?;
    let mut command = Command::new(target().join("release/mesh-bench"));
    execute(command.arg(subject).args(args.json.then_some("--json")).args(&args.options))
}

/// Runs a bench of mesh-userspace. What criterion prints is for people; for programs there are the files that it leaves.
fn criterion(bench: &str, json: bool) -> Result<()> {
    let mut command: Command = cargo(&["bench", "--locked", "--package", "mesh-userspace", "--bench", bench]);
    if !json {
        return execute(&mut command);
    }
    let start = SystemTime::now();
    execute(command.stdout(io::stderr()))?;
    let mut results = Vec::new();
    collect(&target().join("criterion"), start, &mut results)?;
    ensure!(!results.is_empty(), "criterion left no results of {bench}");
    results.sort_by_key(|r| r["name"].to_string());
    results.iter().for_each(|result| println!("{result}"));
    Ok(())
}

/// The results below a folder that were written since `start`.
fn collect(folder: &Path, start: SystemTime, results: &mut Vec<Value>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        let estimates = path.join("estimates.json");
        let fresh = fs::metadata(&estimates).and_then(|m| m.modified()).is_ok_and(|written| written >= start);
        if entry.file_name() == "new" && fresh {
            results.push(result(&path.join("benchmark.json"), &estimates)?);
        } else {
            collect(&path, start, results)?;
        }
    }
    Ok(())
}

/// Name and time of one benchmark, nanoseconds.
fn result(benchmark: &PathBuf, estimates: &PathBuf) -> Result<Value> {
    let read = |path: &PathBuf| -> Result<Value> {
        let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
    };
    let (benchmark, estimates) = (read(benchmark)?, read(estimates)?);
    Ok(json!({ "name": benchmark["full_id"], "median_ns": estimates["median"]["point_estimate"] }))
}
