//! The hashes that both halves compute: of a VIP's key, of a client's flow, of a backend's reply.
//!
//! Multiply and mix, with keys that are secret: one multiplication is one instruction here, a rotation is three, and there is no 128-bit product.

use core::mem::offset_of;

use crate::{
    abi::{Config, Family, ServiceFlags, VipHalf, VipKey},
    flow::{Address, Tuple, V4, V6, ports},
    shared::{Shared, in_order, shifted},
};

const M1: u64 = 0xff51_afd7_ed55_8ccd;
const M2: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Hash of a VIP's key. The daemon searches `seed` and displacements so that no two keys of a half share a position.
pub fn vip_hash(key: &VipKey, seed: u64) -> u64 {
    match key.family {
        v4 if v4 == Family::V4 as u8 => vip(V4::from_addr(key.addr), tail(key), seed),
        _ => vip(V6::from_addr(key.addr), tail(key), seed),
    }
}

/// Where in the VIP map a key stands: its displacement is asked for by its index where the half has such.
pub fn vip_position(key: &VipKey, half: &VipHalf, displacement: impl FnOnce(u32) -> u16) -> u32 {
    if half.is_plain() {
        return plain_position(key, half);
    }
    let hash = vip_hash(key, half.seed);
    position(hash, half, displacement(displacement_index(hash, half.displacement_mask)))
}

/// Where in the VIP map a key stands in a half of few keys ([`VipHalf::is_plain`]).
pub fn plain_position(key: &VipKey, half: &VipHalf) -> u32 {
    match key.family {
        v4 if v4 == Family::V4 as u8 => plain(V4::from_addr(key.addr), tail(key), half.seed, half.base, half.shift),
        _ => plain(V6::from_addr(key.addr), tail(key), half.seed, half.base, half.shift),
    }
}

fn tail(key: &VipKey) -> u32 {
    u32::from_ne_bytes([key.port[0], key.port[1], key.proto, key.family])
}

/// [`plain_position`] of a key in parts: the upper bits of one product (multiply-shift, Dietzfelbinger et al. 1997), for which nothing has to be looked up.
/// `seed` is odd.
#[inline(always)]
pub(crate) fn plain<A: Address>(addr: A, tail: u32, seed: u64, base: u32, shift: u32) -> u32 {
    base.wrapping_add(shifted(addr.gather(tail as u64).wrapping_mul(seed), shift) as u32)
}

/// Two words as one, for keys that nobody chooses to collide.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    a.wrapping_mul(M1).wrapping_add(b.wrapping_mul(M2))
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
    last(addr.absorb(tail as u64, seed))
}

/// The secret key that is published.
#[inline(always)]
pub(crate) fn key(config: Shared<'_, Config>) -> [u64; 2] {
    const AT: usize = offset_of!(Config, hash_key);
    [config.load::<u64, AT>(), config.load::<u64, { AT + 8 }>()]
}

/// Hash of a client's flow to a service: `key` is [`crate::abi::Config::hash_key`], `seed` the VIP's. It is what a flow is known by, and its slot is
/// `hash >> shift` unless the service wants [`fields`]. The seed comes last, so that the hash is made while the service is still looked for.
#[inline(always)]
pub fn flow<A: Address>(tuple: &Tuple<A>, key: [u64; 2], seed: u64) -> u64 {
    let h = last(tuple.src.absorb(tuple.ports as u64, key[0]) ^ key[1]);
    in_order(h ^ (h >> 32)) ^ seed
}

/// What chooses the slot of a service that doesn't want all of the five-tuple to: `wanted` are its [`ServiceFlags`]. Exactly what is left goes in, so
/// services that leave out what tells them apart agree. Inlined, for a call would take its share of every packet's stack.
#[inline(always)]
pub fn fields<A: Address>(tuple: &Tuple<A>, proto: u8, key: [u64; 2], wanted: u16) -> u64 {
    // By arithmetic: each branch would be two ways for a verifier to follow.
    let keep = |any: u16| ((wanted >> any.trailing_zeros() & 1) as u64).wrapping_sub(1);
    let (src, dst) = (tuple.src.masked(keep(ServiceFlags::ANY_SOURCE)), tuple.dst.masked(keep(ServiceFlags::ANY_DESTINATION)));
    let of = ports(keep(ServiceFlags::ANY_SOURCE_PORT) as u16, keep(ServiceFlags::ANY_DESTINATION_PORT) as u16);
    let proto = proto & keep(ServiceFlags::ANY_PROTOCOL) as u8;
    reply_ports(reply_addresses(src, dst, key), tuple.ports & of, proto)
}

/// Hash of a reply: from the backend (`src`) to the source address of the translation (`dst`), `ports` accordingly.
#[inline(always)]
pub fn reply<A: Address>(tuple: &Tuple<A>, proto: u8, key: [u64; 2]) -> u64 {
    reply_ports(reply_addresses(tuple.src, tuple.dst, key), tuple.ports, proto)
}

