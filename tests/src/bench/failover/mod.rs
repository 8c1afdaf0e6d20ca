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

use std::time::{Duration, Instant};

use anyhow::Result;

use super::stall::StallClock;
use crate::netns::remove_stale;

/// Begin of the names of all namespaces.
const GROUP: &str = "mesh-bench";

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    pub ways: Vec<Way>,
    pub modes: Vec<Mode>,
    pub settings: Vec<Settings>,
    /// Trials of each hard way; the others have a fifth of that, of which few take long.
    pub trials: usize,
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
            let mut world = World::build(GROUP, mode, settings, options.backends, options.rate)?;
            for &way in &options.ways {
                show(&measure_way(&mut world, way, mode, settings, options)?)?;
            }
        }
    }
    Ok(())
}

fn measure_way(world: &mut World, way: Way, mode: Mode, settings: Settings, options: &Options) -> Result<Figure> {
    let trials = if way.hard() { options.trials } else { options.trials.div_ceil(5) };
    let limit = if way == Way::Slow { Duration::from_secs(5) } else { Duration::from_secs(20) };
    let (clock, end) = (StallClock::start(), Instant::now() + options.budget);
    world.tally();
    world.said()?;
    let (mut outcomes, mut dead, mut slowest, mut story) = (Vec::new(), 0, 0.0, Vec::new());
    while outcomes.len() < trials && Instant::now() < end {
        let outcome = world.trial(way, limit)?;
        let said = world.said()?;
        dead += said.dead;
        let took = if let Trial::Found(w) = outcome { w.all_ms } else { f64::INFINITY };
        if options.explain && took > slowest {
            (slowest, story) = (took, said.story);
        }
        outcomes.push(outcome);
    }
    if options.explain {
        eprintln!("{way} {} {}: the slowest trial, {slowest:.0} ms\n{}", mode.name(), settings.name(), story.join("\n"));
    }
    // The last requests have to end.
    std::thread::sleep(load::PATIENCE);
    Ok(Figure::new(way, mode, settings, &outcomes, dead, world.tally(), clock.finish()))
}

/// Takes down what an earlier run that was killed has left.
fn clean() -> Result<()> {
    for name in remove_stale(GROUP)? {
        // The links ended with their interfaces; the pins are files.
        let _ = std::fs::remove_dir_all(std::path::Path::new("/sys/fs/bpf/mesh").join(name));
    }
    Ok(())
}
