use bytemuck::{Pod, Zeroable};

use super::Addr;

/// Ways of a bucket of the index.
pub const NAT_WAYS: usize = 8;

/// One bucket of the index, one cache line: each word is 0 or `tag << 32 | flow + 1`, where `flow` is an index into the flow map.
///
/// A word only points; whether it is right is told by the flow that it points at. So a stale word is harmless and may be taken over.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NatBucket {
    pub words: [u64; NAT_WAYS],
}

/// One translated flow, one cache line. Its place in the map is a hash of (backend address:port, source address:port, protocol), so a reply
/// finds it by one load, and one (backend, source port) pair can't be given out twice.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NatFlow {
    /// 0 = free. Taken by compare-and-exchange of the whole word; holds [`NatFlow::BUSY`] while its taker writes the rest, then the hash of the
    /// client's flow with bit 1 set.
    pub claim: u64,
    pub client: Addr,
    /// Network order.
    pub client_port: [u8; 2],
    /// Source port towards the backend, network order.
    pub nat_port: [u8; 2],
    /// Index into [`super::Config::sources`].
    pub nat_source: u16,
    /// Backend index within the service.
    pub backend: u16,
    /// Service id. One aligned word with `began`, see [`NatFlow::born`].
    pub service: u16,
    /// When the flow began: see [`NatFlow::age`].
    pub began: u16,
    /// Interface that the client's packets come in by.
    pub ifindex: u32,
    /// MAC that the client's packets came from: replies go back to it. One aligned word with `proto`.
    pub client_mac: [u8; 6],
    /// A [`super::Proto`].
    pub proto: u8,
    pub reserved0: u8,
    /// MAC that the client's packets were sent to: replies come from it. One aligned word with `vip_port`.
    pub own_mac: [u8; 6],
    /// Port that they were sent to, network order.
    pub vip_port: [u8; 2],
    /// Tick of the last packet (see [`super::NatConfig::TICK_SHIFT`]).
    pub seen: u32,
    /// How far the flow has come: [`NatFlow::OPENED`], [`NatFlow::REPLIED`] or [`NatFlow::ESTABLISHED`]. Changed by compare-and-exchange of the
    /// 32-bit word that it begins, so that who establishes a flow, or ends a half-open one, takes it off the gauge just once.
    pub stage: u8,
    /// Each of the three is 0 until its event is seen, then 1, and is stored on its own: the client's FIN, the backend's FIN, a RST from either.
    pub client_fin: u8,
    pub backend_fin: u8,
    pub reset: u8,
}

const _: () = assert!(size_of::<NatFlow>() == 64);

impl NatFlow {
    /// Claim word of a flow that is being written.
    pub const BUSY: u64 = 1;

    /// Of the tick at which a flow begins so many bits are left out: a step is 2.1 s, and 16 bits of steps are 39 hours.
    pub const BEGAN_SHIFT: u32 = 4;

    /// The word of `service` and `began` of a flow that begins at tick `now`.
    pub const fn born(service: u32, now: u32) -> u32 {
        service & 0xffff | now >> Self::BEGAN_SHIFT << 16
    }

    /// Ticks since it began, a step at most too few or too many.
    pub const fn age(&self, now: u32) -> u32 {
        (((now >> Self::BEGAN_SHIFT) as u16).wrapping_sub(self.began) as u32) << Self::BEGAN_SHIFT
    }

    /// The client has sent something.
    pub const OPENED: u8 = 0;
    /// TCP: the backend has answered, the client has not acknowledged yet.
    pub const REPLIED: u8 = 1;
    /// TCP: the client has acknowledged. UDP: the backend has answered.
    pub const ESTABLISHED: u8 = 2;
}

/// Counts that both halves change by atomic addition.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NatGauges {
    /// Flows that are not established.
    pub half_open: i64,
    /// Packets in fragments that were translated so far: each got an identification of its own.
    pub fragmented: u64,
    pub reserved: [u64; 6],
}
