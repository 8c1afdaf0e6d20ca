//! The hashes that both halves compute: of a VIP's key, of a client's flow, of a backend's reply.
//!
//! Multiply and mix, with keys that are secret: one multiplication is one instruction here, a rotation is three, and there is no 128-bit product.

use core::mem::offset_of;

use crate::{
    abi::{Config, Family, VipHalf, VipKey},
    flow::{Address, Tuple, V4, V6},
    shared::Shared,
};

const M1: u64 = 0xff51_afd7_ed55_8ccd;
const M2: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Hash of a VIP's key. The daemon searches `seed` and displacements so that no two keys of a half share a position.
pub fn vip_hash(key: &VipKey, seed: u64) -> u64 {
    let tail = u32::from_ne_bytes([key.port[0], key.port[1], key.proto, key.family]);
    match key.family {
        v4 if v4 == Family::V4 as u8 => vip(V4::from_addr(key.addr), tail, seed),
        _ => vip(V6::from_addr(key.addr), tail, seed),
    }
}

/// Which displacement a key of this hash takes: an index, at most `displacement_mask`.
#[inline(always)]
pub const fn displacement_index(hash: u64, displacement_mask: u32) -> u32 {
    (hash >> 50) as u32 & displacement_mask
}

/// Where in the VIP map a key of this hash stands.
pub const fn position(hash: u64, half: &VipHalf, displacement: u16) -> u32 {
    position_in(hash, half.base, half.mask, displacement)
}

#[inline(always)]
pub(crate) const fn position_in(hash: u64, base: u32, mask: u32, displacement: u16) -> u32 {
    base.wrapping_add(((hash >> 32) as u32).wrapping_add(displacement as u32) & mask)
}

/// [`vip_hash`] of a key in parts; `tail` is `port | proto | family` as it lies in memory.
#[inline(always)]
pub(crate) fn vip<A: Address>(addr: A, tail: u32, seed: u64) -> u64 {
    addr.absorb_one(tail as u64, seed)
}

/// The secret key that is published.
#[inline(always)]
pub(crate) fn key(config: Shared<'_, Config>) -> [u64; 2] {
    const AT: usize = offset_of!(Config, hash_key);
    [config.load::<u64, AT>(), config.load::<u64, { AT + 8 }>()]
}

/// Hash of a client's flow to a service: `key` is [`crate::abi::Config::hash_key`], `seed` the VIP's. The service's slot is `hash >> shift`.
#[inline(always)]
pub fn flow<A: Address>(tuple: &Tuple<A>, key: [u64; 2], seed: u64) -> u64 {
    let h = tuple.src.absorb_one(tuple.ports as u64, key[0] ^ seed);
    let h = (h ^ (h >> 32) ^ key[1]).wrapping_mul(M1);
    h ^ (h >> 32)
}

/// Hash of a reply: from the backend (`src`) to the source address of the translation (`dst`), `ports` accordingly.
#[inline(always)]
pub fn reply<A: Address>(tuple: &Tuple<A>, proto: u8, key: [u64; 2]) -> u64 {
    let h = A::absorb_two(tuple.src, tuple.dst, key[0]);
    let h = (h ^ (h >> 32) ^ key[1] ^ (tuple.ports as u64 | (proto as u64) << 32)).wrapping_mul(M1);
    (h ^ (h >> 32)).wrapping_mul(M2)
}

/// `hash` brought down to `0..n`, by its upper half.
#[inline(always)]
pub const fn range(hash: u64, n: u32) -> u32 {
    (((hash >> 32) * n as u64) >> 32) as u32
}

/// One step: a bijection of `word`, which spreads each bit to those above it, then a fold.
#[inline(always)]
pub(crate) fn step(state: u64, word: u64) -> u64 {
    let h = (state ^ word).wrapping_mul(M1);
    h ^ (h >> 32)
}

/// The last step, whose upper half is well mixed.
#[inline(always)]
pub(crate) fn last(state: u64) -> u64 {
    state.wrapping_mul(M2)
}
