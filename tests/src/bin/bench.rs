//! The benchmarks that need the kernel: `cargo xtask bench`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_tests::bench::{self, Driver, Figure, Rig};

#[derive(Parser)]
#[command(about = "Measures the packet path in the kernel")]
struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// What a packet costs, by kind, flows and services.
    Packet(Packet),
}

#[derive(clap::Args)]
struct Packet {
    /// Print one JSON object a case.
    #[arg(long)]
    json: bool,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
    /// Rounds of each case.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
}

fn main() -> Result<()> {
    let Subject::Packet(args) = Args::parse().subject;
    packet(&args)
}

fn packet(args: &Packet) -> Result<()> {
    bench::pin_to_last_cpu()?;
    let mut driver = Driver::load(bench::DRIVER_OBJECT)?;
    let mut rig: Option<Rig> = None;
    if !args.json {
        println!("{:<28} {:>8} {:>8} {:>8} {:>6}", "nanoseconds a packet", "net", "floor", "p75", "bad");
    }
    let mut spoiled = 0;
    for case in bench::cases().iter().filter(|c| c.name().contains(&args.case)) {
        let fitting = match rig.take().filter(|r| r.fits(case)) {
            Some(rig) => rig,
            None => Rig::load(case.services, if case.services == 1 { 1 << 20 } else { 1 << 17 })?,
        };
        let rig = rig.insert(fitting);
        let figure = bench::measure(&mut driver, rig, case, args.rounds)?;
        show(&figure, args.json)?;
        spoiled += u32::from(figure.bad > 0);
    }
    anyhow::ensure!(spoiled == 0, "{spoiled} cases had packets that went wrong: their figures mean nothing");
    Ok(())
}

fn show(figure: &Figure, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(figure)?);
    } else {
        println!("{:<28} {:>8} {:>8} {:>8} {:>6}", figure.case, figure.net_ns, figure.floor_net_ns, figure.p75_ns, figure.bad);
    }
    Ok(())
}
