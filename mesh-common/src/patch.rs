//! Changes of a frame piece by piece: slow, and enough for packets that are rare.

use bytemuck::{Pod, Zeroable};

use crate::{packet::Packet, shared::Shared};

/// Bytes of a packet that an error about it quotes at most.
pub const QUOTE: usize = 256;

/// Room for what an answer quotes, this CPU's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Quote {
    pub words: [u64; QUOTE / 8],
}

impl Default for Quote {
    fn default() -> Self {
        Self::zeroed()
    }
}

/// A frame that can be changed anywhere. What was read of it before a change is not looked at again without being read again.
pub trait Patch: Packet {
    /// Overwrites `N` bytes at `offset`; whether they are there.
    #[must_use]
    fn patch<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> bool;

    /// Cuts the frame to `len` bytes or grows it to them; whether that could be done. Bytes that come to it are zero.
    #[must_use]
    fn resize(&mut self, len: usize) -> bool;

    /// Copies `len` bytes, 1 to [`QUOTE`], from `offset` on; whether they are there.
    #[must_use]
    fn quote(&self, offset: usize, len: usize, to: Shared<'_, Quote>) -> bool;

    /// Puts `len` bytes of a quote, 1 to [`QUOTE`], at `offset`; whether there is room.
    #[must_use]
    fn put_quote(&mut self, offset: usize, len: usize, from: Shared<'_, Quote>) -> bool;
}