/// The part of [`reply`] that is the same for all ports.
#[inline(always)]
pub(crate) fn reply_addresses<A: Address>(backend: A, source: A, key: [u64; 2]) -> u64 {
    A::absorb_two(backend, source, key[0]) ^ key[1]
}

#[inline(always)]
pub(crate) fn reply_ports(addresses: u64, ports: u32, proto: u8) -> u64 {
    last(step(addresses, ports as u64 | (proto as u64) << 32))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `hash`, over many inputs: how far from a half the chance is at worst that one of the upper 32 bits flips with one bit of the input.
    fn worst_bias(bits: u32, hash: impl Fn(u128) -> u64) -> f64 {
        const INPUTS: u64 = 4096;
        let mut worst: f64 = 0.0;
        for bit in 0..bits {
            let mut flips = [0_u64; 32];
            for i in 0..INPUTS {
                let input = u128::from(i.wrapping_mul(0x9e37_79b9)) | u128::from(i) << 64;
                let changed = hash(input) ^ hash(input ^ 1 << bit);
                (0..32).for_each(|out| flips[out] += changed >> (32 + out) & 1);
            }
            let far = flips.iter().map(|n| (*n as f64 / INPUTS as f64 - 0.5).abs());
            worst = far.fold(worst, f64::max);
        }
        worst
    }

    fn v4(input: u128) -> Tuple<V4> {
        Tuple { src: V4(input as u32), dst: V4((input >> 64) as u32), ports: (input >> 32) as u32 }
    }

    fn v6(input: u128) -> Tuple<V6> {
        Tuple { src: V6([input as u64, (input >> 64) as u64]), dst: V6([7, 9]), ports: 0x5000_1234 }
    }

    const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0x0f1e_2d3c_4b5a_6978];

    #[test]
    fn every_bit_of_a_flow_changes_half_of_the_hash() {
        // Of IPv4, what differs among the flows of a service: source address and port.
        assert!(worst_bias(48, |input| flow(&v4(input), KEY, 5)) < 0.05);
        assert!(worst_bias(96, |input| reply(&v4(input), 6, KEY)) < 0.05);
        assert!(worst_bias(128, |input| flow(&v6(input), KEY, 5)) < 0.05);
        assert!(worst_bias(128, |input| reply(&v6(input), 17, KEY)) < 0.05);
    }

    #[test]
    fn what_is_left_out_does_not_matter_and_all_else_does() {
        const ANY: [u16; 5] = [
            ServiceFlags::ANY_SOURCE,
            ServiceFlags::ANY_DESTINATION,
            ServiceFlags::ANY_SOURCE_PORT,
            ServiceFlags::ANY_DESTINATION_PORT,
            ServiceFlags::ANY_PROTOCOL,
        ];
        let other = |field: usize| {
            let (mut v4, mut v6, mut proto) = (v4(0x1234_5678_9abc_def0), v6(0x1234_5678_9abc_def0), 6);
            match field {
                0 => (v4.src, v6.src) = (V4(1), V6([1, 2])),
                1 => (v4.dst, v6.dst) = (V4(1), V6([1, 2])),
                2 => (v4.ports, v6.ports) = (v4.ports ^ 0x101, v6.ports ^ 0x101),
                3 => (v4.ports, v6.ports) = (v4.ports ^ 0x101_0000, v6.ports ^ 0x101_0000),
                4 => proto = 17,
                _ => {}
            }
            move |wanted| [fields(&v4, proto, KEY, wanted), fields(&v6, proto, KEY, wanted)]
        };
        for wanted in (0..32).map(|set| (0..5).filter(|i| set >> i & 1 == 1).map(|i| ANY[i]).sum::<u16>()) {
            for (field, any) in ANY.iter().enumerate() {
                let (was, is) = (other(5)(wanted), other(field)(wanted));
                assert!((0..2).all(|v| (was[v] >> 40 == is[v] >> 40) == (wanted & any != 0)), "{wanted:b} {field}");
            }
        }
        let one_source = |input: u128| fields(&v4(input), 6, KEY, ServiceFlags::FEWER_FIELDS & !ServiceFlags::ANY_SOURCE);
        assert!(worst_bias(32, one_source) < 0.05);
    }

    #[test]
    fn keys_and_seeds_matter() {
        let tuple = v4(0x1234_5678_9abc_def0);
        let all = [
            flow(&tuple, KEY, 5 << 40),
            flow(&tuple, KEY, 6 << 40),
            flow(&tuple, [KEY[0], 1], 5 << 40),
            flow(&tuple, [1, KEY[1]], 5 << 40),
            reply(&tuple, 6, KEY),
            reply(&tuple, 17, KEY),
            reply(&tuple, 6, [1, KEY[1]]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a >> 40 != b >> 40));
        }
    }
}
