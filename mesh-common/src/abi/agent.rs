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
/// Prefixes of the addresses that packets may be passed on to, as [`PEER_BITS`] bits of address: a trie.
pub const PEERS: &str = "AGENT_PEERS";
/// Bits of an address in it: 96 more than an IPv4 prefix has.
pub const PEER_BITS: u32 = 128;
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
    /// Packets in the midst of a TCP connection that came with a list of who else may have it, by what became of them: passed on, ...
    pub passed_on: u64,
    /// ... of a connection of this node, ...
    pub local: u64,
    /// ... of none that is known, and all on the list had them, ...
    pub used_up: u64,
    /// ... of none that is known, and who is next is nobody that packets may be passed on to.
    pub not_peer: u64,
}

/// IPv4 or IPv6 address as the agent's maps are searched by it.
pub const fn agent_v4(octets: [u8; 4]) -> Addr {
    let [a, b, c, d] = octets;
    Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
}
