//! Beginnings of flows that nobody translates, told to the daemon: of a sample, by the flow's hash.
//!
//! A packet that is not of the sample pays one comparison of its hash. A flow is told once: it has a word in a small table, `tag | tick`, by which a SYN that is
//! sent again, or the next datagram, is known. A colliding flow simply takes the word over, and then the other one may be told again.

use core::mem::offset_of;

use crate::{
    abi::{Addr, FlowLogStats, FlowRecord},
    flow::Address,
    forward::Arrival,
    hash,
    ledger::rules::Sent,
    shared::Shared,
    tables::Tables,
};

/// Words of the table of flows that were told, a power of two.
pub const TOLD: u32 = 1 << 14;
/// Bytes of the ring: some 5,000 records.
pub const RING: u32 = 1 << 18;

const TICKS: u64 = (1 << 20) - 1;
/// A flow without handshakes that was silent for this many ticks (30 s) begins anew.
const SILENCE: u64 = 224;
/// Bits of the hash that the sample is drawn by, from which bit on: not those that choose slots.
const DRAWN_SHIFT: u32 = 12;
const DRAWN_BITS: u32 = 31;

/// The [`crate::abi::Config::flow_sample`] by which one flow in `every` is told; 0 = none.
pub const fn sample(every: u32) -> u32 {
    if every == 0 { 0 } else { (1_u64 << DRAWN_BITS).div_ceil(every as u64) as u32 }
}

/// Whether a flow of this hash is one of the sample.
#[inline(always)]
pub const fn is_drawn(hash: u64, sample: u32) -> bool {
    ((hash >> DRAWN_SHIFT) as u32 >> (32 - DRAWN_BITS)) < sample
}

/// What is told of a flow, in words that fit the arguments of one call.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// The client's address: as [`crate::flow::Address`] has it.
    pub client: [u64; 2],
    /// Of the flow, and of this beginning of it where there are handshakes.
    pub key: u64,
    /// `service | stats`
    pub whose: u64,
    /// `client's port | port | family`, ports as they lie in the packet.
    pub ports: u64,
}

impl Beginning {
    #[inline(always)]
    pub(crate) fn new<A: Address>(src: A, arrival: &Arrival<'_, A>, stats: u32, sent: Sent) -> Self {
        let begun = match sent {
            Sent::Syn { isn } => isn as u64 + 1,
            _ => 0,
        };
        Self {
            client: src.words(),
            key: hash::last(arrival.hash ^ begun << 16),
            whose: arrival.service() as u64 | (stats as u64) << 32,
            ports: arrival.headers.ports as u64 | (A::FAMILY as u64) << 32,
        }
    }

    #[inline(always)]
    fn record(self, time: u64) -> FlowRecord {
        FlowRecord {
            client: address(self.client),
            client_port: (self.ports as u16).to_ne_bytes(),
            port: ((self.ports >> 16) as u16).to_ne_bytes(),
            family: (self.ports >> 32) as u8,
            reserved: [0; 3],
            service: self.whose as u32,
            stats: (self.whose >> 32) as u32,
            time,
        }
    }
}

/// Tells of a flow that has begun, unless that was told.
#[inline(always)]
pub fn tell<T: Tables>(tables: &T, beginning: Beginning) {
    let Some(word) = tables.told((beginning.key >> 24) as u32 & (TOLD - 1)) else { return };
    let (old, now) = (word.load::<u64, 0>(), tables.tick() as u64 & TICKS);
    word.store::<u64, 0>(beginning.key & !TICKS | now);
    if (old ^ beginning.key) & !TICKS == 0 && now.wrapping_sub(old) & TICKS <= SILENCE {
        return;
    }
    let done = tables.put_flow_record(beginning.record(tables.nanoseconds()));
    if let Some(stats) = tables.flow_log_stats() {
        count(stats, done);
    }
}

#[inline(always)]
fn count(stats: Shared<'_, FlowLogStats>, done: bool) {
    if done {
        stats.count::<{ offset_of!(FlowLogStats, told) }>(1);
    } else {
        stats.count::<{ offset_of!(FlowLogStats, lost) }>(1);
    }
}

#[inline(always)]
fn address([first, second]: [u64; 2]) -> Addr {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (first.to_ne_bytes(), second.to_ne_bytes());
    Addr([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_drawn() {
        let hashes = || (0..64_000_u64).map(|n| crate::hash::last(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n << 40));
        let drawn = |every| hashes().filter(|hash| is_drawn(*hash, sample(every))).count();
        assert_eq!((drawn(0), drawn(1)), (0, 64_000));
        assert!((30_000..34_000).contains(&drawn(2)) && (500..800).contains(&drawn(100)), "{} {}", drawn(2), drawn(100));
        assert!(is_drawn(u64::MAX, sample(1)) && !is_drawn(0, sample(0)) && sample(u32::MAX) == 1);
    }
}
