use bytemuck::{Pod, Zeroable};

use super::Addr;

/// What the engine would make of one packet. Written by the program that only looks, read by the daemon that had it run.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Explained {
    /// Hash that chose the flow's slot, and the table of its service ([`super::TableRef`]), if the packet is for a service.
    pub hash: u64,
    pub table: u64,
    pub service: u32,
    pub backend_base: u32,
    /// Where it is sent: index of the backend's counters, interface (0 = the one that it came in by), Ethernet addresses in the low 48 bits each.
    pub stats: u32,
    pub ifindex: u32,
    pub dst_mac: u64,
    pub src_mac: u64,
    /// New addresses: of the packet ([`Explained::V4`], [`Explained::V6`]), or of the header around it ([`Explained::OUTER_V4`], ...).
    pub src: Addr,
    pub dst: Addr,
    /// New ports, the source's in the low half, as they lie in a packet.
    pub ports: u32,
    /// A [`super::Reason`].
    pub reason: u8,
    /// A [`super::Mode`]; 0 = the packet reached no service.
    pub mode: u8,
    /// 1 = it would open a flow.
    pub opens: u8,
    /// What is changed behind the Ethernet header: [`Explained::UNTOUCHED`], ...
    pub edit: u8,
    /// Who has chosen the backend: a [`crate::schedule::By`].
    pub by: u8,
    pub reserved: [u8; 7],
}

const _: () = assert!(size_of::<Explained>() == 96);

impl Explained {
    pub const UNTOUCHED: u8 = 0;
    pub const V4: u8 = 4;
    pub const V6: u8 = 6;
    pub const OUTER_V4: u8 = 14;
    pub const OUTER_V6: u8 = 16;
}
