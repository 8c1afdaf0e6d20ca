//! `mesh-bench e2e`: its options and its output.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::bench::e2e;

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object a balancer.
    #[arg(long)]
    json: bool,
    /// Balancers [default: all]; without one is always measured.
    #[arg(long = "arm", value_delimiter = ',')]
    arms: Vec<e2e::Arm>,
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Milliseconds of each balancer, kind and round.
    #[arg(long, default_value_t = 1000)]
    slice: u64,
    /// Connections at once.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let report = e2e::measure(&e2e::Options {
        arms: super::or_all(&args.arms),
        rounds: args.rounds.max(1),
        slice: Duration::from_millis(args.slice.max(50)),
        at_once: args.at_once.clamp(1, 4000),
    })?;
    if !args.json {
        println!("{}", e2e::Figure::HEAD);
    }
    for figure in &report.figures {
        println!("{}", if args.json { serde_json::to_string(figure)? } else { figure.to_string() });
    }
    if args.json {
        println!("{}", serde_json::json!({ "busy_beside": report.busy_beside }));
    } else {
        println!("busy while nobody asked: {:.0} % of the machine, which counts as if it were the balancers'", report.busy_beside * 100.0);
    }
    Ok(())
}
