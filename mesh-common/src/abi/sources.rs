use bytemuck::{Pod, Zeroable};

use super::Addr;

/// Prefixes of all lists together.
pub const SOURCE_PREFIXES: u32 = 1 << 16;

/// One prefix of a list of sources, as the trie has it: the longest that a source is in says what becomes of it. A source that a list says nothing of is denied:
/// a whole list says something of everybody.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct SourcePrefix {
    /// Bits of `key` that count: those of the list's number, and then the prefix's own.
    pub bits: u32,
    /// The list's number, and the address as it lies in memory.
    pub key: [u32; 5],
    /// [`SourcePrefix::ALLOWED`] or [`SourcePrefix::DENIED`].
    pub verdict: u32,
}

impl SourcePrefix {
    pub const ALLOWED: u32 = 1;
    pub const DENIED: u32 = 2;
    /// Bits of a list's number.
    pub const LIST_BITS: u32 = 32;
    /// All bits of a key.
    pub const KEY_BITS: u32 = Self::LIST_BITS + 128;

    /// `bits` of `addr`, in list `list`.
    pub fn new(list: u32, addr: Addr, bits: u8, verdict: u32) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
        let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes);
        Self { bits: Self::LIST_BITS + bits as u32, key: [list, words[0], words[1], words[2], words[3]], verdict }
    }

    /// What a source is searched by. `source`: its address in two words, as the engine has it.
    #[inline(always)]
    pub const fn key(list: u32, source: [u64; 2]) -> [u32; 5] {
        let [first, second] = source;
        if cfg!(target_endian = "little") {
            [list, first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32]
        } else {
            [list, (first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32]
        }
    }

    /// The verdict of the longest of `prefixes` that has `key`, as the kernel's trie finds it; 0 = none has.
    pub fn longest(prefixes: &[Self], key: &[u32; 5]) -> u32 {
        let has = |prefix: &&Self| {
            let differ = |at: usize| (key[at] ^ prefix.key[at]).to_be();
            let left = prefix.bits.saturating_sub(Self::LIST_BITS);
            key[0] == prefix.key[0]
                && (1u32..5).all(|at| {
                    let bits = left.saturating_sub((at - 1) * 32).min(32);
                    bits == 0 || differ(at as usize) >> (32 - bits) == 0
                })
        };
        prefixes.iter().filter(has).max_by_key(|prefix| prefix.bits).map_or(0, |prefix| prefix.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_says() {
        let list = [
            SourcePrefix::new(7, Addr::v4([0; 4]), 0, SourcePrefix::DENIED),
            SourcePrefix::new(7, Addr::v4([10, 0, 0, 0]), 8, SourcePrefix::ALLOWED),
            SourcePrefix::new(7, Addr::v4([10, 1, 128, 0]), 17, SourcePrefix::DENIED),
            SourcePrefix::new(7, Addr::v4([10, 1, 128, 9]), 32, SourcePrefix::ALLOWED),
        ];
        let of = |list_number, octets: [u8; 4]| {
            let source = [u64::from_ne_bytes([octets[0], octets[1], octets[2], octets[3], 0, 0, 0, 0]), 0];
            SourcePrefix::longest(&list, &SourcePrefix::key(list_number, source))
        };
        assert_eq!(of(7, [11, 0, 0, 1]), SourcePrefix::DENIED);
        assert_eq!(of(7, [10, 1, 127, 255]), SourcePrefix::ALLOWED);
        assert_eq!(of(7, [10, 1, 255, 1]), SourcePrefix::DENIED);
        assert_eq!(of(7, [10, 1, 128, 9]), SourcePrefix::ALLOWED);
        assert_eq!(of(8, [10, 1, 128, 9]), 0);
    }
}
