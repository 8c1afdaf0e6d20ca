//! The kernel half of mesh: entry points over mesh-common.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod aside;
#[cfg(target_arch = "bpf")]
mod explain;
#[cfg(target_arch = "bpf")]
mod global;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod report;
#[cfg(target_arch = "bpf")]
mod rest;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use mesh_common::{
        account::{self, Exit},
        packet::Packet,
    };

    use crate::{
        maps::Maps,
        packet::{Skb, XdpFrame, redirect},
        report, rest,
    };

    /// The balancer where packets arrive, before the host has made anything of them. Compiled for packets as nearly all are; the rest takes one step more.
    #[xdp(frags)]
    #[inline(always)]
    pub fn mesh_xdp(ctx: XdpContext) -> u32 {
        let mut frame = XdpFrame::new(&ctx);
        match account::process_straight(&mut frame, &Maps) {
            Some(exit) => action(exit),
            None => {
                rest::leave(&ctx);
                action(account::lost(&frame, &Maps))
            }
        }
    }

    /// Takes packets of every kind that the other one leaves. Attached nowhere.
    #[xdp(frags)]
    #[inline(always)]
    pub fn mesh_xdp_rest(ctx: XdpContext) -> u32 {
        action(account::process_left(&mut XdpFrame::new(&ctx), &Maps, report::Rare))
    }

    #[inline(always)]
    fn action(exit: Exit) -> u32 {
        match exit {
            Exit::Pass => xdp_action::XDP_PASS,
            Exit::Drop => xdp_action::XDP_DROP,
            Exit::Transmit => xdp_action::XDP_TX,
            Exit::Redirect(ifindex) => redirect(ifindex) as u32,
        }
    }

    /// The balancer at TC ingress, for interfaces without native XDP. What isn't ours goes on to the filters behind.
    #[classifier]
    #[inline(always)]
    pub fn mesh_tc(ctx: TcContext) -> i32 {
        let mut skb = Skb::new(&ctx);
        match account::process(&mut skb, &Maps, report::Rare) {
            Exit::Pass => TC_ACT_UNSPEC,
            Exit::Drop => TC_ACT_SHOT,
            Exit::Transmit => redirect(skb.ifindex()),
            Exit::Redirect(ifindex) => redirect(ifindex),
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Nothing in the engine panics; the compiler wants the handler all the same, and the verifier would refuse a program that reached it.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
