//! What there is in a world, and how it is named.

use std::net::SocketAddr;

use mesh_common::{abi::SlotWord, ledger::change::Times};

use crate::model::{BackendId, Proto, VipAddr};

pub const FLOWS: usize = 4;
pub const BACKENDS: u16 = 3;
/// Milliseconds of a tick, and of a step of the world.
pub const TICK: u64 = 100;
pub const STEP: u64 = 20;
pub const TIMES: Times = Times { handshake: 20, idle: 50, patience: 5, lag: 16 };
pub const LOST: u64 = 1500;
/// A flow does not change its balancer within this time after a packet that has begun it: so long others may take to hear of it.
pub const TOLD: u64 = 1500;
/// The longest that a change waits for who is dead: until it does not count any more, then for a handshake, and a few ticks.
pub const HELD_UP: u64 = LOST + (TIMES.handshake as u64 + 4) * TICK;
/// A flow that is open is silent for so long at a time: the last for nearly as long as it may be.
pub const SILENCE: [u64; FLOWS] = [500, 1700, 3300, 4700];
pub const START: u32 = 1000;

#[derive(Clone, Copy, Debug)]
pub enum Act {
    Syn(usize),
    Packet(usize),
    Close(usize),
    /// From now on the flow's packets reach this node, if it serves.
    Reroute(usize, usize),
    Wish(u16, u16),
    /// A daemon is killed, and its node gets no packets until it is there again: with what it knew, or without.
    Crash(usize, bool),
    /// Nothing that this node says reaches others for so long. Bounded below the time after which it does not count.
    Cut(usize, u64),
}

/// A rule that is not kept, so that a test can show that it would be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nobody is told of entries.
    Mute,
    /// What is told of entries is acknowledged, and forgotten.
    Forgetful,
    /// A node takes each step as if there were no others.
    Alone,
    /// Who is lost leaves all as it is.
    Careless,
    /// Who joins keeps its own word.
    Stubborn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    None,
    Opening { isn: u32, owner: u16, at: u64, began: u64 },
    Open { isn: u32, owner: u16, at: u64, began: u64 },
}

pub fn vip() -> VipAddr {
    VipAddr { addr: [192, 0, 2, 1].into(), port: 80, proto: Proto::Tcp }
}

pub fn address(node: usize) -> SocketAddr {
    ([10, 0, 0, node as u8 + 1], 7946).into()
}

pub fn id(backend: u16) -> BackendId {
    BackendId(([10, 1, 0, backend as u8], 80).into())
}

/// Each node numbers backends in its own way.
pub fn local(node: usize, backend: u16) -> u16 {
    (backend + node as u16) % BACKENDS
}

pub fn global(node: usize, local: u16) -> u16 {
    (local + BACKENDS - (node as u16 % BACKENDS)) % BACKENDS
}

pub fn local_of(node: usize, id: Option<BackendId>) -> u16 {
    let Some(BackendId(SocketAddr::V4(address))) = id else { return SlotWord::NONE };
    local(node, u16::from(address.ip().octets()[3]))
}
