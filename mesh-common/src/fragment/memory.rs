//! Where the course of a packet's fragments is kept, for a few seconds.

use core::mem::offset_of;

use crate::{
    abi::{Config, FRAGMENT_WAYS, FRAGMENTED, Fragmented},
    flow::{V6, load_address},
    fragment::{Course, Identified},
    hash,
    outline::Outline,
    put, read,
    shared::{Shared, blurred},
    tables::Tables,
};

/// Fragments of one packet come in one burst: whoever is later than this many ticks (4.3 s) after the first is of another one.
const TICKS: u32 = 32;

/// Beyond all ages.
const OLDEST: u32 = 0x1_ffff;

const CLAIM: usize = offset_of!(Fragmented, claim);

/// Notes what the fragments of the packet share.
#[inline(always)]
pub(super) fn note<A: Identified>(course: Shared<'_, Course>, config: Shared<'_, Config>, ip: &Outline<A>, id: u32) {
    let entry = course.fragmented();
    ip.src.store::<Fragmented, { offset_of!(Fragmented, src) }, { offset_of!(Fragmented, src) + 8 }>(entry);
    ip.dst.store::<Fragmented, { offset_of!(Fragmented, dst) }, { offset_of!(Fragmented, dst) + 8 }>(entry);
    put!(entry, Fragmented.id as u32, id);
    put!(entry, Fragmented.proto as u8, ip.proto);
    let [seed, key] = hash::key(config);
    let addresses = A::absorb_two(ip.src, ip.dst, seed) ^ key;
    let own = hash::last(hash::step(addresses, id as u64 | (ip.proto as u64) << 32 | (A::FAMILY as u64) << 40));
    put!(entry, Fragmented.claim as u64, own | 2);
}

/// Copies the course that the first fragment left into the note, which says whose; whether there is one.
#[inline(always)]
pub(super) fn recall<T: Tables>(tables: &T, course: Shared<'_, Course>) -> bool {
    let wanted = course.fragmented();
    let claim = read!(wanted, Fragmented.claim as u64);
    let Some(entry) = find(tables, claim) else { return false };
    let same = load_address!(V6, entry, Fragmented.src) == load_address!(V6, wanted, Fragmented.src)
        && load_address!(V6, entry, Fragmented.dst) == load_address!(V6, wanted, Fragmented.dst)
        && read!(entry, Fragmented.id as u32) == read!(wanted, Fragmented.id as u32)
        && read!(entry, Fragmented.proto as u8) == read!(wanted, Fragmented.proto as u8)
        && tables.tick().wrapping_sub(read!(entry, Fragmented.seen as u32)) <= TICKS;
    if !same {
        return false;
    }
    for i in 1..size_of::<Fragmented>() / 8 {
        wanted.at_word(i).store::<u64, 0>(entry.at_word(i).load::<u64, 0>());
    }
    entry.load::<u64, CLAIM>() == claim
}

#[inline(always)]
fn find<T: Tables>(tables: &T, claim: u64) -> Option<Shared<'_, Fragmented>> {
    let bucket = bucket(claim);
    for way in 0..FRAGMENT_WAYS {
        let entry = tables.fragmented(bucket + way)?;
        if entry.load::<u64, CLAIM>() == claim {
            return Some(entry);
        }
    }
    None
}

/// Remembers the course in the note: in the place of an earlier packet of the same hash, or in a free one, or in that of the oldest. Where another CPU is
/// quicker, the fragments to come are those of a packet that was lost.
#[inline(always)]
pub(super) fn remember<T: Tables>(tables: &T, course: Shared<'_, Course>) -> Option<()> {
    let from = course.fragmented();
    let (claim, now) = (read!(from, Fragmented.claim as u64), tables.tick());
    put!(from, Fragmented.seen as u32, now);
    let bucket = bucket(claim);
    let (mut best, mut most) = (bucket, 0);
    for way in 0..FRAGMENT_WAYS {
        let entry = tables.fragmented(bucket + way)?;
        let there = entry.load::<u64, CLAIM>();
        let age = match there {
            Fragmented::BUSY => 0,
            there if there == claim => OLDEST,
            0 => OLDEST - 1,
            _ => now.wrapping_sub(read!(entry, Fragmented.seen as u32)) & 0xffff,
        };
        // One case to the verifier, whatever stood there.
        let age = blurred::<{ OLDEST as i32 }>(age as u64, now as u64) as u32;
        if age >= most {
            (best, most) = (bucket + way, age);
        }
        best = blurred::<{ FRAGMENTED as i32 - 1 }>(best as u64, now as u64) as u32;
    }
    let entry = tables.fragmented(best)?;
    let old = entry.load::<u64, CLAIM>();
    if old == Fragmented::BUSY || !entry.exchange::<CLAIM>(old, Fragmented::BUSY) {
        return None;
    }
    for i in 1..size_of::<Fragmented>() / 8 {
        entry.at_word(i).store::<u64, 0>(from.at_word(i).load::<u64, 0>());
    }
    entry.exchange::<CLAIM>(Fragmented::BUSY, claim);
    Some(())
}

/// The first of the entries that a packet of this hash may be kept in. The bit that marks claims is not among those that count.
#[inline(always)]
const fn bucket(own: u64) -> u32 {
    ((own >> 32) as u32 & (FRAGMENTED / FRAGMENT_WAYS - 1)) * FRAGMENT_WAYS
}
