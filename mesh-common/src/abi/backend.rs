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
    /// As active, but while it was suspected some flows of its slots went elsewhere: they are looked up.
    Settling = 7,
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
            7 => Self::Settling,
            _ => Self::Absent,
        }
    }

    /// A new flow may be sent to it.
    pub const fn takes_new(self) -> bool {
        matches!(self, Self::Active | Self::Recovering | Self::Settling)
    }

    /// None of its flows is elsewhere: its slots alone say where packets go.
    pub const fn at_rest(self) -> bool {
        matches!(self, Self::Active | Self::Recovering)
    }

    /// An old flow may go on with it.
    pub const fn keeps_old(self) -> bool {
        matches!(self, Self::Active | Self::Recovering | Self::Settling | Self::Draining | Self::Soft)
    }
}

/// One backend of one service, with the next hop that leads to it: one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Backend {
    pub addr: Addr,
    /// Next hop's MAC. One aligned word with `port`, so that a change is one store.
    pub dst_mac: [u8; 6],
    /// Port of the backend, network order; 0 = the one that the client asked for, in a service of several ports.
    pub port: [u8; 2],
    /// MAC of the interface that leads there.
    pub src_mac: [u8; 6],
    /// What fits through the way there: bytes of an IP packet; 0 = not known, anything goes. Read where a packet grows (`tunnel`).
    pub mtu: u16,
    /// Interface to leave by; 0 = the one that the packet came in by.
    pub ifindex: u32,
    /// A [`BackendState`].
    pub state: u8,
    /// [`Backend::READY`], [`Backend::V6`], [`Backend::GUE`], [`Backend::REPLY_HOP`].
    pub flags: u8,
    /// Index into [`super::Config::sources`]: the address that `nat` flows to this backend come from; [`super::NatSource::ANY`].
    pub nat_source: u16,
    /// Index of this backend's [`super::BackendStats`].
    pub stats: u32,
    /// `dnat`: ones'-complement sum of all that rewriting VIP:port to this backend's address:port adds to a transport checksum
    /// (RFC 1624 section 3), folded. IPv4's header checksum takes [`Backend::addr_csum`].
    pub dnat_csum: u16,
    /// `dnat`: the same for the addresses alone. `tunnel`: sum of all words of the outer IPv4 header that are the same for every packet, folded.
    pub addr_csum: u16,
    /// `tunnel`: the outer header's source address, of the family of `addr`. `dnat` with [`Backend::REPLY_HOP`]: where answers go, as the MACs
    /// of next hop and interface and the interface's number; zeros = not resolved.
    pub source: Addr,
}

const _: () = assert!(size_of::<Backend>() == 64);

impl Backend {
    /// The next hop is resolved: `dst_mac`, `src_mac` and `ifindex` mean something.
    pub const READY: u8 = 1;
    /// `addr` is an IPv6 address. In `tunnel` it need not be of the VIP's family.
    pub const V6: u8 = 2;
    /// `tunnel` by UDP ([`super::GUE_PORT`]) in place of IP in IP.
    pub const GUE: u8 = 4;
    /// `dnat`: answers go to a next hop of the service's own, and not by the host's routes.
    pub const REPLY_HOP: u8 = 8;
    /// Where in the entry that next hop stands.
    pub const REPLY_AT: usize = core::mem::offset_of!(Self, source);
}

/// UDP port that GUE goes to (IANA), network order. Its variant 1 is spoken: the inner IP header follows the UDP header.
pub const GUE_PORT: [u8; 2] = 6080_u16.to_be_bytes();
