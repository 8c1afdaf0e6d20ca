//! The search table of VIPs: a perfect hash, so that a packet looks at one entry.
//!
//! Few keys stand where the upper bits of a product say (multiply-shift): factors are tried until no two keys meet. Of many keys some always would: those fall
//! into buckets; each bucket has a displacement, found by trying, with which its keys stand at positions that are free (hash and displace, Belazzougui,
//! Botelho and Dietzfelbinger 2009).

use mesh_common::{
    abi::{Config, DISPLACEMENTS, Vip, VipHalf, VipKey},
    hash,
};

use super::image::{Image, words_of};

/// Seeds to try. One fails where two keys of a bucket coincide: rarely, and with 60,000 VIPs four times of five.
const SEEDS: u64 = 64;
/// Keys that are placed without displacements, at most, and factors to try: of those three in five do where there is room for the square of the keys, and one in
/// three thousand for 256 keys in a table of default size.
const FEW: usize = 256;
const FACTORS: u64 = 2048;
/// Keys of a bucket, about.
const BUCKET: usize = 4;
const MIN_POSITIONS: usize = 16;
const NOBODY: u32 = u32::MAX;

/// Where each key of a half stands.
#[derive(Clone, Debug)]
pub struct Index {
    pub half: VipHalf,
    pub displacements: Vec<u16>,
    /// By key as given: its entry in the VIP map.
    pub positions: Vec<u32>,
}

/// All that one half of the VIP map is rewritten with.
#[derive(Clone, Debug)]
pub struct VipTable {
    /// 0 or 1.
    pub number: u32,
    pub half: VipHalf,
    pub displacements: Vec<u16>,
    /// From `half.base` on.
    pub entries: Vec<Vip>,
}

/// Positions that a half of the VIP map must have for `services` services: each has an entry of its own, and one for its address.
pub fn half_size(services: u32) -> u32 {
    positions_for(2 * services as usize) as u32
}

/// Finds a place for each of `keys`, all different, in the half that begins at `base` and has `size` positions. `None` = they don't fit.
pub fn build(keys: &[VipKey], base: u32, size: u32) -> Option<Index> {
    let positions = positions_for(keys.len());
    let buckets = keys.len().div_ceil(BUCKET).next_power_of_two().clamp(2, DISPLACEMENTS);
    if positions > size as usize {
        return None;
    }
    let half = VipHalf { seed: 0, mask: (positions - 1) as u32, displacement_mask: (buckets - 1) as u32, base, ..VipHalf::default() };
    let displaced = || (1..=SEEDS).find_map(|i| place_all(keys, VipHalf { seed: seed(i), ..half }));
    place_few(keys, base, size).or_else(displaced)
}

