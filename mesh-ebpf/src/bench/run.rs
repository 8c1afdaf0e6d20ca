//! One run of the bench driver: what the driver and the bench that loads it tell each other, in a map of one element.

/// Bytes of the template.
pub const TEMPLATE: usize = 128;

/// One run. Zeroed `seen` starts it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Run {
    /// The packet as it has to come in; its first 64 (IPv4) or 80 (IPv6) bytes are restored before every packet.
    pub template: [u8; TEMPLATE],
    /// Length of the packet as it comes in.
    pub len: u32,
    /// Length of the packet as it has to leave.
    pub len_out: u32,
    /// 4 or 6.
    pub family: u32,
    /// Services that the flows are spread over; 0 or 1 = one.
    pub services: u32,
    /// Number of flows less one (their number is a power of two); all ones = every packet is a new flow.
    pub flow_mask: u64,
    /// Number of the first flow, counted on by the driver from packet to packet and from run to run.
    pub flow: u64,
    /// Packets to send.
    pub count: u64,
    /// Packets sent so far.
    pub seen: u64,
    /// Monotonic nanoseconds at the first packet, and after the last one.
    pub start_ns: u64,
    pub end_ns: u64,
    /// Packets that came out with another length than `len_out`.
    pub bad: u64,
}

const _: () = assert!(size_of::<Run>() == TEMPLATE + 16 + 7 * 8);
