//! The benchmarks that need the kernel: `cargo xtask bench`.

#[path = "bench/end_to_end.rs"]
mod end_to_end;
#[path = "bench/packet.rs"]
mod packet;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_tests::bench::{
    churn,
    discovery::{self, Place},
    failover::{self, Mode, Settings, Way},
    ipvs, memory,
    probes::{self, Cost, Kind},
    scale,
    weighted::{self, Policy},
};

#[derive(Parser)]
#[command(about = "Measures the packet path in the kernel, and what follows from a failure")]
struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// What a packet costs, by kind, flows and services.
    Packet(packet::Args),
    /// How long a backend that has failed is still sent packets.
    Failover(Failover),
    /// How long it takes from a registration to the first packet.
    Discovery(Discovery),
    /// What asking many backends costs.
    Probes(Probes),
    /// What many services with many backends cost.
    Scale(Scale),
    /// What weights do for the latency of backends of different speed.
    Weights(Weights),
    /// What becomes of connections while everything changes around them.
    Churn(Churn),
    /// What requests cost by way of mesh, and of others.
    E2e(end_to_end::Args),
    /// What the kernel's maps take.
    Memory {
        /// Print one JSON object a size.
        #[arg(long)]
        json: bool,
    },
    /// What a packet executes, told line by line: runs in a virtual machine that counts instructions.
    #[command(hide = true)]
    IpvsGuest {
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
}

#[derive(clap::Args)]
struct Failover {
    /// Print one JSON object a way, mode and settings.
    #[arg(long)]
    json: bool,
    /// Ways to fail [default: all].
    #[arg(long = "way", value_delimiter = ',')]
    ways: Vec<Way>,
    /// Who forwards [default: all].
    #[arg(long = "mode", value_delimiter = ',')]
    modes: Vec<Mode>,
    /// How backends are checked [default: both].
    #[arg(long = "settings", value_delimiter = ',')]
    settings: Vec<Settings>,
    /// Trials of each way.
    #[arg(long, default_value_t = 200)]
    trials: usize,
    /// Worlds that share the trials of a way, side by side.
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    #[arg(long, default_value_t = 8)]
    backends: u8,
    /// Requests a second.
    #[arg(long, default_value_t = 600)]
    rate: u32,
    /// Seconds that the trials of one way may take: then those that are done count.
    #[arg(long, default_value_t = 600)]
    budget: u64,
    /// Tell what the daemon said in the slowest trial of each.
    #[arg(long)]
    explain: bool,
    /// Seconds that healthy backends are watched for a false alarm, with all cores busy; 0 = not at all.
    #[arg(long, default_value_t = 30)]
    calm: u64,
    /// Watch for ten minutes, as it takes to prove it.
    #[arg(long)]
    full: bool,
}

fn main() -> Result<()> {
    match Args::parse().subject {
        Subject::Packet(args) => packet::run(&args),
        Subject::Failover(args) => run_failover(&args),
        Subject::Discovery(args) => run_discovery(&args),
        Subject::Probes(args) => run_probes(&args),
        Subject::Scale(args) => run_scale(&args),
        Subject::Weights(args) => run_weights(&args),
        Subject::Churn(args) => run_churn(&args),
        Subject::E2e(args) => end_to_end::run(&args),
        Subject::Memory { json } => memory::measure(|memory| {
            println!("{}", if json { serde_json::to_string(memory)? } else { memory.to_string() });
            Ok(())
        }),
        Subject::IpvsGuest { rounds } => ipvs::measure(rounds.max(1), |figure| println!("figure {}", serde_json::json!(figure))),
    }
}

#[derive(clap::Args)]
struct Discovery {
    /// Print one JSON object a source.
    #[arg(long)]
    json: bool,
    /// Where backends are registered [default: everywhere].
    #[arg(long = "source", value_delimiter = ',')]
    sources: Vec<Place>,
    /// Registrations in each.
    #[arg(long, default_value_t = 100)]
    trials: usize,
    /// Leave out the thousand changes and the scrape.
    #[arg(long)]
    quick: bool,
}

fn run_discovery(args: &Discovery) -> Result<()> {
    if !args.json {
        println!("{}", discovery::Figure::HEAD);
    }
    let mut missed = 0;
    discovery::measure(&or_all(&args.sources), args.trials.max(1), |figure| {
        missed += usize::from(!figure.met);
        println!("{}", if args.json { serde_json::to_string(figure)? } else { figure.to_string() });
        Ok(())
    })?;
    if !args.quick {
        let (mass, scrape) = (discovery::mass()?, discovery::scrape(10_000)?);
        missed += usize::from(!mass.met) + usize::from(!scrape.met);
        println!("{}", if args.json { serde_json::to_string(&mass)? } else { mass.to_string() });
        println!("{}", if args.json { serde_json::to_string(&scrape)? } else { scrape.to_string() });
    }
    anyhow::ensure!(missed == 0, "{missed} figures miss what is to be reached");
    Ok(())
}

