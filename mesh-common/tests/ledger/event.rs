//! What can happen in a world, and what must not.

use crate::world::Health;

/// Something that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Tick,
    /// The first SYN of an attempt.
    Syn(usize),
    /// The same, of a tuple whose connections have sequence numbers.
    Anew(usize, Order),
    /// The same SYN once more.
    Again(usize),
    /// A SYN that is late (`true`) or forged.
    Stray(usize, bool),
    /// The client takes this backend's SYN-ACK; its ACK goes through.
    Ack(usize, u8),
    /// The client of an open flow sends something.
    Data(usize),
    /// It ends: the backend may not have, yet; or it breaks off.
    Fin(usize),
    Reset(usize),
    /// What a connection of the tuple has sent comes late, or once more.
    Late(usize, Old),
    /// A SYN that nobody has sent, with a number before all others or beyond them.
    Forged(usize, bool),
    /// The client is done, and nobody tells.
    Close(usize),
    /// The operator or the plan wants this target and secondary.
    Wish(u8, u8),
    /// The daemon looks, and decides, while this target and secondary are wanted.
    Look(u8, u8),
    /// The daemon writes what it has decided.
    Write,
    Health(u8, Health),
    /// Other flows fill the bucket, or leave it.
    Fill,
    /// A packet of another flow goes to somebody who is not the target.
    Elsewhere,
    /// Another flow can't be remembered.
    Refused,
}

/// Where a connection's numbers are among those that its tuple has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Beyond,
    Before,
    /// It begins before all, or before the greatest, and ends beyond all.
    Around,
    Within,
}

/// Which of the tuple's last two connections, and what of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Old {
    Syn,
    /// What was lost of it, sent once more.
    Data,
    Fin,
    PastSyn,
    PastFin,
    PastReset,
}

/// A flow that should have found its backend and did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    pub flow: usize,
    pub owner: u8,
    pub went: Option<u16>,
}
