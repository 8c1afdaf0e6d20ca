//! What time it is, and what waits for it. The clock is set before the object is loaded, and so no question any more to the verifier.

use core::ptr::NonNull;

use aya_ebpf::{
    Global,
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::PerCpuArray,
};
use mesh_common::{abi::NatConfig, shared::Shared, tables::Tables};

use super::Maps;

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

/// Tick of this CPU's last log line.
#[map]
static LAST_REPORT: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

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

impl Maps {
    /// This CPU has not logged for about a second; from now on it has.
    pub fn may_report(&self) -> bool {
        const TICKS: u32 = 8;
        let last: Option<Shared<'_, u32>> = (|| look_up!(LAST_REPORT, 0))();
        let Some(last) = last else { return false };
        let now = self.tick();
        if now.wrapping_sub(last.load::<u32, 0>()) < TICKS {
            return false;
        }
        last.store::<u32, 0>(now);
        true
    }
}
