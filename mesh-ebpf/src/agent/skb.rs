//! An skb by its helpers: nothing here is hot enough to read packets in place. The one file with `unsafe` for packets.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode},
    helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};

/// A packet from its Ethernet header on.
pub struct Skb {
    skb: *mut __sk_buff,
}

/// Bytes on the stack, aligned for words.
#[repr(align(8))]
struct Words<const N: usize>([u8; N]);

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.as_ptr().cast() }
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: `skb` is the context that the kernel called with.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).len }
    }

    /// `N` bytes at `offset`; `None` where the packet ends before.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<Words<N>>::uninit();
        // SAFETY: `skb` is the context that the kernel called with; the helper writes N bytes where there is room for N.
        let error = unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        if error != 0 {
            return None;
        }
        // SAFETY: the helper has written all of it.
        Some(unsafe { bytes.assume_init() }.0)
    }

    /// Writes at `offset`; what the device has summed up is kept right by `RECOMPUTE` in `flags`.
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: u32, bytes: [u8; N], flags: u64) -> Option<()> {
        let words = Words(bytes);
        // SAFETY: `skb` is the context that the kernel called with; there are N bytes; the helper checks the offset.
        let error = unsafe { bpf_skb_store_bytes(self.skb, offset, words.0.as_ptr().cast(), N as u32, flags) };
        (error == 0).then_some(())
    }

    /// A 16-bit word of an IPv4 header was `from` and becomes `to`: its checksum, at `offset`.
    #[inline(always)]
    pub fn replace_in_l3_checksum(&self, offset: u32, from: u16, to: u16) -> Option<()> {
        // SAFETY: as above.
        let error = unsafe { bpf_l3_csum_replace(self.skb, offset, from as u64, to as u64, size_of::<u16>() as u64) };
        (error == 0).then_some(())
    }

    /// The same for a word of a TCP header.
    #[inline(always)]
    pub fn replace_in_l4_checksum(&self, offset: u32, from: u16, to: u16) -> Option<()> {
        // SAFETY: as above.
        let error = unsafe { bpf_l4_csum_replace(self.skb, offset, from as u64, to as u64, size_of::<u16>() as u64) };
        (error == 0).then_some(())
    }

    /// Takes `bytes` out behind the Ethernet header. `flags`: `DECAP` ones where the family changes.
    #[inline(always)]
    pub fn shrink(&self, bytes: u32, flags: u64) -> Option<()> {
        let flags = flags | BPF_F_ADJ_ROOM_FIXED_GSO as u64;
        // SAFETY: as above; no address into the packet is held.
        let error = unsafe { bpf_skb_adjust_room(self.skb, -(bytes as i32), bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) };
        (error == 0).then_some(())
    }
}
