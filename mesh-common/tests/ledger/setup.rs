//! What there is in a world.

use mesh_common::ledger::change::Times;

pub const TIMES: Times = Times { handshake: 2, idle: 3, patience: 1, lag: 0 };
/// The shortest in which everything that can happen within and beyond a time still can.
const BRIEF: Times = Times { handshake: 1, idle: 2, patience: 1, lag: 0 };

/// What there is in a world, and what can happen in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Setup {
    pub handshakes: bool,
    /// Backends fail, are suspected and return.
    pub health: bool,
    /// Late and forged SYNs.
    pub strays: bool,
    /// Connections end by a FIN or a RST, tuples are used again, and SYNs and FINs of before come late.
    pub ends: bool,
    /// Any number of further flows, which have to do with these only by what is noted of the slot.
    pub others: bool,
    /// Times of [`BRIEF`], else of [`TIMES`].
    pub brief: bool,
    /// Planned changes, and changes of health, that there can still be.
    pub changes: Left,
    pub failures: Left,
    /// What is wrong with the rules: nothing, but where a search is to show that it would find it.
    pub fault: Option<Fault>,
}

/// A rule that is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// A refusal is not noted.
    RefusalsForgotten,
    /// A packet that goes to somebody who is not the target is not noted.
    ElsewhereForgotten,
    /// A repeated SYN, or a packet of a flow, does not keep its entry alive.
    Untouched,
    /// The ACK of a handshake does not make a flow's entry of the pending one.
    Unpromoted,
    /// A live entry gives way to another flow's.
    Evicts,
    /// Whatever says that a client has ended is taken for the present connection's.
    Unnumbered,
    /// A SYN of before counts as one after the end.
    Unordered,
}

/// How often something can still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Left {
    Many,
    Few(u8),
}

impl Setup {
    pub const ALL: Self = Self {
        handshakes: true,
        health: true,
        strays: true,
        ends: false,
        others: false,
        brief: false,
        changes: Left::Many,
        failures: Left::Many,
        fault: None,
    };

    pub const fn times(self) -> Times {
        if self.brief { BRIEF } else { TIMES }
    }

    /// Ages end here.
    pub const fn old(self) -> u8 {
        self.times().idle as u8 + 2
    }

    pub fn older(self, age: u8) -> u8 {
        (age + 1).min(self.old())
    }
}

impl Left {
    pub fn some(self) -> bool {
        self != Self::Few(0)
    }

    pub fn fewer(self) -> Self {
        match self {
            Self::Many => Self::Many,
            Self::Few(left) => Self::Few(left.saturating_sub(1)),
        }
    }
}
