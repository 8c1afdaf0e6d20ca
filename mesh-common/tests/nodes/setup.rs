//! What there is in a world of two balancers, and what can happen in it.

use mesh_common::ledger::change::Times;

/// The oldest that anything is: never, in the longest times.
pub const OLD: u8 = 6;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Setup {
    /// Flows begin with a handshake.
    pub handshakes: bool,
    /// SYNs that are late or forged, at either node.
    pub strays: bool,
    /// A packet may find no room to be remembered.
    pub full: bool,
    /// So often a node may find no room for what the other tells of a flow that it does not know; [`u8::MAX`]: always.
    pub cramped: u8,
    /// Any number of further flows, which have to do with these only by what is noted of the slot.
    pub others: bool,
    /// The longest silence, and within how many further ticks the other hears of an entry: with 0, in any order within the same one.
    pub idle: u8,
    pub lag: u8,
    /// The nodes have begun with defaults of their own, and have not had the same since.
    pub parted: bool,
    /// Wishes of one node or the other that there can still be, and backends that can still die.
    pub wishes: u8,
    pub deaths: u8,
    pub fault: Option<Fault>,
}

/// A rule that is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// Entries are not told.
    Mute,
    /// A node takes each step as if the other had said all that it waits for.
    Alone,
    /// What others have said counts even where they have not heard what is asked for.
    Unasked,
    /// A copy is not told when its flow was used again.
    Stale,
    /// A refusal is not noted.
    RefusalsForgotten,
    /// A packet that goes to somebody who is not the target is not noted.
    ElsewhereForgotten,
    /// An entry that there was no room for is acknowledged.
    Shrugs,
    /// Who remembers SYNs for others alone lets a flow's entry end where its own default leads to the same backend: sound if all have begun with one default.
    Defaulted,
}

pub const ALL: Setup = Setup {
    handshakes: true,
    strays: false,
    full: false,
    cramped: 0,
    others: false,
    idle: 2,
    lag: 0,
    parted: false,
    wishes: 1,
    deaths: 0,
    fault: None,
};

/// After a start: the second node has found another backend well first.
pub const PARTED: Setup = Setup { parted: true, wishes: 0, ..ALL };

impl Setup {
    /// The shortest in which everything that can happen within and beyond a time still can.
    pub fn times(&self) -> Times {
        Times { handshake: 1, idle: self.idle.into(), patience: 1, lag: self.lag.into() }
    }

    /// Ages end here.
    pub fn old(&self) -> u8 {
        self.idle + self.lag + 2
    }

    pub fn older(&self, age: u8) -> u8 {
        (age + 1).min(self.old())
    }
}