fn seed(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A half that asks for no displacement.
fn place_few(keys: &[VipKey], base: u32, size: u32) -> Option<Index> {
    if keys.len() > FEW {
        return None;
    }
    let positions = (keys.len() * keys.len()).next_power_of_two().max(MIN_POSITIONS).min(size as usize);
    let mut taken = vec![0; positions];
    (1..=FACTORS).find_map(|i| {
        let half = VipHalf::plain(seed(i), positions as u32, base);
        let mut place = |key| {
            let at = hash::plain_position(key, &half);
            let before = std::mem::replace(taken.get_mut((at - base) as usize)?, i);
            (before != i).then_some(at)
        };
        let positions = keys.iter().map(&mut place).collect::<Option<_>>()?;
        Some(Index { half, displacements: Vec::new(), positions })
    })
}

impl VipTable {
    /// Writes the half, which no packet searches.
    pub fn write(&self, image: &Image) {
        for (at, entry) in (self.half.base as usize..).zip(&self.entries) {
            image.vips.set(at, entry);
        }
        let number = self.number as usize;
        let displacements = std::mem::offset_of!(Config, displacements) + number * DISPLACEMENTS * 2;
        let words = self.displacements.chunks(4).map(|four| four.iter().rev().fold(0, |word, d| word << 16 | u64::from(*d)));
        image.config.set_run(0, displacements / 8, words);
        let half = std::mem::offset_of!(Config, halves) + number * size_of::<VipHalf>();
        image.config.set_run(0, half / 8, words_of(&self.half));
    }
}

/// How half `number` is searched, as the image has it.
pub fn half_of(image: &Image, number: u32) -> VipHalf {
    let at = std::mem::offset_of!(Config, halves) + number as usize * size_of::<VipHalf>();
    let mut half = VipHalf::default();
    for (bytes, word) in bytemuck::bytes_of_mut(&mut half).chunks_exact_mut(8).zip(image.config.run(0, at / 8, size_of::<VipHalf>() / 8)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    half
}

fn positions_for(keys: usize) -> usize {
    (2 * keys).next_power_of_two().max(MIN_POSITIONS)
}

fn place_all(keys: &[VipKey], half: VipHalf) -> Option<Index> {
    let hashes: Vec<u64> = keys.iter().map(|key| hash::vip_hash(key, half.seed)).collect();
    let mut buckets = vec![Vec::<u32>::new(); half.displacement_mask as usize + 1];
    for (key, &h) in (0..).zip(&hashes) {
        buckets.get_mut(hash::displacement_index(h, half.displacement_mask) as usize)?.push(key);
    }
    let mut order: Vec<usize> = (0..buckets.len()).filter(|b| !buckets[*b].is_empty()).collect();
    order.sort_by_key(|b| std::cmp::Reverse(buckets[*b].len()));

    let mut index = Index { half, displacements: vec![0; buckets.len()], positions: vec![NOBODY; keys.len()] };
    let mut taken = vec![false; half.mask as usize + 1];
    for bucket in order {
        place_bucket(&buckets[bucket], bucket, &hashes, &mut taken, &mut index)?;
    }
    Some(index)
}

fn place_bucket(members: &[u32], bucket: usize, hashes: &[u64], taken: &mut [bool], index: &mut Index) -> Option<()> {
    let last = u16::try_from(index.half.mask).unwrap_or(u16::MAX);
    'displacement: for displacement in 0..=last {
        for (done, &key) in members.iter().enumerate() {
            let at = hash::position(hashes[key as usize], &index.half, displacement);
            let place = (at - index.half.base) as usize;
            if taken[place] {
                for &key in &members[..done] {
                    taken[(index.positions[key as usize] - index.half.base) as usize] = false;
                }
                continue 'displacement;
            }
            taken[place] = true;
            index.positions[key as usize] = at;
        }
        index.displacements[bucket] = displacement;
        return Some(());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Instant};

    use mesh_common::abi::{Addr, Family};

    use super::*;

    fn keys(n: u32) -> Vec<VipKey> {
        let v4 = |i: u32| VipKey {
            addr: Addr::v4((0x0a00_0000 + i / 4).to_be_bytes()),
            port: [0, (i % 4) as u8 + 80],
            proto: 6,
            family: Family::V4 as u8,
        };
        let v6 =
            |i: u32| VipKey { addr: Addr::v6((0x2001_0db8_u128 << 96 | u128::from(i)).to_be_bytes()), family: Family::V6 as u8, ..v4(i) };
        (0..n).map(|i| if i % 3 == 0 { v6(i) } else { v4(i) }).collect()
    }

    #[test]
    fn every_key_has_a_place_of_its_own_where_it_is_searched() {
        for n in [0, 1, 2, 3, 17, 100, 1000, 10_000] {
            let keys = keys(n);
            let base = 5 * half_size(n);
            let index = build(&keys, base, half_size(n)).unwrap();
            assert_eq!(index.positions.iter().collect::<HashSet<_>>().len(), keys.len());
            for (key, &at) in keys.iter().zip(&index.positions) {
                assert_eq!(hash::vip_position(key, &index.half, |i| index.displacements[i as usize]), at);
                assert!(at >= base && at - base < half_size(n));
            }
            assert_eq!(index.half.is_plain(), n <= 100, "{n}");
        }
    }

    #[test]
    fn sixty_thousand_vips_fit() {
        let keys = keys(120_000);
        let start = Instant::now();
        let index = build(&keys, 0, half_size(60_000)).unwrap();
        println!("60,000 VIPs in {:?}", start.elapsed());
        assert_eq!(index.positions.iter().collect::<HashSet<_>>().len(), 120_000);
        assert!(build(&keys, 0, half_size(60_000) / 2).is_none());
    }
}
