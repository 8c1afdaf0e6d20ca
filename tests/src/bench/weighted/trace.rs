//! What the controller makes of each backend, while it is at it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::daemon::Daemon;

const EVERY: Duration = Duration::from_secs(5);

/// Writes a line a backend to standard error, until it is `over`.
pub fn follow(daemon: &Daemon, over: &AtomicBool) {
    let begun = Instant::now();
    let mut next = EVERY;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        if begun.elapsed() < next {
            continue;
        }
        next += EVERY;
        match daemon.json(&["backend", "ls", "web"]) {
            Ok(all) => all.as_array().into_iter().flatten().for_each(|row| tell(begun.elapsed(), row)),
            // A daemon that is busy is asked again.
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

fn tell(at: Duration, row: &Value) {
    let weighing = &row["weighing"];
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let why = weighing["why"].as_array().and_then(|why| why.last()).map(word).unwrap_or_default();
    let (state, health) = (word(&row["state"]), word(&row["health"]["health"]));
    eprintln!("{:>5.1} s {:<17} {state} {health} {} flows, {why}", at.as_secs_f64(), word(&row["id"]), row["live_flows"]);
}