fn run_failover(args: &Failover) -> Result<()> {
    let options = failover::Options {
        ways: or_all(&args.ways),
        modes: or_all(&args.modes),
        settings: or_all(&args.settings),
        trials: args.trials,
        lanes: args.lanes.clamp(1, 32),
        backends: args.backends.clamp(2, 200),
        rate: args.rate,
        budget: Duration::from_secs(args.budget),
        explain: args.explain,
    };
    if !args.json {
        println!("{}", failover::Figure::HEAD);
    }
    let mut missed = 0;
    failover::measure(&options, |figure| {
        missed += usize::from(!figure.met);
        println!("{}", if args.json { serde_json::to_string(figure)? } else { figure.to_string() });
        Ok(())
    })?;
    let seconds = if args.full { 600 } else { args.calm };
    if let Some(&mode) = options.modes.iter().find(|m| **m != Mode::Haproxy).filter(|_| seconds > 0) {
        for &settings in &options.settings {
            let calm = failover::calm(mode, settings, Duration::from_secs(seconds))?;
            missed += usize::from(!calm.calm);
            println!("{}", if args.json { serde_json::to_string(&calm)? } else { calm.to_string() });
        }
    }
    anyhow::ensure!(missed == 0, "{missed} figures miss what is to be reached");
    Ok(())
}

#[derive(clap::Args)]
struct Probes {
    /// Print one JSON object a case.
    #[arg(long)]
    json: bool,
    /// What is asked [default: both].
    #[arg(long = "kind", value_delimiter = ',')]
    kinds: Vec<Kind>,
    #[arg(long, default_value_t = 10_000)]
    backends: u32,
    /// Milliseconds from one check of a backend to the next.
    #[arg(long, default_value_t = 1000)]
    interval: u64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn run_probes(args: &Probes) -> Result<()> {
    if !args.json {
        println!("{}", Cost::HEAD);
    }
    let mut missed = 0;
    for kind in or_all(&args.kinds) {
        let cost =
            probes::cost(kind, args.backends.clamp(1, 60_000), Duration::from_millis(args.interval), Duration::from_secs(args.seconds))?;
        missed += usize::from(!cost.met);
        println!("{}", if args.json { serde_json::to_string(&cost)? } else { cost.to_string() });
    }
    anyhow::ensure!(missed == 0, "{missed} figures miss what is to be reached");
    Ok(())
}

#[derive(clap::Args)]
struct Scale {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Of all services together.
    #[arg(long, default_value_t = 100_000)]
    backends: usize,
    /// Backends that are drained, one after the other.
    #[arg(long, default_value_t = 200)]
    changes: usize,
}

fn run_scale(args: &Scale) -> Result<()> {
    let scale = scale::measure(args.services, args.backends, args.changes.max(1))?;
    println!("{}", if args.json { serde_json::to_string(&scale)? } else { scale.to_string() });
    anyhow::ensure!(scale.met, "a figure misses what is to be reached");
    Ok(())
}

#[derive(clap::Args)]
struct Weights {
    /// Print one JSON object a policy.
    #[arg(long)]
    json: bool,
    /// Who chooses the backend [default: each in turn].
    #[arg(long = "policy", value_delimiter = ',')]
    policies: Vec<Policy>,
    /// Part of what all backends together can do.
    #[arg(long, default_value_t = 0.7)]
    load: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds that the controller has before.
    #[arg(long, default_value_t = 30)]
    settle: u64,
    /// Tell on standard error what the controller makes of each backend.
    #[arg(long)]
    trace: bool,
}

fn run_weights(args: &Weights) -> Result<()> {
    let options = weighted::Options {
        load: args.load.clamp(0.05, 0.95),
        warm: Duration::from_secs(5),
        measured: Duration::from_secs(args.seconds.max(1)),
        settle: Duration::from_secs(args.settle),
        trace: args.trace,
    };
    if !args.json {
        println!("{}", weighted::Figure::HEAD);
    }
    weighted::measure(&or_all(&args.policies), &options, |figure| {
        println!("{}", if args.json { serde_json::to_string(figure)? } else { figure.to_string() });
        Ok(())
    })
}

#[derive(clap::Args)]
struct Churn {
    /// Print one JSON object a world and step.
    #[arg(long)]
    json: bool,
    /// Modes [default: all].
    #[arg(long = "mode", value_delimiter = ',')]
    modes: Vec<churn::Way>,
    /// Families [default: both].
    #[arg(long = "family", value_delimiter = ',')]
    families: Vec<churn::Family>,
    /// Which steps [default: all].
    #[arg(long = "part", value_delimiter = ',')]
    parts: Vec<churn::Part>,
    /// Seconds that a connection may be silent for.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(4..=1800))]
    idle: u64,
    /// Connections of each patience that are opened at once.
    #[arg(long, default_value_t = 4)]
    each: usize,
    /// Forged SYNs a second in the flood.
    #[arg(long, default_value_t = 20_000)]
    flood: u32,
    /// Worlds side by side.
    #[arg(long, default_value_t = 5)]
    lanes: usize,
}

fn run_churn(args: &Churn) -> Result<()> {
    let idle = Duration::from_secs(args.idle);
    let options = churn::Options { idle, each: args.each.max(1), flood: args.flood, lanes: args.lanes };
    if !args.json {
        println!("{}", churn::Figure::HEAD);
    }
    let mut broken = 0;
    let cells = churn::cells(&or_all(&args.modes), &or_all(&args.families), &or_all(&args.parts));
    churn::measure(&cells, &options, |figure| {
        broken += figure.broken;
        println!("{}", if args.json { serde_json::to_string(figure)? } else { figure.to_string() });
        Ok(())
    })?;
    anyhow::ensure!(broken == 0, "{broken} connections were broken");
    Ok(())
}

fn or_all<T: clap::ValueEnum + Copy>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() { T::value_variants().to_vec() } else { chosen.to_vec() }
}
