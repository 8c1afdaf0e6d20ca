//! What the machine itself does to a timer: the measure beside every figure in milliseconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_millis(1);

/// A thread that sleeps for a millisecond again and again, until it is finished.
#[derive(Debug)]
pub struct StallClock {
    over: Arc<AtomicBool>,
    worker: Option<JoinHandle<Vec<f64>>>,
}

impl StallClock {
    pub fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let worker = std::thread::spawn(move || {
            let mut late = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                std::thread::sleep(TICK);
                late.push(begin.elapsed().saturating_sub(TICK).as_secs_f64() * 1e3);
            }
            late
        });
        Self { over, worker: Some(worker) }
    }

    /// p99.9 of how late the timer was, milliseconds.
    pub fn finish(mut self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        let mut late = self.worker.take().and_then(|w| w.join().ok()).unwrap_or_default();
        super::quantile(&mut late, 0.999)
    }
}

impl Drop for StallClock {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
