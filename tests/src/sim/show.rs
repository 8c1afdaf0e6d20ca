//! The simulations of tables and weights as tables and pictures.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    breaking,
    churn::{self, Walk},
    draw::{self, Panel, Series},
    policy::{self, POLICIES, Policy},
    weights::{self, Case, Fleet, Outcome},
};

/// Weights from 1 to 100, in an order that looks like chance.
fn hundred() -> Vec<u16> {
    (0..100).map(|i| (i * 37 % 100) as u16 + 1).collect()
}

/// Slots moved by each builder for one change; drawn into `picture`.
pub fn tables(picture: Option<&Path>) -> Result<()> {
    let equal = one_change("equal weights", &[1]);
    let weighed = one_change("weights 1, 2 and 4", &[1, 2, 4]);
    let uneven = one_change("weights 1 to 100", &hundred());
    let panel = |title: &str, series| Panel { title: title.into(), x: "backends".into(), y: "moved / optimum".into(), series };
    let title = "one backend removed, 65,536 slots";
    write(picture, &[panel(title, equal), panel("the same, weights 1, 2 and 4", weighed), panel("the same, weights 1 to 100", uneven)])
}

fn one_change(which: &str, weights: &[u16]) -> Vec<Series> {
    println!("\none change among {which}: slots moved, as a multiple of those that must, and those beyond as a part of the table");
    println!(
        "{:<16} {:>14} {:>6} {:>6} {:>7} {:>18} {:>18} {:>18} {:>9}",
        "builder", "slots x n", "max", "min", "rms", "remove", "add", "double", "build ms"
    );
    let mut builders: Vec<Series> = Vec::new();
    for (log2, n) in [(12, 10), (12, 100), (12, 1000), (16, 10), (16, 100), (16, 1000), (18, 1000), (20, 1000)] {
        for row in churn::changes(log2, n, weights, if n < 1000 { 4 } else { 2 }) {
            let moved = |m: &churn::Moved| format!("{:.2}x {:.2} %", m.ratio, m.excess * 100.0);
            println!(
                "{:<16} {:>14} {:>6.3} {:>6.3} {:>7.4} {:>18} {:>18} {:>18} {:>9.2}",
                row.builder,
                format!("{} x {n}", 1u32 << log2),
                row.most,
                row.least,
                row.rms,
                moved(&row.remove),
                moved(&row.add),
                moved(&row.double),
                row.build_ms
            );
            if log2 == 16 {
                add(&mut builders, &row.builder, (n as f64, row.remove.ratio));
            }
        }
    }
    builders
}

/// Slots that failures and weights that jitter move, by the overlay; drawn into `picture`.
pub fn churn(picture: Option<&Path>) -> Result<()> {
    println!("failures over the overlay; without slack: backends have no more than their quota");
    println!(
        "{:>14} {:>8} {:>8} {:>12} {:>9} {:>8} {:>15} {:>9} {:>9} {:>11}",
        "slots x n", "first", "restore", "n/20 at once", "one more", "max then", "without slack:", "one more", "base ms", "overlay ms"
    );
    let mut failures: Vec<Series> = Vec::new();
    for (log2, n) in [(12, 10), (12, 100), (16, 100), (16, 1000)] {
        let f = churn::failures(log2, n).context("the sizes are legal")?;
        let size = format!("{} x {n}", 1u32 << log2);
        println!(
            "{size:>14} {:>7.3}x {:>7.3}x {:>11.3}x {:>8.3}x {:>8.3} {:>14.2}x {:>8.2}x {:>9.2} {:>11.2}",
            f.first, f.restore, f.many, f.one_more, f.most, f.first_tight, f.one_more_tight, f.base_ms, f.overlay_ms
        );
        for (name, value) in [("first failure", f.first), ("a twentieth at once", f.many), ("one more", f.one_more)] {
            add(&mut failures, name, (n as f64, value));
        }
    }
    let walk = jitters()?;
    let panel = |title: &str, x: &str, series| Panel { title: title.into(), x: x.into(), y: "moved / optimum".into(), series };
    write(picture, &[panel("failures", "backends", failures), panel("weights walk 2 % a step, 65,536 x 1000", "steps", walk)])
}

