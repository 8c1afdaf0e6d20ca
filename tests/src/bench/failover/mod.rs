//! How long a backend that has failed is still sent clients' packets: `cargo xtask bench failover`.
//!
//! Real requests through a real balancer in network namespaces, while backends fail in turn. Both ends of a figure are frames on the wire: the first
//! that the backend could not answer, and the last that it was sent.

mod balancer;
mod calm;
mod figure;
mod load;
mod ways;
mod window;
mod wire;
mod world;

pub use balancer::{Mode, Settings};
pub use calm::{Calm, calm};
pub use figure::Figure;
pub use ways::Way;
pub use world::{Trial, World};

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use load::Tally;

use super::stall::StallClock;
use crate::netns::remove_stale;

/// Worlds side by side at most.
const LANES: usize = 32;

/// Begin of the names of all namespaces of a lane.
fn group(lane: usize) -> String {
    if lane == 0 { "mesh-bench".to_owned() } else { format!("mesh-bench{lane}") }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    pub ways: Vec<Way>,
    pub modes: Vec<Mode>,
    pub settings: Vec<Settings>,
    /// Trials of each way.
    pub trials: usize,
    /// Worlds that share the trials of a way, side by side: most of a trial is waiting.
    pub lanes: usize,
    pub backends: u8,
    /// Requests a second.
    pub rate: u32,
    /// For all trials of one way.
    pub budget: Duration,
    /// Tell what the balancer said in the slowest trial of each.
    pub explain: bool,
}

/// Measures all that is asked for, and shows each figure as soon as it is there.
pub fn measure(options: &Options, mut show: impl FnMut(&Figure) -> Result<()>) -> Result<()> {
    clean()?;
    for &mode in &options.modes {
        for (i, &settings) in options.settings.iter().enumerate() {
            // HAProxy has but one way to be set up here.
            if mode == Mode::Haproxy && i > 0 {
                continue;
            }
            let build = |lane| World::build(&group(lane), mode, settings, options.backends, options.rate);
            let mut worlds = (0..options.lanes.clamp(1, LANES)).map(build).collect::<Result<Vec<_>>>()?;
            for &way in &options.ways {
                show(&measure_way(&mut worlds, way, mode, settings, options)?)?;
            }
        }
    }
    Ok(())
}

/// What a lane saw of a way.
#[derive(Debug, Default)]
struct Lane {
    outcomes: Vec<Trial>,
    /// How often a backend was called dead.
    dead: usize,
    /// The slowest trial, milliseconds, and what was said of it.
    slowest: f64,
    story: Vec<String>,
}

fn measure_way(worlds: &mut [World], way: Way, mode: Mode, settings: Settings, options: &Options) -> Result<Figure> {
    let (clock, begun) = (StallClock::start(), &AtomicUsize::new(0));
    for world in &*worlds {
        world.tally();
    }
    let lanes = std::thread::scope(|scope| {
        let lanes: Vec<_> = worlds.iter_mut().map(|world| scope.spawn(move || run_lane(world, way, settings, options, begun))).collect();
        lanes.into_iter().map(|lane| lane.join().ok().context("a lane has panicked")?).collect::<Result<Vec<_>>>()
    })?;
    let slowest = lanes.iter().max_by(|a, b| a.slowest.total_cmp(&b.slowest));
    if let Some(Lane { slowest, story, .. }) = slowest.filter(|_| options.explain) {
        eprintln!("{way} {} {}: the slowest trial, {slowest:.0} ms\n{}", mode.name(), settings.name(), story.join("\n"));
    }
    // The last requests have to end.
    std::thread::sleep(load::PATIENCE);
    let tally = worlds.iter().map(World::tally).fold(Tally::default(), Tally::and);
    let dead = lanes.iter().map(|lane| lane.dead).sum();
    let outcomes: Vec<_> = lanes.into_iter().flat_map(|lane| lane.outcomes).collect();
    Ok(Figure::new(way, mode, settings, &outcomes, dead, tally, clock.finish()))
}

/// Takes trials until there are none left, or no time.
fn run_lane(world: &mut World, way: Way, settings: Settings, options: &Options, begun: &AtomicUsize) -> Result<Lane> {
    let (limit, end) = (way.limit(settings), Instant::now() + options.budget);
    world.said()?;
    let mut lane = Lane::default();
    while Instant::now() < end && begun.fetch_add(1, Ordering::Relaxed) < options.trials {
        let outcome = world.trial(way, limit)?;
        let said = world.said()?;
        lane.dead += said.dead;
        let took = if let Trial::Found(w) = outcome { w.all_ms } else { f64::INFINITY };
        if options.explain && took > lane.slowest {
            (lane.slowest, lane.story) = (took, said.story);
        }
        lane.outcomes.push(outcome);
    }
    Ok(lane)
}

/// Takes down what an earlier run that was killed has left.
fn clean() -> Result<()> {
    for lane in 0..LANES {
        for name in remove_stale(&group(lane))? {
            // The links ended with their interfaces; the pins are files.
            let _ = std::fs::remove_dir_all(std::path::Path::new("/sys/fs/bpf/mesh").join(name));
        }
    }
    Ok(())
}
