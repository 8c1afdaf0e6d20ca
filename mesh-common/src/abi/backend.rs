use bytemuck::{Pod, Zeroable};

use super::Addr;

/// Health and administrative state of a backend, one byte that is stored on its own.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BackendState {
    /// No backend stands here (zeroed memory).
    #[default]
    Absent = 0,
    /// Takes new and old flows.
    Active = 1,
    /// The operator takes it out: new flows go elsewhere, old ones stay.
    Draining = 2,
    /// Suspected: new flows go elsewhere, old ones stay.
    Soft = 3,
    /// Confirmed dead: nothing is sent to it.
    Down = 4,
    /// Comes back with a small share.
    Recovering = 5,
    /// Taken out by the operator: nothing is sent to it.
    Maintenance = 6,
}

impl BackendState {
    pub const fn from_u8(raw: u8) -> Self {
        match raw {
            1 => Self::Active,
            2 => Self::Draining,
            3 => Self::Soft,
            4 => Self::Down,
            5 => Self::Recovering,
            6 => Self::Maintenance,
            _ => Self::Absent,
        }
    }

    /// A new flow may be sent to it.
    pub const fn takes_new(self) -> bool {
        matches!(self, Self::Active | Self::Recovering)
    }

    /// An old flow may go on with it.
    pub const fn keeps_old(self) -> bool {
        matches!(self, Self::Active | Self::Recovering | Self::Draining | Self::Soft)
    }
}

/// One backend of one service, with the next hop that leads to it: one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Backend {
    pub addr: Addr,
    /// Next hop's MAC. One aligned word with `port`, so that a change is one store.
    pub dst_mac: [u8; 6],
    /// Port of the backend, network order.
    pub port: [u8; 2],
    /// MAC of the interface that leads there.
    pub src_mac: [u8; 6],
    pub reserved0: [u8; 2],
    /// Interface to leave by; 0 = the one that the packet came in by.
    pub ifindex: u32,
    /// A [`BackendState`].
    pub state: u8,
    /// [`Backend::READY`].
    pub flags: u8,
    /// Index into [`super::Config::sources`]: the address that `nat` flows to this backend come from.
    pub nat_source: u16,
    /// Index of this backend's [`super::BackendStats`].
    pub stats: u32,
    /// Ones'-complement sum of all that rewriting VIP:port to this backend's address:port adds to a transport checksum
    /// (RFC 1624 section 3), not folded. IPv4's header checksum takes [`Backend::addr_csum`].
    pub dnat_csum: u32,
    /// The same for the addresses alone.
    pub addr_csum: u32,
    pub reserved1: [u32; 3],
}

const _: () = assert!(size_of::<Backend>() == 64);

impl Backend {
    /// The next hop is resolved: `dst_mac`, `src_mac` and `ifindex` mean something.
    pub const READY: u8 = 1;
}