/// The longer the walk, the more weights lie beyond the slack, where each further step moves slots: a figure without its length says nothing.
fn jitters() -> Result<Vec<Series>> {
    println!("\nweights walk: slots moved each step, as a multiple of those that a table which remembers itself must move");
    println!(
        "{:>14} {:>14} {:>6} {:>9} {:>8} {:>8} {:>8} {:>8} {:>15} {:>8} {:>8}",
        "slots x n", "spread", "steps", "optimum", "slack 0", "1 %", "2 %", "5 %", "2 % and steps", "anew", "maglev"
    );
    let mut series = Vec::new();
    let walks =
        [(12, 10, 0.02, 1.0), (16, 100, 0.02, 1.0), (16, 100, 0.1, 1.0), (16, 100, 0.1, 0.1), (16, 1000, 0.02, 1.0), (16, 1000, 0.1, 0.1)];
    for (log2, n, spread, part) in walks {
        for steps in [5, 10, 20, 40] {
            let j = jittered(log2, n, &Walk { spread, part, steps }).context("the sizes are legal")?;
            let whose = if part < 1.0 { format!("{}% on {}%", spread * 100.0, part * 100.0) } else { format!("{}%", spread * 100.0) };
            let [none, one, two, five] = j.slack;
            println!(
                "{:>14} {whose:>14} {steps:>6} {:>9.0} {none:>7.2}x {one:>7.2}x {two:>7.2}x {five:>7.2}x {:>14.2}x {:>7.2}x {:>7.2}x",
                format!("{} x {n}", 1u32 << log2),
                j.least,
                j.steady,
                j.anew,
                j.maglev
            );
            if n == 1000 && part >= 1.0 {
                let lines =
                    [("no slack", none), ("slack", two), ("slack and steps of 4 %", j.steady), ("anew", j.anew), ("maglev", j.maglev)];
                lines.into_iter().for_each(|(name, value)| add(&mut series, name, (steps as f64, value)));
            }
        }
    }
    Ok(series)
}

/// Means of several seeds: more where few backends make each one's walk count for much.
fn jittered(log2: u8, n: usize, walk: &Walk) -> Option<churn::Jitter> {
    let seeds = if n < 100 { 20 } else { 2 };
    let all: Vec<_> = (1..=seeds).map(|seed| churn::jitter(log2, n, walk, seed)).collect::<Option<_>>()?;
    let mean = |of: &dyn Fn(&churn::Jitter) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    Some(churn::Jitter {
        log2_slots: log2,
        members: n,
        steps: walk.steps,
        least: mean(&|j| j.least),
        slack: std::array::from_fn(|i| mean(&|j| j.slack[i])),
        steady: mean(&|j| j.steady),
        anew: mean(&|j| j.anew),
        maglev: mean(&|j| j.maglev),
    })
}

/// Latency under each policy with so many seeds, in the cases whose title has `only` in it; drawn into `picture`.
pub fn weights(seconds: f64, seeds: u64, only: &str, picture: Option<&Path>) -> Result<()> {
    let case = Case { fleet: Fleet::Forty, cores: 8.0, rho: 0.8, heavy: false, slow_down: None, seconds, seed: 1 };
    let cases = [
        ("one core, load 0.7", Case { cores: 1.0, rho: 0.7, ..case }),
        ("8 cores, load 0.8", case),
        ("8 cores, load 0.8, one request in 20 ten times as large", Case { heavy: true, ..case }),
        ("8 cores, load 0.85", Case { rho: 0.85, ..case }),
        ("8 cores, load 0.9", Case { rho: 0.9, ..case }),
        ("one core, load 0.6", Case { fleet: Fleet::Alike, cores: 1.0, rho: 0.6, ..case }),
        ("8 cores, load 0.7, the fastest loses 3/4 half-way", Case { rho: 0.7, slow_down: Some(seconds / 2.0), ..case }),
        ("4 cores, load 0.7", Case { fleet: Fleet::Four, cores: 4.0, rho: 0.7, ..case }),
        ("4 cores, load 0.8", Case { fleet: Fleet::Four, cores: 4.0, ..case }),
    ];
    let mut panels = Vec::new();
    for (title, case) in cases.into_iter().filter(|(title, _)| title.contains(only)) {
        println!("\n{}, {title}: second half of {seconds} s; medians of {seeds} seeds", case.fleet);
        println!("{:<24} {:>9} {:>9} {:>24} {:>9} {:>9}", "policy", "p50 ms", "p99 ms", "of oracle's (from, to)", "slots/s", "by entry");
        let with = |policy| -> Vec<Outcome> { (1..=seeds).map(|seed| weights::run(&Case { seed, ..case }, policy)).collect() };
        let oracle = with(Policy::Oracle);
        let mut series = Vec::new();
        for policy in POLICIES {
            let outcomes = if policy == Policy::Oracle { oracle.clone() } else { with(policy) };
            one_policy(&case, policy, &outcomes, &oracle);
            let Some(first) = outcomes.into_iter().next() else { continue };
            let points = first.windows.iter().enumerate().map(|(i, w)| ((i as f64 + 1.0) * 10.0, *w)).collect();
            series.push(Series { name: first.policy, points, labels: Vec::new(), line: true });
        }
        panels.push(Panel { title: title.into(), x: "seconds".into(), y: "p99 of 10 s, ms".into(), series });
    }
    write(picture, &panels)
}

