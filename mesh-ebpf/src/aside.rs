//! Packets that are set aside: global functions, which the verifier follows once, and not from each place and state that they are called from.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use mesh_common::{
    aside::{self, Aside, Cause, Desk},
    fragment::{self, Steps},
};

use crate::{
    global::{mesh_complete_course, mesh_recall_course, mesh_remember_course},
    maps::Maps,
    packet::{Skb, XdpFrame},
};

macro_rules! desks {
    ($($name:ident: $frame:ty, $context:ty, $take:path;)+) => { $(
        #[unsafe(no_mangle)]
        #[cold]
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
    mesh_xdp_look: XdpFrame, xdp_md, look;
    mesh_xdp_carry: XdpFrame, xdp_md, aside::carry_fragment;
    mesh_tc_icmp: Skb, __sk_buff, aside::take_icmp;
    mesh_tc_answer: Skb, __sk_buff, aside::take_answer;
    mesh_tc_look: Skb, __sk_buff, look;
    mesh_tc_carry: Skb, __sk_buff, aside::carry_fragment;
}

#[inline(always)]
fn look<P: mesh_common::packet::Packet>(packet: &mut P, tables: &Maps, cause: Cause) -> u64 {
    aside::look_at_fragment(packet, tables, cause)
}

/// The steps of a fragment, each a function of its own.
macro_rules! steps {
    ($($name:ident: $steps:ident, $context:ty, $look:ident, $carry:ident, $answer:ident;)+) => { $(
        struct $steps(*mut $context);

        impl Steps for $steps {
            #[inline(always)]
            fn look(&mut self, cause: u64) -> u64 {
                $look(self.0, cause)
            }

            #[inline(always)]
            fn complete(&mut self, answer: u64) -> u64 {
                mesh_complete_course(answer)
            }

            #[inline(always)]
            fn remember(&mut self) {
                mesh_remember_course();
            }

            #[inline(always)]
            fn recall(&mut self) -> bool {
                mesh_recall_course() != 0
            }

            #[inline(always)]
            fn carry(&mut self, cause: u64) -> u64 {
                $carry(self.0, cause)
            }

            #[inline(always)]
            fn answer(&mut self, cause: u64) -> u64 {
                $answer(self.0, cause)
            }
        }

        #[unsafe(no_mangle)]
        #[cold]
        #[inline(never)]
        extern "C" fn $name(ctx: *mut $context, cause: u64) -> u64 {
            fragment::take($steps(ctx), &Maps, Cause::from_word(cause))
        }
    )+ };
}

steps! {
    mesh_xdp_fragment: XdpSteps, xdp_md, mesh_xdp_look, mesh_xdp_carry, mesh_xdp_answer;
    mesh_tc_fragment: TcSteps, __sk_buff, mesh_tc_look, mesh_tc_carry, mesh_tc_answer;
}

impl Aside<Maps> for XdpFrame {
    #[inline(always)]
    fn aside(&mut self, _: &Maps, cause: Cause) -> u64 {
        let (ctx, word) = (self.context(), cause.word());
        match cause.desk() {
            Desk::Icmp => mesh_xdp_icmp(ctx, word),
            Desk::Answer => mesh_xdp_answer(ctx, word),
            Desk::Fragment => mesh_xdp_fragment(ctx, word),
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
            Desk::Fragment => mesh_tc_fragment(skb, word),
        }
    }
}
