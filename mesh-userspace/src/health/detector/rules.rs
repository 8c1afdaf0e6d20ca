use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::Limits;

/// How a target is judged.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Detection {
    /// By its check alone: so many equal answers in a row.
    #[default]
    RiseFall,
    /// By the sum of what several channels say, its check among them.
    Phi(PhiRules),
}

/// What the sum is made of, and how far it may go.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PhiRules {
    /// Channel B; `None` = without.
    pub pulse: Option<Pulse>,
    /// Channel A counts.
    pub passive: bool,
    /// Of the weight of the target's service.
    pub limits: Limits,
}

/// A question that the target's kernel answers, be its processes busy or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pulse {
    pub kind: PulseKind,
    /// The port says nothing for an echo.
    pub address: SocketAddr,
    /// `None` = as the kernel's routes say.
    pub source: Option<IpAddr>,
    /// As [`crate::health::Check::tag`], for questions that have no socket of their own.
    pub tag: u32,
    /// From one to the next; longer where there are very many.
    pub interval: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PulseKind {
    /// A TCP SYN; the answer is not taken up, so that no process ever sees a connection.
    Syn,
    /// An ICMP echo request.
    Echo,
}

impl Detection {
    pub fn phi(&self) -> Option<&PhiRules> {
        match self {
            Self::RiseFall => None,
            Self::Phi(rules) => Some(rules),
        }
    }
}
