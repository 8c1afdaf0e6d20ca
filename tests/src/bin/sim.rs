//! What can be known without a kernel: `cargo xtask sim`.

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_tests::sim::{
    fleet,
    noise::{self, BEAT},
    rules::{self, Outcome},
};

#[derive(Parser)]
#[command(about = "Simulates what decides")]
struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// False alarms and times to detect, by rule.
    Detect(Detect),
}

#[derive(clap::Args)]
struct Detect {
    /// Heartbeats are sent over loopback for so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Signs of life that the fleet's clock is tried with.
    #[arg(long, default_value_t = 3_000_000)]
    events: u64,
}

fn main() -> Result<()> {
    let Subject::Detect(args) = Args::parse().subject;
    let beats = noise::beats(Duration::from_secs(args.seconds.max(1)))?;
    heartbeats(&beats);
    fleet_clock(args.events);
    Ok(())
}

fn heartbeats(beats: &[noise::Beat]) {
    let gaps = rules::gaps(beats);
    let beat = BEAT.as_secs_f64();
    let mut sorted = gaps.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted.get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1))).map_or(0.0, |g| g * 1e3);
    let [p99, p999, p9999, most] = [at(0.99), at(0.999), at(0.9999), at(1.0)];
    println!("{} heartbeats of this machine: gap p99 {p99:.1}, p99.9 {p999:.1}, p99.99 {p9999:.1}, longest {most:.1} ms", beats.len());
    println!("\n{:<24} {:>14} {:>14} {:>10}", "rule", "detection ms", "false alarms", "beats");
    for times in [3, 10, 20, 50] {
        row(&rules::elapsed(&gaps, times, beat));
    }
    for phi in [8.0, 12.0] {
        row(&rules::logistic(&gaps, phi));
    }
    for (count, every) in [(3, 2), (5, 5), (10, 5)] {
        row(&rules::unanswered(beats, count, every, beat));
    }
}

fn row(o: &Outcome) {
    println!("{:<24} {:>14.1} {:>14} {:>10}", o.rule, o.detection_ms, o.false_alarms, o.beats);
}

fn fleet_clock(events: u64) {
    println!("\n{:<24} {:>14} {:>14}", "fleet clock, 10 backends", "false alarms", "expected");
    for o in fleet::false_alarms(10, events, &[2.0, 3.0, 6.0, 9.0], 1) {
        println!("{:<24} {:>14} {:>14.1}", format!("phi {}", o.phi), o.false_alarms, o.expected);
    }
    println!("\n{:<24} {:>10} {:>10} {:>10}", "evidence per backend", "phi 3", "phi 6", "phi 9");
    for rate in [100.0, 1000.0, 10_000.0] {
        let [three, six, nine] = [3.0, 6.0, 9.0].map(|phi| fleet::detection_ms(10, rate, phi));
        println!("{:<24} {three:>7.1} ms {six:>7.1} ms {nine:>7.1} ms", format!("{rate} /s"));
    }
}
