//! Views of a frame: what the engine may ask of the bytes of a packet, whoever holds them.

/// A frame from its Ethernet header on, readable where it is linear.
pub trait Packet {
    /// `N` bytes at `offset`, or `None` where the readable part ends before.
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Bytes of the frame; where they are in several buffers, possibly those of the first one only.
    fn size(&self) -> usize;

    /// The frame has at least `len` bytes, in however many buffers.
    fn holds(&self, len: usize) -> bool;

    /// Interface that the frame came in by.
    fn ifindex(&self) -> u32;
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
}

/// A frame that is changed by plain stores.
pub trait PacketMut: Packet {
    /// `N` bytes at `offset`, or `None` where the linear part ends before.
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;
}

/// Four bytes at `AT`, as they lie in memory.
#[inline(always)]
pub fn u32_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(AT + 4 <= N) };
    u32::from_ne_bytes([bytes[AT], bytes[AT + 1], bytes[AT + 2], bytes[AT + 3]])
}

/// Two bytes at `AT`, as they lie in memory.
#[inline(always)]
pub fn u16_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u16 {
    const { assert!(AT + 2 <= N) };
    u16::from_ne_bytes([bytes[AT], bytes[AT + 1]])
}

/// Eight bytes at `AT`, as they lie in memory.
#[inline(always)]
pub fn u64_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u64 {
    const { assert!(AT + 8 <= N) };
    let b = bytes;
    u64::from_ne_bytes([b[AT], b[AT + 1], b[AT + 2], b[AT + 3], b[AT + 4], b[AT + 5], b[AT + 6], b[AT + 7]])
}
