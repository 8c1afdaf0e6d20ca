//! Who chooses a backend in the simulation of weights, and by what.

/// Who chooses, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Equal weights.
    Equal,
    /// Weights by capacity: what one who knows everything would configure.
    Oracle,
    /// The fixed weights with which all wait least.
    Optimum,
    /// The controller with all backends' latency made equal, instead of what it is over their own.
    EqualLatency,
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
    /// Fewest open requests for its capacity, by somebody who sees all of them, ...
    LeastConnections,
    /// ... and by eight who each see their own.
    LeastLocal,
    /// Fewer open requests of two backends that are drawn, by eight.
    TwoChoices,
    /// The table of [`Policy::Requests`], unless its backend has half as many again as usual, by eight, ...
    Crowded,
    /// ... twice as many, by one who sees all, ...
    CrowdedAlone,
    /// ... and by eight who tell each other ten times a second.
    CrowdedTold,
}

/// All of them.
pub const POLICIES: [Policy; 15] = [
    Policy::Equal,
    Policy::Oracle,
    Policy::Optimum,
    Policy::EqualLatency,
    Policy::Requests,
    Policy::Probes,
    Policy::Flows,
    Policy::Drawn,
    Policy::Checks,
    Policy::LeastConnections,
    Policy::LeastLocal,
    Policy::TwoChoices,
    Policy::Crowded,
    Policy::CrowdedAlone,
    Policy::CrowdedTold,
];

/// What people call it.
pub fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::Equal => "equal weights",
        Policy::Oracle => "weights by capacity",
        Policy::Optimum => "best fixed weights",
        Policy::EqualLatency => "equal latency",
        Policy::Requests => "controller, requests",
        Policy::Probes => "controller, probes",
        Policy::Flows => "controller, as in nat",
        Policy::Drawn => "controller, as in dsr",
        Policy::Checks => "controller, checks",
        Policy::LeastConnections => "least connections",
        Policy::LeastLocal => "the same, by 8 nodes",
        Policy::TwoChoices => "two choices, 8 nodes",
        Policy::Crowded => "unless crowded, 8 nodes",
        Policy::CrowdedAlone => "unless crowded, 1 node",
        Policy::CrowdedTold => "unless crowded, 8, told",
    }
}

/// Weights follow the latency of all requests.
pub fn follows_requests(policy: Policy) -> bool {
    matches!(policy, Policy::Requests | Policy::EqualLatency) || crowded(policy).is_some()
}

/// How many times what is usual is a crowd, where that is asked.
pub fn crowded(policy: Policy) -> Option<f64> {
    match policy {
        Policy::Crowded => Some(1.5),
        Policy::CrowdedAlone | Policy::CrowdedTold => Some(2.0),
        _ => None,
    }
}
