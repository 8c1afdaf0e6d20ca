//! Frames as the kernel hands them over: an XDP buffer, changed by stores, and a TC skb, changed by helpers. The one file with `unsafe` for packets.

mod list;
mod patch;

use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode, xdp_md,
    },
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_pull_data,
        bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_get_buff_len,
    },
    programs::{TcContext, XdpContext},
};
use mesh_common::{
    checksum,
    flow::{Address, V4, V6},
    packet::{Packet, PacketMut, u16_at, u32_at, u64_at},
    patch::Patch,
    rewrite::{Edit, Encap, Network, Outer, Rewrite, Translation, by_stores, checksum_offset},
    shared::in_order,
    tables::Tables,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::maps::Maps;

/// Sends the frame out of another interface when the program ends; the action that says so.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes numbers only.
    (unsafe { bpf_redirect(ifindex, 0) }) as i32
}

/// Addresses of the readable part of a frame. `start` and `end` stay valid until the program ends or calls a helper that moves packet data.
#[derive(Clone, Copy)]
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    /// Address of `N` bytes at `offset` that all lie within.
    #[inline(always)]
    fn at(self, offset: usize, n: usize) -> Option<usize> {
        let from = self.start + offset;
        if from + n > self.end {
            return None;
        }
        // SAFETY: a frame does not lie at address zero. (It would otherwise be compared with it: options of references are told by null.)
        unsafe { core::hint::assert_unchecked(from != 0) };
        Some(from)
    }
}

/// A frame in an XDP buffer.
pub struct XdpFrame {
    ctx: *mut xdp_md,
    linear: Linear,
}

impl XdpFrame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx, linear: Linear { start: ctx.data(), end: ctx.data_end() } }
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let from = self.linear.at(offset, N)?;
        // SAFETY: `Linear::at` checked that N bytes at `from` are the frame's; bytes need no alignment, and `&self` keeps `at_mut` away.
        Some(unsafe { &*(from as *const [u8; N]) })
    }

    #[inline(always)]
    fn size(&self) -> usize {
        // Computed each time that it is asked for: kept from one time to the next, it would take room on the stack all the way.
        in_order(self.linear.end as u64) as usize - self.linear.start
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        // SAFETY: `ctx` is the context that the kernel called with; the helper reads it.
        len <= self.size() || len as u64 <= unsafe { bpf_xdp_get_buff_len(self.ctx) }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: `ctx` is the context that the kernel called with.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}

impl PacketMut for XdpFrame {
    #[inline(always)]
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let from = self.linear.at(offset, N)?;
        // SAFETY: `Linear::at` checked that N bytes at `from` are the frame's; bytes need no alignment, and `&mut self` keeps others away.
        Some(unsafe { &mut *(from as *mut [u8; N]) })
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize) -> bool {
        // SAFETY: `ctx` is the context that the kernel called with; what it says of the frame is read anew before the frame is.
        let grown = unsafe { bpf_xdp_adjust_head(self.ctx, -(bytes as i32)) == 0 };
        // SAFETY: as above.
        self.linear = unsafe { Linear { start: (*self.ctx).data as usize, end: (*self.ctx).data_end as usize } };
        grown
    }
}

impl XdpFrame {
    /// The frame of a context.
    ///
    /// # Safety
    /// The kernel has called with `ctx`, and no address into the frame that was taken before is used any more.
    #[inline(always)]
    pub unsafe fn of(ctx: *mut xdp_md) -> Self {
        // SAFETY: the caller's promise.
        let linear = unsafe { Linear { start: (*ctx).data as usize, end: (*ctx).data_end as usize } };
        Self { ctx, linear }
    }

    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.ctx
    }
}

impl Rewrite for XdpFrame {
    #[inline(always)]
    fn rewrite(&mut self, room: usize, edit: impl FnOnce() -> Edit) -> bool {
        by_stores(self, room, edit)
    }
}

/// A frame in an skb. It may come from this node, with a partial checksum, segments still to be cut and its VLAN tag beside it: so what checksums
/// cover is changed by helpers, which keep all that in step.
pub struct Skb {
    skb: *mut __sk_buff,
    linear: Linear,
}

