//! An skb by its helpers: nothing here is hot enough to read packets in place. The one file with `unsafe` for packets.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_CURRENT_NETNS, bpf_adj_room_mode},
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_sk_release, bpf_skb_adjust_room, bpf_skb_load_bytes,
        bpf_skb_store_bytes, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
    },
    programs::TcContext,
};
use mesh_common::gue::Bytes;

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

    /// A 32-bit word of an IPv4 header was `from` and becomes `to`, as they lie in the packet.
    #[inline(always)]
    pub fn replace_word_in_l3_checksum(&self, offset: u32, from: [u8; 4], to: [u8; 4]) -> Option<()> {
        let (from, to) = (u32::from_ne_bytes(from) as u64, u32::from_ne_bytes(to) as u64);
        // SAFETY: as above.
        let error = unsafe { bpf_l3_csum_replace(self.skb, offset, from, to, size_of::<u32>() as u64) };
        (error == 0).then_some(())
    }

    /// Whether a TCP segment is of a connection of this namespace: there is a socket for it, established, half open or waiting for its time to pass, or who
    /// listens has sent its SYN cookie. `tuple`: source, destination and ports as in `bpf_sock_tuple`; `ip`, `tcp`: its headers without options.
    ///
    /// Who waits for its time to pass has heard all of its connection, and has only to answer what ends it once more (RFC 9293 section 3.10.7.4): any other
    /// segment is of the next one with these ports, which is somebody else's.
    #[inline(always)]
    pub fn has_socket<const TUPLE: usize, const IP: usize>(&self, tuple: [u8; TUPLE], ip: [u8; IP], tcp: [u8; 20]) -> bool {
        /// `TCP_TIME_WAIT` and `TCP_LISTEN` of Linux.
        const TIME_WAIT: u32 = 6;
        const LISTEN: u32 = 10;
        const FIN: u8 = 1;
        const RST: u8 = 4;
        let ends = tcp[13] & (FIN | RST) != 0;
        let (mut tuple, mut ip, mut tcp) = (Words(tuple), Words(ip), Words(tcp));
        let netns = BPF_F_CURRENT_NETNS as i64 as u64;
        // SAFETY: `skb` is the context that the kernel called with; there are TUPLE bytes, as many as one of the two families has.
        let socket = unsafe { bpf_skc_lookup_tcp(self.skb.cast(), tuple.0.as_mut_ptr().cast(), TUPLE as u32, netns, 0) };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the helper has answered with a socket, which is held until it is released below.
        let state = unsafe { (*socket).state };
        let (ip, tcp) = (ip.0.as_mut_ptr(), tcp.0.as_mut_ptr());
        let has = match state {
            // SAFETY: the socket is held; the headers are as long as is said.
            LISTEN => unsafe { bpf_tcp_check_syncookie(socket.cast(), ip.cast(), IP as u32, tcp.cast(), 20) == 0 },
            TIME_WAIT => ends,
            _ => true,
        };
        // SAFETY: it was held by the lookup, and is not used from here on.
        unsafe { bpf_sk_release(socket.cast()) };
        has
    }

    /// Sends the packet out of the interface that it came in by, to where the destination in its IP header leads; the action that says so.
    #[inline(always)]
    pub fn send_on(&self) -> i32 {
        // SAFETY: the helper takes numbers, and of the address of parameters that there are none.
        (unsafe { bpf_redirect_neigh(self.ifindex(), core::ptr::null_mut(), 0, 0) }) as i32
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        Self::load(self, offset)
    }
}
