//! What time it is. Set before the object is loaded, and so no question any more to the verifier.

use aya_ebpf::{
    Global,
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
};
use mesh_common::abi::NatConfig;

/// A tick that the clock stands still at; 0 = it goes. In a section of its own, as those below, because the compiler may otherwise use the same place for a
/// literal.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.still")]
static STILL: Global<u32> = Global::new(0);
/// Nanoseconds of a jiffy; 0 = not known.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.jiffy")]
static JIFFY: Global<u64> = Global::new(0);
/// What the coarse clock said at jiffy 0, in nanoseconds; it wraps around.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.jiffy_zero")]
static JIFFY_ZERO: Global<u64> = Global::new(0);

#[inline(always)]
pub fn tick() -> u32 {
    if STILL.load() != 0 {
        return STILL.load();
    }
    (coarse() >> NatConfig::TICK_SHIFT) as u32
}

/// The coarse monotonic clock. It steps with the jiffies, which are read without a call.
#[inline(always)]
fn coarse() -> u64 {
    // SAFETY: the helpers only read clocks.
    unsafe {
        match JIFFY.load() {
            0 => bpf_ktime_get_coarse_ns(),
            jiffy => bpf_jiffies64().wrapping_mul(jiffy).wrapping_add(JIFFY_ZERO.load()),
        }
    }
}

#[inline(always)]
pub fn nanoseconds() -> u64 {
    if STILL.load() != 0 {
        return (STILL.load() as u64) << NatConfig::TICK_SHIFT;
    }
    // SAFETY: as above.
    unsafe { bpf_ktime_get_ns() }
}
