//! Who chooses a backend in the simulation of weights, and by what.

/// Who chooses, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Equal weights.
    Equal,
    /// Weights by capacity: what one who knows everything would configure.
    Oracle,
    /// The controller, from equal weights on, by the latency of all requests, ...
    Requests,
    /// ... by that of one small probe a second, ...
    Probes,
    /// ... by that and by the connections that the kernel half times, ...
    Flows,
    /// ... the same where the kernel half counts only the connections that it draws, ...
    Drawn,
    /// ... or by that of four checks a second which each take a time drawn as a request's is, and are given up after two seconds.
    Checks,
    /// Fewest open requests for its capacity, by somebody who sees all of them.
    LeastConnections,
}

/// All of them.
pub const POLICIES: [Policy; 8] = [
    Policy::Equal,
    Policy::Oracle,
    Policy::Requests,
    Policy::Probes,
    Policy::Flows,
    Policy::Drawn,
    Policy::Checks,
    Policy::LeastConnections,
];

/// What people call it.
pub fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::Equal => "equal weights",
        Policy::Oracle => "weights by capacity",
        Policy::Requests => "controller, requests",
        Policy::Probes => "controller, probes",
        Policy::Flows => "controller, as in nat",
        Policy::Drawn => "controller, as in dsr",
        Policy::Checks => "controller, checks",
        Policy::LeastConnections => "least connections",
    }
}