impl Skb {
    /// Headers are looked for in this many bytes.
    const HEADERS: u32 = 128;

    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        let len = ctx.len();
        let wanted = if len < Self::HEADERS { len } else { Self::HEADERS };
        if ctx.data() + (wanted as usize) > ctx.data_end() {
            // SAFETY: `skb` is the context that the kernel called with; no address into the packet was taken before. If the helper fails, what can
            // be read is what was there before.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
        }
        Self { skb: ctx.as_ptr().cast(), linear: Linear { start: ctx.data(), end: ctx.data_end() } }
    }

    /// The skb of a context, of which as many bytes can be read as the headers of an ICMP error take and those of the packet that it quotes.
    ///
    /// # Safety
    /// The kernel has called with `skb`, and no address into the packet that was taken before is used any more.
    #[inline(always)]
    pub unsafe fn of(skb: *mut __sk_buff) -> Self {
        let wanted = 2 * Self::HEADERS;
        // SAFETY: the caller's promise.
        unsafe {
            let len = (*skb).len;
            // If the helper fails, what can be read is what was there before.
            bpf_skb_pull_data(skb, if len < wanted { len } else { wanted });
        }
        let mut skb = Self { skb, linear: Linear { start: 0, end: 0 } };
        skb.renew();
        skb
    }

    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Looks again where the packet lies.
    #[inline(always)]
    fn renew(&mut self) {
        // SAFETY: `skb` is the context that the kernel called with.
        self.linear = unsafe { Linear { start: (*self.skb).data as usize, end: (*self.skb).data_end as usize } };
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N], flags: u64) -> Option<()> {
        // SAFETY: `skb` is the context that the kernel called with; `bytes` has N bytes; the helper checks the offset.
        let error = unsafe { bpf_skb_store_bytes(self.skb, offset as u32, bytes.as_ptr().cast(), N as u32, flags) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn add_to_l3_checksum(&mut self, offset: usize, delta: u32) -> Option<()> {
        // SAFETY: `skb` is the context that the kernel called with; the helper checks the offset.
        let error = unsafe { bpf_l3_csum_replace(self.skb, offset as u32, 0, delta as u64, 0) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn replace_in_l4_checksum(&mut self, offset: usize, from: u32, to: u32, flags: u64) -> Option<()> {
        // SAFETY: `skb` is the context that the kernel called with; the helper checks the offset.
        let error = unsafe { bpf_l4_csum_replace(self.skb, offset as u32, from as u64, to as u64, flags) };
        (error == 0).then_some(())
    }

    /// Ports and checksum; `addresses` is what the new addresses add to the sum below it.
    #[inline(always)]
    fn transport<A: Address>(&mut self, to: &Translation<A>, addresses: u64) -> Option<()> {
        const PORTS: u64 = size_of::<u32>() as u64;
        let old = u32_at::<0, _>(self.at::<4>(to.l4)?);
        let check = to.l4 + checksum_offset(to.tcp);
        let udp = if to.tcp { 0 } else { BPF_F_MARK_MANGLED_0 as u64 };
        // A partial checksum covers the addresses (the pseudo header) and not the ports: hence one step for each.
        self.replace_in_l4_checksum(check, 0, fold32(addresses), BPF_F_PSEUDO_HDR as u64 | udp)?;
        self.replace_in_l4_checksum(check, old, to.tuple.ports, PORTS | udp)?;
        self.store(to.l4, to.tuple.ports.to_ne_bytes(), 0)
    }

    #[inline(always)]
    fn ipv4(&mut self, to: &Translation<V4>) -> Option<()> {
        const TTL: usize = offset_of!(Ipv4Hdr, ttl);
        const SRC: usize = offset_of!(Ipv4Hdr, src_addr);
        let ip = self.at::<{ Ipv4Hdr::LEN }>(to.l3)?;
        let addresses = V4(u32_at::<SRC, _>(ip)).sum::<true>()
            + V4(u32_at::<{ SRC + 4 }, _>(ip)).sum::<true>()
            + to.tuple.src.sum::<false>()
            + to.tuple.dst.sum::<false>();
        let old = u16_at::<TTL, _>(ip);
        let new = old.wrapping_sub(1);
        self.transport(to, addresses)?;
        self.add_to_l3_checksum(to.l3 + offset_of!(Ipv4Hdr, check), fold32(addresses + (!old) as u64 + new as u64))?;
        self.store(to.l3 + TTL, new.to_ne_bytes(), 0)?;
        self.store(to.l3 + SRC, (to.tuple.src.0 as u64 | (to.tuple.dst.0 as u64) << 32).to_ne_bytes(), 0)
    }

    /// Where the device has summed up the whole packet, a change of the IPv6 header has to be told to that sum: no checksum of its own makes up for it.
    #[inline(always)]
    fn ipv6(&mut self, to: &Translation<V6>) -> Option<()> {
        const HOPS: usize = offset_of!(Ipv6Hdr, hop_limit);
        const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
        const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
        let ip = self.at::<{ Ipv6Hdr::LEN }>(to.l3)?;
        let src = V6([u64_at::<SRC, _>(ip), u64_at::<{ SRC + 8 }, _>(ip)]);
        let dst = V6([u64_at::<DST, _>(ip), u64_at::<{ DST + 8 }, _>(ip)]);
        let addresses = src.sum::<true>() + dst.sum::<true>() + to.tuple.src.sum::<false>() + to.tuple.dst.sum::<false>();
        // Two bytes, because the sum is of 16-bit words.
        let [next, hops] = u16_at::<{ HOPS - 1 }, _>(ip).to_ne_bytes();
        self.transport(to, addresses)?;
        self.store(to.l3 + HOPS - 1, [next, hops.wrapping_sub(1)], BPF_F_RECOMPUTE_CSUM as u64)?;
        self.store(to.l3 + SRC, to.tuple.src.addr().0, BPF_F_RECOMPUTE_CSUM as u64)?;
        self.store(to.l3 + DST, to.tuple.dst.addr().0, BPF_F_RECOMPUTE_CSUM as u64)
    }
}

impl Skb {
    /// The outer header, where the kernel keeps in step what it knows of the packet: protocol, offsets, segments still to be cut.
    #[inline(always)]
    fn encap(&mut self, encap: &Encap) -> Option<()> {
        let kind = if encap.udp.is_some() { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        // In memory of the map's and not on the stack, where the largest header would cost every packet its room.
        let room = Maps.quote()?;
        let put = |i, word| room.at_word(i).store::<u64, 0>(word);
        let (ip, family) = match encap.outer {
            Outer::V4 { src, dst, sum, .. } => {
                let [a, b, c] = encap.ipv4_words(src, dst, sum);
                put(0, a);
                put(1, b);
                put(2, c);
                (Ipv4Hdr::LEN, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
            }
            Outer::V6 { src, dst, .. } => {
                let [a, b, c, d, e] = encap.ipv6_words(src, dst);
                put(0, a);
                put(1, b);
                put(2, c);
                put(3, d);
                put(4, e);
                (Ipv6Hdr::LEN, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
            }
        };
        self.make_room(encap, kind | family)?;
        if !self.put_quote(encap.l3, ip, room) {
            return None;
        }
        if let Some(port) = encap.udp {
            let mut head = Words([0; UdpHdr::LEN]);
            encap.udp::<0, _>(&mut head.0, port);
            self.store(encap.l3 + ip, head.0, BPF_F_RECOMPUTE_CSUM as u64)?;
            self.list(encap, encap.l3 + ip + UdpHdr::LEN)?;
        }
        self.store(encap.l3 - size_of::<u16>(), encap.ether_type().to_ne_bytes(), 0)
    }

    #[inline(always)]
    fn make_room(&mut self, encap: &Encap, kind: u32) -> Option<()> {
        if encap.l3 != EthHdr::LEN {
            return self.make_room_behind_tags(encap);
        }
        // Whether segments fit was asked before: they stay as large as they are.
        let flags = (kind | BPF_F_ADJ_ROOM_FIXED_GSO) as u64;
        // SAFETY: `skb` is the context that the kernel called with; no address into the packet is used from here on.
        let error = unsafe { bpf_skb_adjust_room(self.skb, encap.room() as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) };
        (error == 0).then_some(())
    }
}

impl Skb {
    /// Room behind VLAN tags that stand in the bytes (of two tags the inner one does). The helper for outer headers refuses such packets; this one
    /// knows nothing of what it makes room for, so segments could not be cut any more.
    #[inline(always)]
    fn make_room_behind_tags(&mut self, encap: &Encap) -> Option<()> {
        const TAGS: usize = 12;
        let tags = u64_at::<0, _>(self.at::<8>(TAGS)?);
        if self.segment() != 0 {
            return None;
        }
        // SAFETY: `skb` is the context that the kernel called with; no address into the packet is used from here on.
        let error = unsafe { bpf_skb_change_head(self.skb, encap.room() as u32, 0) };
        if error != 0 {
            return None;
        }
        self.store(TAGS, tags.to_ne_bytes(), 0)
    }
}

/// Bytes on the stack, where a word has to be aligned.
#[repr(align(8))]
struct Words<const N: usize>([u8; N]);

/// A sum brought down to the 32 bits that the helpers take.
#[inline(always)]
fn fold32(sum: u64) -> u32 {
    checksum::fold(sum) as u32
}

impl Packet for Skb {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let from = self.linear.at(offset, N)?;
        // SAFETY: `Linear::at` checked that N bytes at `from` are the frame's. The helpers that move packet data take `&mut self`, so the reference
        // has ended before; after them the verifier refuses a read.
        Some(unsafe { &*(from as *const [u8; N]) })
    }

    #[inline(always)]
    fn size(&self) -> usize {
        // SAFETY: `skb` is the context that the kernel called with. (Volatile: read each time that it is asked for, for the same reason.)
        unsafe { (&raw const (*self.skb).len).read_volatile() as usize }
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        len <= self.size()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: `skb` is the context that the kernel called with.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        // SAFETY: `skb` is the context that the kernel called with.
        unsafe { (*self.skb).gso_size as usize }
    }
}

impl Rewrite for Skb {
    #[inline(always)]
    fn rewrite(&mut self, _: usize, edit: impl FnOnce() -> Edit) -> bool {
        let edit = edit();
        let network = match &edit.network {
            Network::Untouched => Some(()),
            Network::V4(to) => self.ipv4(to),
            Network::V6(to) => self.ipv6(to),
            Network::Encap(encap) => self.encap(encap),
        };
        let (first, rest) = edit.macs.words();
        network.is_some() && self.store(0, first.to_ne_bytes(), 0).is_some() && self.store(8, rest.to_ne_bytes(), 0).is_some()
    }
}
