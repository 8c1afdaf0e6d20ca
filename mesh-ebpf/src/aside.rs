//! Packets that are set aside: global functions, which the verifier follows once, and not from each place and state that they are called from.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use mesh_common::aside::{self, Aside, Cause, Desk};

use crate::{
    maps::Maps,
    packet::{Skb, XdpFrame},
};

macro_rules! desks {
    ($($name:ident: $frame:ty, $context:ty, $take:path;)+) => { $(
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(ctx: *mut $context, cause: u64) -> u64 {
            // SAFETY: the kernel called with this context, and the caller makes no more use of the frame.
            let mut frame = unsafe { <$frame>::of(ctx) };
            $take(&mut frame, &Maps, Cause::from_word(cause))
        }
    )+ };
}

desks! {
    mesh_xdp_icmp: XdpFrame, xdp_md, aside::take_icmp;
    mesh_xdp_answer: XdpFrame, xdp_md, aside::take_answer;
    mesh_tc_icmp: Skb, __sk_buff, aside::take_icmp;
    mesh_tc_answer: Skb, __sk_buff, aside::take_answer;
}

impl Aside<Maps> for XdpFrame {
    #[inline(always)]
    fn aside(&mut self, _: &Maps, cause: Cause) -> u64 {
        let (ctx, word) = (self.context(), cause.word());
        match cause.desk() {
            Desk::Icmp => mesh_xdp_icmp(ctx, word),
            Desk::Answer => mesh_xdp_answer(ctx, word),
        }
    }
}

impl Aside<Maps> for Skb {
    #[inline(always)]
    fn aside(&mut self, _: &Maps, cause: Cause) -> u64 {
        let (skb, word) = (self.context(), cause.word());
        match cause.desk() {
            Desk::Icmp => mesh_tc_icmp(skb, word),
            Desk::Answer => mesh_tc_answer(skb, word),
        }
    }
}
