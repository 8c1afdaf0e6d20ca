//! Views of a frame: what the engine may ask of the bytes of a packet, whoever holds them.

use crate::shared::in_order;

/// A frame from its Ethernet header on, readable where it is linear.
pub trait Packet {
    /// `N` bytes at `offset`, or `None` where the readable part ends before.
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Bytes of the frame; where they are in several buffers, possibly those of the first one only.
    fn size(&self) -> usize;

    /// The frame has at least `len` bytes, in however many buffers.
    fn holds(&self, len: usize) -> bool;

    /// Bytes of the frame as they are counted, if it has at least `len`: those of its first buffer, or, where that many are in several, `len`.
    #[inline(always)]
    fn counted(&self, len: usize) -> Option<usize> {
        let size = self.size();
        if len <= size {
            return Some(size);
        }
        core::hint::cold_path();
        self.holds(len).then_some(len)
    }

    /// Interface that the frame came in by.
    fn ifindex(&self) -> u32;

    /// Bytes of payload of each packet that this one stands for and will be cut into; 0 = it stands for itself.
    fn segment(&self) -> usize {
        0
    }
}

/// A view of a view: for those who only read.
impl<P: Packet> Packet for &P {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        (**self).at(offset)
    }

    #[inline(always)]
    fn size(&self) -> usize {
        (**self).size()
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        (**self).holds(len)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        (**self).ifindex()
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        (**self).segment()
    }
}

/// A frame that is changed by plain stores.
pub trait PacketMut: Packet {
    /// `N` bytes at `offset`, or `None` where the linear part ends before.
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Makes room for this many bytes at the front, whatever they are; offsets count from the new beginning. Whether there was room.
    #[must_use]
    fn grow(&mut self, bytes: usize) -> bool;
}

macro_rules! word_at {
    ($(#[$doc:meta])+ $name:ident, $word:ty) => {
        $(#[$doc])+
        #[inline(always)]
        pub fn $name<const AT: usize, const N: usize>(bytes: &[u8; N]) -> $word {
            const { assert!(AT + size_of::<$word>() <= N) };
            // By reference to all the bytes at once, which stays one load; gathered from single bytes it does not.
            match bytes.split_at(AT).1.first_chunk() {
                Some(word) => <$word>::from_ne_bytes(*word),
                None => 0,
            }
        }
    };
}

word_at!(
    /// Two bytes at `AT`, as they lie in memory.
    u16_at, u16
);
word_at!(
    /// Four bytes at `AT`, as they lie in memory.
    u32_at, u32
);
word_at!(
    /// Eight bytes at `AT`, as they lie in memory.
    u64_at, u64
);

/// Four bytes at `AT`, as they lie in memory, in two loads.
///
/// Who loads in one piece what this CPU has just stored in several waits until all of it is in the cache, and the next packet with it. Ports are stored
/// one by one, and frames are copied by aligned words, which headers lie across: they begin two bytes before.
#[inline(always)]
pub fn halves_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    let bytes: &[u8; 4] = part::<AT, 4, N>(bytes);
    let first = in_order(u64::from(u16_at::<0, _>(bytes)));
    first as u32 | u32::from(u16_at::<2, _>(bytes)) << 16
}

/// Sixteen bytes at `AT`, where an IPv6 header has an address, as two words; in loads as those of [`halves_at`].
#[inline(always)]
pub fn v6_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> [u64; 2] {
    let bytes: &[u8; 16] = part::<AT, 16, N>(bytes);
    let middle = u64_at::<2, _>(bytes);
    let first = in_order(u64::from(u16_at::<0, _>(bytes)));
    let second = in_order(middle >> 48 | u64::from(u16_at::<10, _>(bytes)) << 16);
    [first | middle << 16, second | u64::from(u32_at::<12, _>(bytes)) << 32]
}

/// `M` bytes at `AT`.
#[inline(always)]
fn part<const AT: usize, const M: usize, const N: usize>(bytes: &[u8; N]) -> &[u8; M] {
    const { assert!(AT + M <= N) };
    bytes.split_at(AT).1.first_chunk().unwrap_or(&[0; M])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_in_parts_is_what_lies_there() {
        let bytes: [u8; 40] = core::array::from_fn(|at| at as u8 + 1);
        assert_eq!(halves_at::<3, _>(&bytes), u32_at::<3, _>(&bytes));
        assert_eq!(v6_at::<8, _>(&bytes), [u64_at::<8, _>(&bytes), u64_at::<16, _>(&bytes)]);
        assert_eq!(v6_at::<24, _>(&bytes), [u64_at::<24, _>(&bytes), u64_at::<32, _>(&bytes)]);
    }
}
