//! What probes that take a service's own way share with the programs that lead them there.

use bytemuck::{Pod, Zeroable};

/// An address as it lies in packets, in two words; IPv4 as `::ffff:a.b.c.d`.
pub type Ends = [u64; 2];

/// An IPv4 address in two words.
#[inline(always)]
pub const fn v4(addr: u32) -> Ends {
    [0, 0xffff_0000 | (addr as u64) << 32]
}

/// The IPv4 address in two words.
#[inline(always)]
pub const fn as_v4(addr: Ends) -> u32 {
    (addr[1] >> 32) as u32
}

/// TC egress: has a probe that was sent to its backend's address be one to the VIP, in the service's outer header.
pub const EGRESS: &str = "mesh_probe_out";
/// TC ingress: has what the VIP answers come from the backend's address.
pub const INGRESS: &str = "mesh_probe_in";
/// [`ProbeWay`] by id.
pub const WAYS: &str = "PROBE_WAYS";
/// The VIPs of all ways.
pub const VIPS: &str = "PROBE_VIPS";
/// Id of the way by [`ProbeFlow`]; the oldest are forgotten.
pub const FLOWS: &str = "PROBE_FLOWS";

/// A socket whose priority (`SO_PRIORITY`) is [`TAG`] and an id takes that way. Nobody between the socket and the program reads it, and what
/// leaves the program has priority 0; a mark would be seen by firewalls and routes, which have bits of their own in it.
pub const TAG: u32 = 0x6d00_0000;
/// The bits of a priority that say so.
pub const TAG_MASK: u32 = 0xff00_0000;
/// Beside the id: each packet is a question of its own, known by its number.
pub const PULSE: u32 = 0x0080_0000;
/// Ids are from 1 to this.
pub const MAX_ID: u32 = 0xffff;

/// The way that a probe takes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct ProbeWay {
    pub vip: Ends,
    /// What the socket is connected to, of the VIP's family.
    pub backend: Ends,
    /// Source of the outer header; zeros = that of the packet.
    pub source: Ends,
    /// [`ProbeWay::ENCAP`], [`ProbeWay::GUE`].
    pub flags: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<ProbeWay>() == 56);

impl ProbeWay {
    /// In an outer header; else the VIP is asked at the backend's MAC.
    pub const ENCAP: u32 = 1;
    /// Of these the one with UDP.
    pub const GUE: u32 = 2;
}

/// Two ends, as a probe has them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct ProbeFlow {
    /// This node's address.
    pub local: Ends,
    /// The backend's or the VIP.
    pub remote: Ends,
    /// From the lowest bits: this node's port, or its identifier of echoes, and the other's (16 bits each, as they lie in packets); what the answer
    /// to a pulse acknowledges, or its number (32 bits), which is 0 for what has a socket. One word, because the compiler joins smaller ones
    /// where no verifier takes it.
    pub ports: u64,
    pub proto: u64,
}

const _: () = assert!(size_of::<ProbeFlow>() == 48);
