//! How the kernel half tells time.

use bytemuck::{Pod, Zeroable};

/// The kernel's two cheap clocks, read at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct ClockReading {
    /// Beats of the kernel's timer.
    pub jiffies: u64,
    /// The coarse monotonic clock.
    pub nanoseconds: u64,
}

const _: () = assert!(size_of::<ClockReading>() == 16);

/// Name of the map with the one reading.
pub const READING: &str = "READING";
/// Name of the program that reads.
pub const CLOCK: &str = "mesh_clock";
