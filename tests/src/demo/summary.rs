//! What came of it, and whether that is right.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// The demo's result. Times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub requests: usize,
    pub errors: usize,
    /// Errors of requests that began while the killed backend had not been found out: the price of the failure.
    pub errors_during_failover: usize,
    /// In the steady act: backend -> its share of answers and the share that its weight asks for.
    pub distribution: BTreeMap<String, Share>,
    /// From the kill to the last request that failed.
    pub failover_ms: f64,
    /// From the killed backend's return to its first answer.
    pub comeback_ms: f64,
    /// From `drain` to the last new connection that the drained backend got.
    pub drain_ms: f64,
    /// From `add` to the new backend's first answer.
    pub join_ms: f64,
    /// Failed requests while the daemon was dead and restarted.
    pub errors_without_daemon: usize,
    pub long_connections: usize,
    /// Long connections that broke, those to the killed backend excepted.
    pub broken_connections: usize,
    /// Long connections that ended with the killed backend.
    pub killed_connections: usize,
    pub ipv6_requests: usize,
    pub ipv6_errors: usize,
    /// What is not as it should be; empty if all is well.
    pub problems: Vec<String>,
}

/// Answers of one backend as fractions of all.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    pub got: f64,
    pub weight: f64,
}

impl Summary {
    /// Notes a problem unless `holds`.
    pub fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests            {} (IPv6 {})", self.requests + self.ipv6_requests, self.ipv6_requests)?;
        writeln!(
            f,
            "errors              {} (IPv6 {}), {} of them before the failure was found out",
            self.errors + self.ipv6_errors,
            self.ipv6_errors,
            self.errors_during_failover
        )?;
        writeln!(f, "distribution        backend  got     by weight")?;
        for (name, share) in &self.distribution {
            writeln!(f, "                    {name:<8} {:5.1} % {:5.1} %", 100.0 * share.got, 100.0 * share.weight)?;
        }
        writeln!(f, "failover            {:.0} ms", self.failover_ms)?;
        writeln!(f, "comeback            {:.0} ms", self.comeback_ms)?;
        writeln!(f, "drain               {:.0} ms until the last new connection", self.drain_ms)?;
        writeln!(f, "join                {:.0} ms until the first answer", self.join_ms)?;
        writeln!(f, "daemon killed       {} errors while it was dead and restarted", self.errors_without_daemon)?;
        writeln!(
            f,
            "long connections    {}: {} broken ({} ended with the killed backend)",
            self.long_connections, self.broken_connections, self.killed_connections
        )?;
        if self.problems.is_empty() {
            return writeln!(f, "all as it should be");
        }
        self.problems.iter().try_for_each(|p| writeln!(f, "PROBLEM: {p}"))
    }
}
