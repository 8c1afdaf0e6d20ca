//! Connections that are held while everything changes around them: `cargo xtask bench churn`.

mod crowd;
mod flood;
mod pair;
mod steps;
mod world;

use std::{fmt, time::Duration};

use anyhow::Result;
use serde::Serialize;

pub use self::{
    flood::Flood,
    world::{BALANCERS, Churn, Way, unbroken},
};
use crate::netns::remove_stale;

const GROUP: &str = "mesh-churn";

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest silence of a connection that is promised to survive; some of them use nearly all of it.
    pub idle: Duration,
    /// Connections that are opened at once, at three moments of each step.
    pub each: usize,
    /// SYNs a second from forged sources, in the step that has a flood.
    pub flood: u32,
    /// Only the steps with so many balancers.
    pub balancers: Option<u8>,
}

/// One step in one mode.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub mode: Way,
    pub step: &'static str,
    /// Held ones that were alive when it began, and all that were opened in it.
    pub connections: u64,
    pub broken: u64,
    /// Broken ones whose backend was killed. Not among `broken`.
    pub killed: u64,
    /// The most flows that the ledger remembered.
    pub entries: u64,
    /// The most slots that were on their way.
    pub moving: u64,
    /// What the first few broken ones met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
}

/// Goes through all steps in each mode, and shows each as soon as it is done.
pub fn measure(ways: &[Way], options: &Options, mut show: impl FnMut(&Figure) -> Result<()>) -> Result<()> {
    for way in ways {
        remove_stale(GROUP)?;
        let with = |balancers| options.balancers.is_none_or(|only| only == balancers);
        if with(1) {
            steps::run(Churn::new(GROUP, *way, options.idle)?, *way, options, &mut show)?;
        }
        // Flows that are translated live on one node.
        if with(2) && *way != Way::Nat {
            pair::run(&mut steps::Play::new(Churn::pair(GROUP, *way, options.idle)?, *way, options, &mut show)?)?;
        }
    }
    Ok(())
}

impl Figure {
    pub const HEAD: &str = "mode    step              connections  broken  killed  entries  moving";
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, connections, broken, killed, entries, moving, .. } = self;
        write!(f, "{:<7} {step:<17} {connections:>11} {broken:>7} {killed:>7} {entries:>8} {moving:>7}", self.mode.name())?;
        self.because.iter().try_for_each(|why| write!(f, "\n  {why}"))
    }
}
