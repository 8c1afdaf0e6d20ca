//! What can be known without a kernel: `cargo xtask sim`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use mesh_tests::sim::{
    breaking::Case,
    draw::{self, Panel, Series},
    fleet,
    noise::{self, Beat},
    rules::{self, Outcome},
    show,
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
    /// Slots that one change moves, by builder.
    Tables(Drawn),
    /// Slots that failures and jitter move.
    Churn(Drawn),
    /// Connections that changes of the table break, by who keeps them.
    Breaking(Breaking),
    /// Latency under equal, ideal and controlled weights.
    Weights(Weights),
}

#[derive(clap::Args)]
struct Drawn {
    /// Draw the tables into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Breaking {
    /// Simulated seconds.
    #[arg(long, default_value_t = 1200)]
    seconds: u32,
    /// New flows a second.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// SYNs a second of the flood.
    #[arg(long, default_value_t = 20_000.0)]
    flood: f64,
    /// Entries that each node's ledger has room for.
    #[arg(long, default_value_t = 65_536)]
    room: usize,
    #[command(flatten)]
    drawn: Drawn,
}

#[derive(clap::Args)]
struct Weights {
    /// Simulated seconds of each case; the second half is told.
    #[arg(long, default_value_t = 200)]
    seconds: u32,
    /// Each case is simulated so often, with other numbers at random.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Only cases whose title contains this.
    #[arg(long = "case", default_value = "")]
    only: String,
    #[command(flatten)]
    drawn: Drawn,
}

#[derive(clap::Args)]
struct Detect {
    /// Heartbeats are sent over loopback for so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Signs of life that the fleet's clock is tried with.
    #[arg(long, default_value_t = 3_000_000)]
    events: u64,
    /// Draw the tables into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

const PHIS: [f64; 5] = [1.0, 2.0, 3.0, 6.0, 9.0];
/// Signs of life a second of each backend.
const RATES: [f64; 3] = [100.0, 1000.0, 10_000.0];

fn main() -> Result<()> {
    match Args::parse().subject {
        Subject::Detect(args) => detect(&args),
        Subject::Tables(args) => show::tables(args.svg.as_deref()),
        Subject::Churn(args) => show::churn(args.svg.as_deref()),
        Subject::Breaking(Breaking { seconds, rate, flood, room, drawn }) => {
            show::breaking(Case { seconds: seconds.max(60), rate, flood, room, seed: 1 }, drawn.svg.as_deref())
        }
        Subject::Weights(args) => show::weights(f64::from(args.seconds.max(40)), args.seeds.max(1), &args.only, args.drawn.svg.as_deref()),
    }
}

fn detect(args: &Detect) -> Result<()> {
    let length = Duration::from_secs(args.seconds.max(1));
    let beats = noise::beats(length, false)?;
    let (ordinary, real_time) = (rules::table(&beats), real_time(length));
    heartbeats(&beats, &ordinary, real_time.as_deref());
    let silence = fleet::false_alarms(10, args.events, &PHIS, 1);
    fleet_clock(&silence);
    if let Some(path) = &args.svg {
        let panels = [rules_panel(&ordinary, real_time.as_deref()), alarms_panel(&silence), detection_panel()];
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        }
        std::fs::write(path, draw::svg(&panels)).with_context(|| format!("failed to write {}", path.display()))?;
        println!("\ndrawn in {}", path.display());
    }
    Ok(())
}

/// The same rules where those who send and hear go before all else; only root may try.
fn real_time(length: Duration) -> Option<Vec<Outcome>> {
    noise::beats(length, true)
        .map(|beats| rules::table(&beats))
        .inspect_err(|error| println!("without the columns of real-time scheduling: {error:#}"))
        .ok()
}

fn heartbeats(beats: &[Beat], ordinary: &[Outcome], real_time: Option<&[Outcome]>) {
    let mut gaps = rules::gaps(beats);
    gaps.sort_by(f64::total_cmp);
    let at = |part: f64| gaps.get(((gaps.len() as f64 * part) as usize).min(gaps.len().saturating_sub(1))).map_or(0.0, |g| g * 1e3);
    let [p99, p999, p9999, most] = [at(0.99), at(0.999), at(0.9999), at(1.0)];
    println!("{} heartbeats of this machine: gap p99 {p99:.1}, p99.9 {p999:.1}, p99.99 {p9999:.1}, longest {most:.1} ms", beats.len());
    println!(
        "\n{:<20} {:>12} {:>12} {:>8} {:>14} {:>14}",
        "rule", "detection ms", "false alarms", "beats", "real time: ms", "false alarms"
    );
    for (i, o) in ordinary.iter().enumerate() {
        let [ms, alarms] = match real_time.and_then(|rows| rows.get(i)) {
            Some(o) => [format!("{:.1}", o.detection_ms), o.false_alarms.to_string()],
            None => ["-".to_owned(), "-".to_owned()],
        };
        println!("{:<20} {:>12.1} {:>12} {:>8} {ms:>14} {alarms:>14}", o.rule, o.detection_ms, o.false_alarms, o.beats);
    }
}

fn fleet_clock(silence: &[fleet::Outcome]) {
    println!("\n{:<24} {:>14} {:>14}", "fleet clock, 10 backends", "false alarms", "expected");
    for o in silence {
        println!("{:<24} {:>14} {:>14.1}", format!("phi {}", o.phi), o.false_alarms, o.expected);
    }
    println!("\n{:<24} {:>10} {:>10} {:>10}", "evidence per backend", "phi 3", "phi 6", "phi 9");
    for rate in RATES {
        let [three, six, nine] = [3.0, 6.0, 9.0].map(|phi| fleet::detection_ms(10, rate, phi));
        println!("{:<24} {three:>7.1} ms {six:>7.1} ms {nine:>7.1} ms", format!("{rate} /s"));
    }
}

fn rules_panel(ordinary: &[Outcome], real_time: Option<&[Outcome]>) -> Panel {
    let series = |name: &str, rows: &[Outcome]| Series {
        name: name.to_owned(),
        points: rows.iter().map(|o| (o.detection_ms, o.false_alarms as f64 / o.beats.max(1) as f64)).collect(),
        labels: rows.iter().map(|o| o.rule.clone()).collect(),
        line: false,
    };
    let series = [Some(series("as scheduled", ordinary)), real_time.map(|rows| series("real time", rows))].into_iter().flatten().collect();
    Panel { title: "Rules on heartbeats of 1 ms".into(), x: "time to detect, ms".into(), y: "false alarms a beat".into(), series }
}

fn alarms_panel(silence: &[fleet::Outcome]) -> Panel {
    let line = |name: &str, line: bool, y: &dyn Fn(&fleet::Outcome) -> f64| Series {
        name: name.to_owned(),
        points: silence.iter().map(|o| (o.phi, y(o))).collect(),
        labels: Vec::new(),
        line,
    };
    let series = vec![line("measured", false, &|o| o.false_alarms as f64), line("by the meaning of phi", true, &|o| o.expected)];
    Panel { title: "Fleet-clock silence: false alarms".into(), x: "phi".into(), y: "false alarms".into(), series }
}

fn detection_panel() -> Panel {
    let line = |phi: f64| Series {
        name: format!("phi {phi}"),
        points: RATES.map(|rate| (rate, fleet::detection_ms(10, rate, phi))).into(),
        labels: Vec::new(),
        line: true,
    };
    let series = [9.0, 6.0, 3.0].map(line).into();
    Panel { title: "Fleet-clock silence: time to detect".into(), x: "signs of life a second of a backend".into(), y: "ms".into(), series }
}
