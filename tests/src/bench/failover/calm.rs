//! Nobody fails, and the machine has more to do than it can: whoever is called dead then is called so falsely.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;
use mesh::{control::view::StateWord, events::What};
use serde::Serialize;

use super::{Mode, Settings, World, group};
use crate::bench::stall::StallClock;

const BACKENDS: u8 = 20;
/// Few, for it is the machine that is to be busy.
const RATE: u32 = 200;

/// What happened while nothing did.
#[derive(Clone, Debug, Serialize)]
pub struct Calm {
    pub calm: bool,
    pub mode: Mode,
    pub settings: &'static str,
    pub seconds: u64,
    pub backends: u8,
    /// Threads that do nothing but use a core.
    pub burning: usize,
    pub false_down: usize,
    pub false_soft: usize,
    /// What was said of them, the first few.
    pub evidence: Vec<String>,
    pub requests: u64,
    pub failed_requests: u64,
    pub stall_p999_ms: f64,
}

/// Watches twenty healthy backends for `length`, with every core burning.
pub fn calm(mode: Mode, settings: Settings, length: Duration) -> Result<Calm> {
    super::clean()?;
    let world = World::build(&group(0), mode, settings, BACKENDS, RATE)?;
    let mut seq = world.balancer().events(0)?.last().map_or(0, |e| e.seq);
    let burners = Burners::light(std::thread::available_parallelism().map_or(2, usize::from));
    let (clock, end) = (StallClock::start(), Instant::now() + length);
    world.tally();
    let (mut down, mut soft, mut evidence) = (0, 0, Vec::new());
    loop {
        let over = Instant::now() >= end;
        for event in world.balancer().events(seq)? {
            seq = event.seq;
            let What::BackendState { backend, to, evidence: why, .. } = event.what else { continue };
            down += usize::from(to == StateWord::Down);
            soft += usize::from(to == StateWord::Soft);
            if matches!(to, StateWord::Down | StateWord::Soft) && evidence.len() < 10 {
                evidence.push(format!("{backend} {}: {why}", to.name()));
            }
        }
        if over {
            break;
        }
        std::thread::sleep(Duration::from_millis(500).min(end.saturating_duration_since(Instant::now())));
    }
    let stall_p999_ms = clock.finish();
    let burning = burners.0.len();
    drop(burners);
    let tally = world.tally();
    Ok(Calm {
        calm: down == 0,
        mode,
        settings: settings.name(),
        seconds: length.as_secs(),
        backends: BACKENDS,
        burning,
        false_down: down,
        false_soft: soft,
        evidence,
        requests: tally.done,
        failed_requests: tally.failed,
        stall_p999_ms: super::figure::tenth(stall_p999_ms),
    })
}

impl fmt::Display for Calm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} healthy backends for {} s ({}, {}), {} cores busy: {} false down, {} soft; {} of {} requests failed; stall p99.9 {} ms",
            self.backends,
            self.seconds,
            self.mode.name(),
            self.settings,
            self.burning,
            self.false_down,
            self.false_soft,
            self.failed_requests,
            self.requests,
            self.stall_p999_ms
        )?;
        self.evidence.iter().try_for_each(|why| write!(f, "\n  {why}"))
    }
}

/// Threads that use up the cores until they are dropped.
struct Burners(Vec<JoinHandle<()>>, Arc<AtomicBool>);

impl Burners {
    fn light(count: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let burn = |over: Arc<AtomicBool>| {
            std::thread::spawn(move || {
                let mut n = 1u64;
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..100_000 {
                        n = std::hint::black_box(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                    }
                }
            })
        };
        Self((0..count).map(|_| burn(Arc::clone(&over))).collect(), over)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        for burner in self.0.drain(..) {
            let _ = burner.join();
        }
    }
}
