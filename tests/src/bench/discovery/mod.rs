//! How long it takes from a registration to the first packet: `cargo xtask bench discovery`.
//!
//! The real daemon and a client that sends new flows all the time, in network namespaces. A backend is registered where there was none; what counts
//! is when it receives its first packet. Beside that: a thousand changes in a second, and what ten thousand backends cost a scrape.

mod mass;
mod places;
mod scrape;
mod world;

pub use mass::{Mass, mass};
pub use places::Place;
pub use scrape::{Scrape, scrape};

use std::{cell::OnceCell, fmt};

use anyhow::Result;
use serde::Serialize;

use self::world::World;
use super::{quantile, stall::StallClock, tenth};
use crate::netns::remove_stale;

/// Begin of the names of all namespaces.
const GROUP: &str = "mesh-disc";

/// One line of the result. Times are milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub source: &'static str,
    /// From the begin of the registration to the first packet.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub trials: usize,
    /// p99 from when the place of registration has taken it.
    pub taken_p99_ms: f64,
    /// What the source itself takes at most beyond that: until it asks again, or until a file is at rest. 0 = it is told.
    pub own_ms: u64,
    /// p99.9 of how late a timer of 1 ms was in the same run.
    pub stall_p999_ms: f64,
    /// Within 100 ms beyond the source's own, or three times that where it is more.
    pub met: bool,
}

/// What a watch may take beyond the source's own delay.
const TARGET_MS: f64 = 100.0;

/// Measures each source in turn, and shows each figure as soon as it is there.
pub fn measure(places: &[Place], trials: usize, mut show: impl FnMut(&Figure) -> Result<()>) -> Result<()> {
    clean()?;
    let ground = OnceCell::new();
    let mut world = World::build(GROUP, places, &ground)?;
    for (index, place) in places.iter().enumerate() {
        let (mut begun, mut taken, clock) = (Vec::new(), Vec::new(), StallClock::start());
        for trial in 0..=trials {
            let times = world.trial(index)?;
            // The first one of all finds nothing warm.
            if trial > 0 {
                begun.push(times.begun_ms);
                taken.push(times.taken_ms);
            }
        }
        let taken_p99_ms = tenth(quantile(&mut taken, 0.99));
        let (own_ms, stall) = (place.own_ms(), clock.finish());
        show(&Figure {
            source: place.name(),
            p50_ms: tenth(quantile(&mut begun, 0.5)),
            p99_ms: tenth(quantile(&mut begun, 0.99)),
            trials,
            taken_p99_ms,
            own_ms,
            stall_p999_ms: tenth(stall),
            met: taken_p99_ms - (own_ms as f64) < TARGET_MS.max(3.0 * stall),
        })?;
    }
    Ok(())
}

/// Takes down what an earlier run that was killed has left.
fn clean() -> Result<()> {
    for name in remove_stale(GROUP)? {
        // The links ended with their interfaces; the pins are files.
        let _ = std::fs::remove_dir_all(std::path::Path::new("/sys/fs/bpf/mesh").join(name));
    }
    Ok(())
}

impl Figure {
    pub const HEAD: &str = "from registration to first packet      p50 ms   p99 ms  taken p99   own ms    stall  trials";
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.met { "" } else { "  MISSED" };
        let Self { source, p50_ms, p99_ms, taken_p99_ms, own_ms, stall_p999_ms, trials, .. } = self;
        write!(f, "{source:<35} {p50_ms:>9} {p99_ms:>8} {taken_p99_ms:>10} {own_ms:>8} {stall_p999_ms:>8} {trials:>7}{met}")
    }
}
