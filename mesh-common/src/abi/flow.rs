use bytemuck::{Pod, Zeroable};

use super::Addr;

/// The beginning of a flow that nobody translates, as the ring of the flow log has it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct FlowRecord {
    pub client: Addr,
    pub client_port: [u8; 2],
    /// Where the client's packet was sent to: a port of the service.
    pub port: [u8; 2],
    /// A [`super::Family`], that of the client and the VIP.
    pub family: u8,
    pub reserved: [u8; 3],
    /// Id of the service.
    pub service: u32,
    /// `Backend::stats` of the backend that took it.
    pub stats: u32,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
}

const _: () = assert!(size_of::<FlowRecord>() == 40);

/// What became of such records. Per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct FlowLogStats {
    pub told: u64,
    /// There was no room in the ring.
    pub lost: u64,
}

const _: () = assert!(size_of::<FlowLogStats>() == 16);
