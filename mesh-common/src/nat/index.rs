//! The index: from a client's packet to its flow. A word of a bucket only points, and what it points at says whether it is right.

use crate::{
    abi::{Config, NAT_WAYS, NatBucket, NatFlow},
    flow::{Address, load_address},
    forward::Arrival,
    header::TCP,
    nat::{Life, Parties},
    read,
    shared::{Shared, in_order},
    tables::Tables,
};

/// The flow that this packet belongs to, and its parties.
#[inline(always)]
pub(crate) fn find<'a, A: Address, T: Tables>(tables: &'a T, arrival: &Arrival<'a, A>) -> Option<(Shared<'a, NatFlow>, Parties)> {
    let bucket = bucket(tables, arrival.config, arrival.hash)?;
    for way in 0..NAT_WAYS {
        let word = bucket.way(way).load::<u64, 0>();
        if word >> 32 != arrival.hash >> 32 {
            continue;
        }
        let Some(flow) = tables.nat_flow((word as u32).wrapping_sub(1)) else { continue };
        // Computed for each of the few that come here: kept from the beginning, it would take room on the stack.
        let claimed = || read!(flow, NatFlow.claim as u64) == Parties::claim(in_order(arrival.hash));
        if !claimed() {
            continue;
        }
        let parties = Parties::of(flow);
        if parties.client_port() == (arrival.headers.ports as u16)
            && load_address!(A, flow, NatFlow.client) == arrival.src
            && read!(flow, NatFlow.service as u16) as u32 == arrival.service()
            && claimed()
        {
            return Some((flow, parties));
        }
    }
    None
}

/// Makes the index lead a flow of this hash to entry `place` of the flow map. Whether there was room: a way that leads nowhere any more is room.
pub(crate) fn insert<T: Tables>(tables: &T, config: Shared<'_, Config>, hash: u64, place: u32, now: u32) -> bool {
    let Some(bucket) = bucket(tables, config, hash) else { return false };
    let new = hash >> 32 << 32 | place.wrapping_add(1) as u64;
    for way in 0..NAT_WAYS {
        let word = bucket.way(way);
        let old = word.load::<u64, 0>();
        if old == new || (stale(tables, config, old, now) && word.exchange::<0>(old, new)) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn bucket<'a, T: Tables>(tables: &'a T, config: Shared<'_, Config>, hash: u64) -> Option<Shared<'a, NatBucket>> {
    tables.nat_bucket(hash as u32 & read!(config, Config.nat.bucket_mask as u32))
}

/// The word leads to nothing, to a flow of another hash, or to one that has expired.
#[inline(never)]
fn stale<T: Tables>(tables: &T, config: Shared<'_, Config>, word: u64, now: u32) -> bool {
    let Some(flow) = tables.nat_flow((word as u32).wrapping_sub(1)) else { return true };
    let claim = read!(flow, NatFlow.claim as u64);
    if claim == NatFlow::BUSY {
        return false;
    }
    claim >> 32 != word >> 32 || Life::of(flow).expired_by(read!(flow, NatFlow.proto as u8) == TCP, now, config)
}
