//! Probes take the way of their service: sent to a backend's address by an ordinary socket, they leave as packets to the VIP, in the service's outer
//! header, and the VIP's answers come in as the backend's.
//!
//! An object of its own: the packet path pays nothing for it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod egress;
#[cfg(target_arch = "bpf")]
mod ingress;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod segment;
#[cfg(target_arch = "bpf")]
mod skb;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
        macros::classifier,
        programs::TcContext,
    };

    use crate::{
        egress::{self, Led},
        ingress,
        skb::Skb,
    };

    pub const IPV4: u16 = 0x0800_u16.to_be();
    pub const IPV6: u16 = 0x86dd_u16.to_be();

    /// A probe that can't be led is dropped: by another way it would tell of another way.
    #[classifier]
    pub fn mesh_probe_out(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        let led = match skb.load::<u16>(12) {
            Some(IPV4) => egress::ipv4(&skb),
            Some(IPV6) => egress::ipv6(&skb),
            _ => Led::Not,
        };
        match led {
            Led::Not | Led::Done => TC_ACT_UNSPEC,
            Led::Lost => TC_ACT_SHOT,
        }
    }

    #[classifier]
    pub fn mesh_probe_in(ctx: TcContext) -> i32 {
        let skb = Skb::new(&ctx);
        // What can't be changed is nobody's answer, and the host drops it.
        let _ = match skb.load::<u16>(12) {
            Some(IPV4) => ingress::ipv4(&skb),
            Some(IPV6) => ingress::ipv6(&skb),
            _ => None,
        };
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