/// One row, and of what changes in time a second one.
fn one_policy(case: &Case, policy: Policy, outcomes: &[Outcome], oracle: &[Outcome]) {
    let [least, ratio, most] = spread(outcomes.iter().zip(oracle).map(|(o, oracle)| o.p99 / oracle.p99));
    let [[_, p50, _], [_, p99, _], [_, churn, _]] =
        [|o: &Outcome| o.p50, |o: &Outcome| o.p99, |o: &Outcome| o.churn * 100.0].map(|of| spread(outcomes.iter().map(of)));
    let ratios = format!("{ratio:.2}x ({least:.2}, {most:.2})");
    let [_, exceptions, _] = spread(outcomes.iter().map(|o| o.exceptions * 100.0));
    println!("{:<24} {p50:>9.1} {p99:>9.1} {ratios:>24} {churn:>8.2}% {exceptions:>8.1}%", policy::name(policy));
    let Some(at) = case.slow_down else { return };
    if let Some(first) = outcomes.first() {
        let tail: Vec<_> = first.windows.iter().skip(first.windows.len() / 2).map(|w| format!("{w:.0}")).collect();
        println!("{:<22} p99 of each 10 s since: {}", "", tail.join(" "));
    }
    if policy != Policy::Equal {
        let [soon, usual, late] = spread(outcomes.iter().map(|o| o.recovered.unwrap_or(f64::INFINITY)));
        println!(
            "{:<22} as before after {usual:.0} s ({soon:.0}, {late:.0}): p99 of 5 s no more than half above that of the {:.0} s before",
            "",
            at / 2.0
        );
    }
}

/// The least, the median, the most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
    [at(0), at(values.len() / 2), at(values.len().saturating_sub(1))]
}

/// Entries of a ledger that has hardly any room.
const SCARCE: usize = 2048;

/// Connections that break, by who keeps them; drawn into `picture`.
pub fn breaking(case: breaking::Case, picture: Option<&Path>) -> Result<()> {
    let mut series: Vec<Series> = Vec::new();
    // As it is, under a flood, and with hardly any room under a flood.
    for (at, flood, room) in [(1.0, 0.0, case.room), (2.0, case.flood, case.room), (3.0, case.flood, case.room.min(SCARCE))] {
        let outcomes = breaking::all(&breaking::Case { flood, room, ..case });
        println!("\n{} s, {} new flows a second, {flood} SYNs a second in a flood, room for {room} entries", case.seconds, case.rate);
        println!("{:<32} {:>10} {:>8} {:>18} {:>12}", "kept by", "flows", "broken", "with their backend", "entries");
        for o in outcomes {
            println!("{:<32} {:>10} {:>8} {:>18} {:>12}", o.keeper, o.flows, o.broken, o.lost, o.entries);
            add(&mut series, &o.keeper, (at, o.broken as f64));
        }
    }
    let panel =
        Panel { title: "broken flows".into(), x: "1: no flood, 2: flood, 3: flood and hardly any room".into(), y: "flows".into(), series };
    write(picture, &[panel])
}

fn add(series: &mut Vec<Series>, name: &str, point: (f64, f64)) {
    match series.iter_mut().find(|s| s.name == name) {
        Some(known) => known.points.push(point),
        None => series.push(Series { name: name.to_owned(), points: vec![point], labels: Vec::new(), line: true }),
    }
}

fn write(picture: Option<&Path>, panels: &[Panel]) -> Result<()> {
    let Some(path) = picture else { return Ok(()) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    std::fs::write(path, draw::svg(panels)).with_context(|| format!("failed to write {}", path.display()))?;
    println!("\ndrawn in {}", path.display());
    Ok(())
}
