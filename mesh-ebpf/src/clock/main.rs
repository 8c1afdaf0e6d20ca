//! Reads the kernel's two cheap clocks side by side. An object of its own: what it tells is set in the packet path's before that is loaded.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        bindings::xdp_action,
        helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
        macros::{map, xdp},
        maps::Array,
        programs::XdpContext,
    };
    use mesh_common::abi::clock::ClockReading;

    #[map]
    static READING: Array<ClockReading> = Array::with_max_entries(1, 0);

    /// Is attached nowhere, and takes no packet.
    #[xdp]
    pub fn mesh_clock(_: XdpContext) -> u32 {
        // SAFETY: the helpers only read clocks.
        let reading = unsafe { ClockReading { jiffies: bpf_jiffies64(), nanoseconds: bpf_ktime_get_coarse_ns() } };
        if READING.set(0, reading, 0).is_ok() { xdp_action::XDP_PASS } else { xdp_action::XDP_ABORTED }
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
