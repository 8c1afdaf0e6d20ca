//! The backend's half of `tunnel`: outer headers come off at TC ingress, and at TC egress answers ask for segments that fit.
//!
//! An object of its own: a backend has none of the balancer's maps.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod arp;
#[cfg(target_arch = "bpf")]
mod chance;
#[cfg(target_arch = "bpf")]
mod decap;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod skb;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC},
        macros::classifier,
        programs::TcContext,
    };

    use crate::{
        answer, arp,
        decap::{self, Decapped},
        skb::Skb,
    };

    pub const ARP: u16 = 0x0806_u16.to_be();
    pub const IPV4: u16 = 0x0800_u16.to_be();
    pub const IPV6: u16 = 0x86dd_u16.to_be();

    /// What is decapsulated goes to the host and to no further filter: a balancer behind would take it for a client's packet.
    #[classifier]
    pub fn mesh_agent_in(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        let done = match skb.load::<2>(12).map(u16::from_ne_bytes) {
            Some(IPV4) => decap::ipv4(&skb),
            Some(IPV6) => decap::ipv6(&skb),
            Some(ARP) if arp::asks_for_vip(&skb) => Decapped::Refused,
            _ => Decapped::Not,
        };
        match done {
            Decapped::Done => TC_ACT_OK,
            Decapped::Refused => TC_ACT_SHOT,
            Decapped::PassedOn => skb.send_on(),
            Decapped::Not => TC_ACT_UNSPEC,
        }
    }

    #[classifier]
    pub fn mesh_agent_out(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        match skb.load::<2>(12).map(u16::from_ne_bytes) {
            Some(IPV4) => answer::ipv4(&skb),
            Some(IPV6) => answer::ipv6(&skb),
            Some(ARP) => arp::speak_for_oneself(&skb),
            _ => {}
        }
        TC_ACT_UNSPEC
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
