//! A probe's skb by its helpers, which keep checksums right that the device is to finish. The one file with `unsafe` for packets.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_MARK_MANGLED_0,
        BPF_F_PSEUDO_HDR, bpf_adj_room_mode,
    },
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};

/// `BPF_F_IPV6` (Linux 6.16): the sum that the device has made of the whole packet stays as it is, for an IPv6 address and its place in the checksum
/// cancel out.
const IPV6: u64 = 1 << 7;

/// A packet from its Ethernet header on.
pub struct Skb {
    skb: *mut __sk_buff,
}

/// What can be copied out of a packet and into it: words, and rows of them. Bytes the compiler would move at places that no verifier takes.
pub trait Word: Copy {}

impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}
impl Word for [u64; 2] {}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.as_ptr().cast() }
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: `skb` is the context that the kernel called with.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    pub fn priority(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).priority }
    }

    #[inline(always)]
    pub fn clear_priority(&self) {
        // SAFETY: as above; a classifier may write this field.
        unsafe { (*self.skb).priority = 0 }
    }

    /// What is at `offset`, as it lies there; `None` where the packet ends before.
    #[inline(always)]
    pub fn load<W: Word>(&self, offset: u32) -> Option<W> {
        let mut word = MaybeUninit::<W>::uninit();
        // SAFETY: `skb` is the context that the kernel called with; the helper writes as many bytes as there is room for.
        let error = unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, word.as_mut_ptr().cast(), size_of::<W>() as u32) };
        if error != 0 {
            return None;
        }
        // SAFETY: the helper has written all of it, and any bytes are a `Word`.
        Some(unsafe { word.assume_init() })
    }

    #[inline(always)]
    pub fn store<W: Word>(&self, offset: u32, word: W) -> Option<()> {
        // SAFETY: `skb` is the context that the kernel called with; the helper reads the word, and checks the offset.
        let error = unsafe { bpf_skb_store_bytes(self.skb, offset, (&raw const word).cast(), size_of::<W>() as u32, 0) };
        (error == 0).then_some(())
    }

    /// An IPv4 address `from` becomes `to`: the header's checksum, at `offset`.
    #[inline(always)]
    pub fn replace_in_l3_checksum(&self, offset: u32, from: u32, to: u32) -> Option<()> {
        // SAFETY: as above.
        let error = unsafe { bpf_l3_csum_replace(self.skb, offset, from as u64, to as u64, size_of::<u32>() as u64) };
        (error == 0).then_some(())
    }

    /// The same address in the checksum of a transport header. A UDP checksum of 0 is none, and stays so.
    #[inline(always)]
    pub fn replace_v4(&self, offset: u32, from: u32, to: u32) -> Option<()> {
        let flags = (BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) as u64 | size_of::<u32>() as u64;
        // SAFETY: as above.
        let error = unsafe { bpf_l4_csum_replace(self.skb, offset, from as u64, to as u64, flags) };
        (error == 0).then_some(())
    }

    /// The same for an IPv6 address.
    #[inline(always)]
    pub fn replace_v6(&self, offset: u32, mut from: [u64; 2], mut to: [u64; 2], udp: bool) -> Option<()> {
        // SAFETY: both are 16 bytes on the stack, aligned for words; the helper only reads.
        let sum = unsafe { bpf_csum_diff(from.as_mut_ptr().cast(), 16, to.as_mut_ptr().cast(), 16, 0) };
        if sum < 0 {
            return None;
        }
        let flags = BPF_F_PSEUDO_HDR as u64 | if udp { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        // SAFETY: as above. A kernel that doesn't know the flag changes nothing.
        let known = unsafe { bpf_l4_csum_replace(self.skb, offset, 0, sum as u64, flags | IPV6) };
        if known == 0 {
            return Some(());
        }
        // SAFETY: as above.
        let error = unsafe { bpf_l4_csum_replace(self.skb, offset, 0, sum as u64, flags) };
        (error == 0).then_some(())
    }

    /// Makes room for an outer header behind the Ethernet header.
    #[inline(always)]
    pub fn grow(&self, bytes: usize, v6: bool, udp: bool) -> Option<()> {
        let l3 = if v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let flags = l3 | if udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        // SAFETY: as above; no address into the packet is held.
        let error = unsafe { bpf_skb_adjust_room(self.skb, bytes as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags as u64) };
        (error == 0).then_some(())
    }
}
