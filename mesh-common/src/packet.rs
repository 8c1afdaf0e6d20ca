//! Views of a frame: what the engine may ask of the bytes of a packet, whoever holds them.

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
