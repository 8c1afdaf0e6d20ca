//! Changes of a frame piece by piece, for packets that are set aside.

use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::generated::{
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
        bpf_xdp_store_bytes,
    },
};
use mesh_common::{
    packet::PacketMut,
    patch::{Patch, QUOTE, Quote},
    shared::{self, Shared},
};

use super::{Skb, XdpFrame};

impl Patch for XdpFrame {
    #[inline(always)]
    fn patch<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> bool {
        let Some(place) = self.at_mut::<N>(offset) else { return false };
        *place = bytes;
        true
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> bool {
        // SAFETY: `ctx` is the context that the kernel called with; the frame is read anew below.
        let delta = len as i64 - unsafe { bpf_xdp_get_buff_len(self.ctx) } as i64;
        // SAFETY: as above.
        let done = unsafe { bpf_xdp_adjust_tail(self.ctx, delta as i32) } == 0;
        // SAFETY: no address into the frame is kept over a call of this.
        *self = unsafe { Self::of(self.ctx) };
        done
    }

    #[inline(always)]
    fn quote(&self, offset: usize, len: usize, to: Shared<'_, Quote>) -> bool {
        let len = masked_len(len);
        // SAFETY: the room has QUOTE bytes, which `len` does not exceed; the helper checks the rest.
        let error = unsafe { bpf_xdp_load_bytes(self.ctx, offset as u32, to.place().as_ptr().cast(), len) };
        error == 0
    }

    #[inline(always)]
    fn put_quote(&mut self, offset: usize, len: usize, from: Shared<'_, Quote>) -> bool {
        let len = masked_len(len);
        // SAFETY: the room has QUOTE bytes, which `len` does not exceed; the helper checks the rest.
        let error = unsafe { bpf_xdp_store_bytes(self.ctx, offset as u32, from.place().as_ptr().cast(), len) };
        error == 0
    }
}

impl Patch for Skb {
    #[inline(always)]
    fn patch<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> bool {
        let done = self.store(offset, bytes, BPF_F_RECOMPUTE_CSUM as u64).is_some();
        self.renew();
        done
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> bool {
        // SAFETY: `skb` is the context that the kernel called with; the packet is looked at anew below.
        let done = unsafe { bpf_skb_change_tail(self.skb, len as u32, 0) } == 0;
        self.renew();
        done
    }

    #[inline(always)]
    fn quote(&self, offset: usize, len: usize, to: Shared<'_, Quote>) -> bool {
        let len = masked_len(len);
        // SAFETY: the room has QUOTE bytes, which `len` does not exceed; the helper checks the rest.
        let error = unsafe { bpf_skb_load_bytes(self.skb.cast(), offset as u32, to.place().as_ptr().cast(), len) };
        error == 0
    }

    #[inline(always)]
    fn put_quote(&mut self, offset: usize, len: usize, from: Shared<'_, Quote>) -> bool {
        let len = masked_len(len);
        // SAFETY: the room has QUOTE bytes, which `len` does not exceed; the helper checks the rest.
        let done =
            unsafe { bpf_skb_store_bytes(self.skb, offset as u32, from.place().as_ptr().cast(), len, BPF_F_RECOMPUTE_CSUM as u64) } == 0;
        self.renew();
        done
    }
}

/// A length from 1 to [`QUOTE`], as a verifier of any age can see: those before 6.18 lose a lower bound that is told by a comparison.
#[inline(always)]
fn masked_len(len: usize) -> u32 {
    shared::below::<{ QUOTE as i32 - 1 }>((len as u64).wrapping_sub(1)) as u32 + 1
}
