//! What `mesh agent`, the backend's half of `tunnel`, shares with its programs.

use bytemuck::{Pod, Zeroable};

use super::Addr;

/// TC ingress: takes outer headers off.
pub const INGRESS: &str = "mesh_agent_in";
/// TC egress: has answers ask for segments that fit, and keeps VIPs out of ARP.
pub const EGRESS: &str = "mesh_agent_out";
/// [`AgentVip`] by address (IPv4 as `::ffff:a.b.c.d`).
pub const VIPS: &str = "AGENT_VIPS";
/// The node's own addresses, likewise: outer headers are for one of them.
pub const OWN: &str = "AGENT_OWN";
/// [`AgentLink`] by interface.
pub const LINKS: &str = "AGENT_LINKS";
/// One [`AgentStats`], per CPU.
pub const STATS: &str = "AGENT_STATS";

/// A VIP that the node serves.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct AgentVip {
    /// The most that outer headers had so far, bytes; written by the ingress program.
    pub overhead: u32,
    /// 1: nobody but the balancer may be heard of owning it (ARP).
    pub guard: u32,
}

/// An interface of the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct AgentLink {
    /// Bytes of an IP packet that it takes.
    pub mtu: u32,
    /// An IPv4 address of its own; zeros = it has none.
    pub v4: [u8; 4],
}

/// What the agent has done. Per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct AgentStats {
    /// Packets that an outer header was taken off, and their bytes without it.
    pub packets: u64,
    pub bytes: u64,
    /// Packets for this node in an outer header, but inside for no VIP: left as they were.
    pub foreign: u64,
    /// Dropped: what was inside is no packet, or was marked on its way without knowing marks (RFC 6040 section 4.2).
    pub refused: u64,
    /// The kernel could not take the header off: below 6.3 that of another family.
    pub failed: u64,
    /// SYN-ACKs whose MSS was lowered.
    pub clamped: u64,
    /// ARP messages that would have told of a VIP.
    pub arp: u64,
    pub reserved: u64,
}

/// IPv4 or IPv6 address as the agent's maps are searched by it.
pub const fn agent_v4(octets: [u8; 4]) -> Addr {
    let [a, b, c, d] = octets;
    Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
}
