use std::vec::Vec;

use crate::{
    aside::{self, Aside, Cause},
    packet::{Packet, PacketMut},
    patch::{Patch, Quote},
    rewrite::{Edit, Rewrite, by_stores},
    shared::Shared,
    tables::Tables,
};

/// A frame in a vector, where there is always room at the front.
#[derive(Debug)]
pub struct Frame<'a> {
    bytes: &'a mut Vec<u8>,
    ifindex: u32,
}

impl<'a> Frame<'a> {
    /// `ifindex`: the interface that it came in by.
    pub fn new(bytes: &'a mut Vec<u8>, ifindex: u32) -> Self {
        Self { bytes, ifindex }
    }
}

impl Packet for Frame<'_> {
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.get(offset..offset.checked_add(N)?)?.first_chunk()
    }

    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn holds(&self, len: usize) -> bool {
        self.bytes.len() >= len
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

impl PacketMut for Frame<'_> {
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..offset.checked_add(N)?)?.first_chunk_mut()
    }

    fn grow(&mut self, bytes: usize) -> bool {
        self.bytes.splice(0..0, core::iter::repeat_n(0, bytes));
        true
    }
}

impl Patch for Frame<'_> {
    fn patch<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> bool {
        self.at_mut::<N>(offset).map(|place| *place = bytes).is_some()
    }

    fn resize(&mut self, len: usize) -> bool {
        let old = self.bytes.len();
        self.bytes.resize(len, 0);
        old != 0
    }

    fn quote(&self, offset: usize, len: usize, to: Shared<'_, Quote>) -> bool {
        let Some(bytes) = self.bytes.get(offset..offset + len) else { return false };
        for (i, chunk) in bytes.chunks(size_of::<u64>()).enumerate() {
            let mut word = to.at_word(i).load::<u64, 0>().to_ne_bytes();
            word[..chunk.len()].copy_from_slice(chunk);
            to.at_word(i).store::<u64, 0>(u64::from_ne_bytes(word));
        }
        true
    }

    fn put_quote(&mut self, offset: usize, len: usize, from: Shared<'_, Quote>) -> bool {
        let Some(bytes) = self.bytes.get_mut(offset..offset + len) else { return false };
        for (i, chunk) in bytes.chunks_mut(size_of::<u64>()).enumerate() {
            chunk.copy_from_slice(&from.at_word(i).load::<u64, 0>().to_ne_bytes()[..chunk.len()]);
        }
        true
    }
}

impl<T: Tables> Aside<T> for Frame<'_> {
    fn aside(&mut self, tables: &T, cause: Cause) -> u64 {
        aside::take(self, tables, cause)
    }
}

impl Rewrite for Frame<'_> {
    fn rewrite(&mut self, room: usize, edit: impl FnOnce() -> Edit) -> bool {
        by_stores(self, room, edit)
    }
}
