#![cfg_attr(target_arch = "bpf", no_std, no_main)]
//! The driver of `cargo xtask bench packet`. No part of the product's object.
//!
//! Under `BPF_PROG_TEST_RUN` with a repeat count every invocation gets the packet as the one before left it. So the driver puts head and first
//! bytes back, stamps the flow, and tail-calls the program under test; it looks at the size that came out when it is called again.

#[cfg(target_arch = "bpf")]
mod driver;
#[allow(dead_code, reason = "the host's half of the bench uses the rest")]
mod run;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
