//! `mesh-bench packet`: its options and its output.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mesh_tests::bench::{self, Beside, Driver, Figure, Rig};

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object a case.
    #[arg(long)]
    json: bool,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
    /// Rounds of each case.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Another loaded XDP program, pinned here, to be measured beside ours in the same rounds: xdp.frags, with maps that know the cases' services.
    #[arg(long = "beside", value_name = "PIN")]
    beside: Vec<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    bench::pin_to_last_cpu()?;
    let mut driver = Driver::load(bench::DRIVER_OBJECT)?;
    let beside = args.beside.iter().map(|path| bench::pinned(path)).collect::<Result<Vec<_>>>()?;
    let mut rig: Option<Rig> = None;
    if !args.json {
        println!(
            "{:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6}",
            "nanoseconds a packet", "net", "floor", "p75", "least", "XDP_TX", "net/TX", "bad"
        );
    }
    let mut spoiled = 0;
    for case in bench::cases().iter().filter(|c| c.name().contains(&args.case)) {
        let fitting = match rig.take().filter(|r| r.fits(case)) {
            Some(rig) => rig,
            None => Rig::load(case.services, if case.services == 1 { 1 << 20 } else { 1 << 17 })?,
        };
        let rig = rig.insert(fitting);
        let (figure, others) = bench::measure(&mut driver, rig, case, args.rounds, &beside)?;
        show(&figure, args.json)?;
        for (path, other) in args.beside.iter().zip(&others) {
            show_beside(path, &figure.case, other, args.json)?;
        }
        spoiled += u32::from(figure.bad > 0);
    }
    for case in bench::transition::cases().iter().filter(|c| bench::transition::names(c).iter().any(|name| name.contains(&args.case))) {
        let fitting = match rig.take().filter(|r| r.fits(case)) {
            Some(rig) => rig,
            None => Rig::load(case.services, 1 << 20)?,
        };
        for figure in bench::transition::measure(&mut driver, rig.insert(fitting), case, args.rounds)? {
            spoiled += u32::from(figure.bad > 0);
            if args.json {
                println!("{}", serde_json::to_string(&figure)?);
            } else {
                println!(
                    "{:<28} {:>8} {:>+8} over rest, {:>+8} at least {:>6}",
                    figure.case, figure.net_ns, figure.over_rest_ns, figure.least_over_rest_ns, figure.bad
                );
            }
        }
    }
    anyhow::ensure!(spoiled == 0, "{spoiled} cases had packets that went wrong: their figures mean nothing");
    Ok(())
}

fn show_beside(path: &Path, case: &str, other: &Beside, json: bool) -> Result<()> {
    if json {
        println!(
            "{}",
            serde_json::json!({ "case": case, "program": path, "net_ns": other.net_ns, "p75_ns": other.p75_ns, "bad": other.bad })
        );
    } else {
        println!(
            "  {:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6}",
            path.display(),
            other.net_ns,
            "",
            other.p75_ns,
            "",
            "",
            "",
            other.bad
        );
    }
    Ok(())
}

fn show(figure: &Figure, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(figure)?);
    } else {
        let Figure { case, net_ns, floor_net_ns, p75_ns, least_ns, tx_ns, bad, .. } = figure;
        println!("{case:<28} {net_ns:>8} {floor_net_ns:>8} {p75_ns:>8} {least_ns:>8} {tx_ns:>8} {:>8.2} {bad:>6}", net_ns / tx_ns);
    }
    Ok(())
}
