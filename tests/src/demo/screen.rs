//! What the audience sees while it runs. Goes to stderr, so that stdout can be the summary alone.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use super::scoreboard::Scoreboard;

/// Progress: a headline for each act, a line of bars while traffic flows.
#[derive(Debug)]
pub struct Screen {
    start: Instant,
    terminal: bool,
    line_open: bool,
}

impl Screen {
    pub fn new() -> Self {
        Self { start: Instant::now(), terminal: std::io::stderr().is_terminal(), line_open: false }
    }

    pub fn headline(&mut self, text: &str) {
        self.close_line();
        eprintln!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    pub fn note(&mut self, text: &str) {
        self.close_line();
        eprintln!("          {text}");
    }

    /// Who answered since `since`, as bars; on a terminal the line is redrawn in place.
    pub fn traffic(&mut self, board: &Scoreboard, since: Instant) {
        let now = Instant::now();
        let shares = board.shares_between(since, now);
        let total = shares.values().sum::<usize>().max(1);
        let mut line = String::from("          ");
        for (who, count) in &shares {
            line += &format!("{who} {:<8} {count:<5} ", "#".repeat((count * 16).div_ceil(total).min(8)));
        }
        line += &format!("errors {}", board.errors_between(since, now));
        if self.terminal {
            eprint!("\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
            self.line_open = true;
        } else {
            eprintln!("{line}");
        }
    }

    fn close_line(&mut self) {
        if std::mem::take(&mut self.line_open) {
            eprintln!();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close_line();
    }
}
