//! Connections that are held while everything changes around them: `cargo xtask bench churn`.

mod chance;
mod crowd;
mod flood;
mod pair;
mod setting;
mod steps;
mod world;

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use self::steps::Play;
pub use self::{
    flood::Flood,
    world::{BALANCERS, Churn, Protocol, Setting, Way, unbroken},
};
use crate::netns::remove_stale;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest silence of a connection that is promised to survive; some of them use nearly all of it.
    pub idle: Duration,
    /// Connections and flows of each patience that are opened at once, at three moments of each step.
    pub each: usize,
    /// SYNs a second from forged sources, in the step that has a flood.
    pub flood: u32,
    /// Worlds side by side.
    pub lanes: usize,
}

/// Which steps a world goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// All that happens to one balancer.
    One,
    /// The same to a service that goes by QUIC's connection ids, whose clients move to other ports in each step.
    Quic,
    /// Two balancers between which a router chooses, of which one leaves and comes back.
    Two,
    /// The ledger is lost amid changes, and backends pass on what they do not know.
    Chance,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    V4,
    V6,
}

/// One world: a mode, a family, and what is to happen in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Cell {
    pub mode: Way,
    pub family: Family,
    pub part: Part,
}

/// One step in one world.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    #[serde(flatten)]
    pub cell: Cell,
    pub protocol: Protocol,
    pub step: &'static str,
    /// Held ones that were alive when it began, and all that were opened in it.
    pub connections: u64,
    /// Not answered, or not by whom they were with.
    pub broken: u64,
    /// Broken ones whose backend was killed. Not among `broken`.
    pub killed: u64,
    /// The most flows that the ledger remembered.
    pub entries: u64,
    /// The most slots that were on their way.
    pub moving: u64,
    /// Packets that backends have passed on to each other in this step and the world's steps before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught: Option<u64>,
    /// What the first few broken ones met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
}

/// The worlds of these modes, families and parts, the longest first.
pub fn cells(modes: &[Way], families: &[Family], parts: &[Part]) -> Vec<Cell> {
    let makes_sense = |cell: &Cell| match cell.part {
        Part::One | Part::Quic => true,
        // Flows that are translated live on one node.
        Part::Two => cell.mode != Way::Nat,
        Part::Chance => cell.mode == Way::Tunnel,
    };
    let all = parts.iter().flat_map(|part| {
        let each = move |mode: &Way| {
            let mode = *mode;
            families.iter().map(move |family| Cell { mode, family: *family, part: *part })
        };
        modes.iter().flat_map(each)
    });
    all.filter(makes_sense).collect()
}

/// Goes through all steps in each world, and shows each as soon as it is done. A world that can't go on does not keep the others from it.
pub fn measure(cells: &[Cell], options: &Options, mut show: impl FnMut(&Figure) -> Result<()>) -> Result<()> {
    let waiting = Mutex::new(cells.iter().copied());
    let (tx, figures) = mpsc::channel();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..options.lanes.max(1)).map(|_| (tx.clone(), &waiting)).collect();
        drop(tx);
        let lanes: Vec<_> = lanes.into_iter().map(|(tx, waiting)| scope.spawn(move || lane(waiting, options, &tx))).collect();
        figures.iter().try_for_each(|figure| show(&figure))?;
        let ended: Vec<_> = lanes.into_iter().flat_map(|lane| lane.join().unwrap_or_else(|_| vec!["a lane has panicked".into()])).collect();
        if ended.is_empty() { Ok(()) } else { bail!("{}", ended.join("\n")) }
    })
}

/// Takes one world after the other; what went wrong in them.
fn lane(waiting: &Mutex<impl Iterator<Item = Cell>>, options: &Options, figures: &Sender<Figure>) -> Vec<String> {
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let show = |figure| {
        // Who shows them has met an error of its own, and says so.
        let _ = figures.send(figure);
    };
    std::iter::from_fn(next).filter_map(|cell| cell.run(options, &show).err().map(|error| format!("{cell}: {error:#}"))).collect()
}

impl Cell {
    fn run(self, options: &Options, show: &dyn Fn(Figure)) -> Result<()> {
        let group = self.group();
        remove_stale(&group)?;
        let setting = Setting {
            v6: self.family == Family::V6,
            pair: self.part == Part::Two,
            beside: match self.part {
                Part::One | Part::Two => Some(Protocol::Udp),
                Part::Quic => Some(Protocol::Quic),
                Part::Chance => None,
            },
            ..Setting::plain(self.mode, options.idle)
        };
        let chance = Setting {
            second_chance: true,
            // Flows of before are not to need their entries within the time that this takes.
            idle: Duration::from_secs(600),
            lines: chance::LIMIT,
            ..setting
        };
        let churn = Churn::of(&group, if self.part == Part::Chance { &chance } else { &setting });
        let mut play = Play::new(churn.context("no world")?, self, options, show)?;
        let ended = match self.part {
            Part::One | Part::Quic => steps::run(&mut play),
            Part::Two => pair::run(&mut play),
            Part::Chance => chance::run(&mut play),
        };
        ended.inspect_err(|error| play.tell_events(&format!("{error:#}")))
    }

    /// Short, for names of interfaces and namespaces end soon.
    fn group(self) -> String {
        let part = self.part as usize + 1;
        format!("mesh-c{}{}{part}", &self.mode.name()[..2], if self.family == Family::V6 { 6 } else { 4 })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V6 { "v6" } else { "v4" };
        write!(f, "{:<6} {family} {:<6}", self.mode.name(), format!("{:?}", self.part).to_lowercase())
    }
}

impl Figure {
    pub const HEAD: &str = "mode   ip part   by   step              connections  broken  killed  entries  moving";
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cell, step, connections, broken, killed, entries, moving, .. } = self;
        let by = self.protocol.name();
        write!(f, "{cell} {by:<4} {step:<17} {connections:>11} {broken:>7} {killed:>7} {entries:>8} {moving:>7}")?;
        if let Some(caught) = self.caught {
            write!(f, "  {caught} packets passed on by backends")?;
        }
        self.because.iter().try_for_each(|why| write!(f, "\n  {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_and_family_has_its_worlds() {
        let all = cells(Way::value_variants(), Family::value_variants(), Part::value_variants());
        let count = |part| all.iter().filter(|cell| cell.part == part).count();
        assert_eq!((count(Part::One), count(Part::Quic), count(Part::Two), count(Part::Chance)), (8, 8, 6, 2));
        let mut groups: Vec<_> = all.iter().map(|cell| cell.group()).collect();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), all.len());
        // The longest name of an instance: with the largest process id.
        assert!(groups.iter().all(|group| format!("{group}-4194304-balancer").len() <= 31), "{groups:?}");
    }
}
