use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::Addr;

/// How a service's packets reach its backends.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Source and destination translated; replies come back through the balancer by themselves.
    Nat = 1,
    /// Only the Ethernet addresses change; the backend owns the VIP and answers the client itself.
    Dsr = 2,
    /// Destination translated, source kept; replies are routed back through the balancer, which needs no memory to reverse them.
    Dnat = 3,
    /// The packet goes to the backend whole, in an outer IP header; the backend owns the VIP and answers the client itself.
    Tunnel = 4,
}

/// What an entry of the VIP table stands for.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VipKind {
    /// Nothing (zeroed memory).
    Empty = 0,
    /// One service: address, port and protocol.
    Service = 1,
    /// An address that some service has, with port 0 and protocol 0: by it, what carries no port (fragments, ICMP, truncated packets) is known to
    /// be for a VIP. One for each address; `service` is 0.
    Address = 2,
    /// A `dnat` backend, by its address, port and protocol | [`VipKind::REVERSE_PROTO`]: what comes from there is an answer of `service`, and the
    /// first 16 bits of `table` are the backend's index within it. Services of several ports share an entry for each address and protocol |
    /// [`VipKind::REVERSE_RANGES_PROTO`], with port 0, which says by [`Vip::range`] whose each range is.
    Reverse = 3,
    /// An address of the node itself, with port 0 and protocol [`VipKind::OWN_PROTO`]: what a `dnat` backend says to it is no answer to a client.
    Own = 4,
}

impl VipKind {
    /// Not a protocol of packets, so that entries of this kind are never found by one that arrives.
    pub const REVERSE_PROTO: u8 = 0x80;
    pub const REVERSE_RANGES_PROTO: u8 = 0xc0;
    pub const OWN_PROTO: u8 = 0xff;
}

/// What the VIP table is searched by. Sixteen bytes of address, then `port | proto | family` as one 32-bit word.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VipKey {
    pub addr: Addr,
    /// Network order.
    pub port: [u8; 2],
    /// A [`super::Proto`].
    pub proto: u8,
    /// A [`super::Family`].
    pub family: u8,
}

/// Where a service's table lies: one word, so that a resize is one store.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct TableRef(pub u64);

impl Mode {
    pub const ALL: [Self; 4] = [Self::Nat, Self::Dsr, Self::Dnat, Self::Tunnel];

    pub const fn from_u8(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Nat),
            2 => Some(Self::Dsr),
            3 => Some(Self::Dnat),
            4 => Some(Self::Tunnel),
            _ => None,
        }
    }

    /// Word of the configuration, the API and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Dnat => "dnat",
            Self::Tunnel => "tunnel",
        }
    }
}

impl TableRef {
    /// `base`: first slot in the arena. `log2_slots`: 0 to 32; the table's size is a power of two so that slot = hash >> shift.
    pub const fn new(base: u32, log2_slots: u32) -> Self {
        Self(base as u64 | ((63 - log2_slots) as u64) << 32)
    }

    pub const fn base(self) -> u32 {
        self.0 as u32
    }

    /// Right shift that turns half a 64-bit flow hash into a slot number: of a table of one slot the whole hash is shifted by 64, which one shift can't.
    pub const fn half_shift(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub const fn log2_slots(self) -> u32 {
        63u32.wrapping_sub(self.half_shift())
    }
}

/// What a service wants beside balancing, each by its bit. Zero costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServiceFlags(pub u16);

impl ServiceFlags {
    /// Sources are looked up in the list of who is allowed and who is not.
    pub const LISTS: u16 = 1 << 0;
    /// New connections are counted, by source and altogether.
    pub const RATES: u16 = 1 << 1;
    /// Without a backend: TCP is answered by a RST, everything else by ICMP "port unreachable".
    pub const REJECT: u16 = 1 << 2;
    /// Without a backend: the host gets the packet.
    pub const PASS: u16 = 1 << 3;
    /// Sources that can't be are dropped.
    pub const STRICT: u16 = 1 << 4;
    /// A TCP packet in the midst of a flow whose backend is dead is answered by a RST, so that its client connects anew at once.
    pub const RESET: u16 = 1 << 5;
    /// The entry is of several ports.
    pub const SEVERAL: u16 = 1 << 6;
    /// What of a packet does not choose its slot.
    pub const ANY_SOURCE: u16 = 1 << 7;
    pub const ANY_SOURCE_PORT: u16 = 1 << 8;
    pub const ANY_DESTINATION: u16 = 1 << 9;
    pub const ANY_DESTINATION_PORT: u16 = 1 << 10;
    pub const ANY_PROTOCOL: u16 = 1 << 11;
    /// Slots are chosen by less than the five-tuple.
    pub const FEWER_FIELDS: u16 =
        Self::ANY_SOURCE | Self::ANY_SOURCE_PORT | Self::ANY_DESTINATION | Self::ANY_DESTINATION_PORT | Self::ANY_PROTOCOL;
    /// Server ids of this many bytes in QUIC connection ids say which backend a packet is for (`udp`); 0 = none do.
    pub const QUIC: u16 = 7 << Self::QUIC_SHIFT;
    pub const QUIC_SHIFT: u32 = 12;
    /// New flows go where a [`super::Scheduler`] or their source's last flow says, and stay there: [`super::Schedule`] has the rest.
    pub const CHOOSES: u16 = 1 << 15;
    /// All but what is asked for only where no backend is there: wishes that a packet in the midst of balancing has to be looked at for.
    pub const BESIDE: u16 = !(Self::REJECT | Self::PASS | Self::RESET);
}

/// One entry of the VIP table: all that the packet path needs of a service, in one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Vip {
    pub addr: Addr,
    /// 0: a service of several ports, see [`Vip::ports`].
    pub port: [u8; 2],
    pub proto: u8,
    pub family: u8,
    /// Stable id of the service, at least 1; names its [`ServiceInfo`] and its counters.
    pub service: u32,
    pub table: TableRef,
    /// First of the service's entries in the backend map.
    pub backend_base: u32,
    /// A [`Mode`].
    pub mode: u8,
    /// A [`VipKind`].
    pub kind: u8,
    /// [`ServiceFlags`].
    pub flags: u16,
    /// Mixed into the flow hash.
    pub seed: u64,
    /// First and last port of a service of several, native order; one word with `source_limit`.
    pub ports: [u16; 2],
    /// [`ServiceFlags::RATES`]: time for each new connection of one source, and for each of all, in units of 1024 ns; 0 = no limit.
    pub source_limit: u32,
    pub service_limit: u32,
    /// [`ServiceFlags::LISTS`]: number of the list of who may use the service; one word with `service_limit`.
    pub list: u32,
}

const _: () = assert!(size_of::<Vip>() == 64);

impl Vip {
    /// Where in an entry of [`VipKind::REVERSE_RANGES_PROTO`] its ranges stand: words that mean something else in the entry of a service.
    pub const RANGES: [usize; 4] =
        [offset_of!(Self, table), offset_of!(Self, seed), offset_of!(Self, ports), offset_of!(Self, service_limit)];

    /// Ports (first and last) that the answers of backend `index` of a service come from, as one word.
    pub const fn range(ports: (u16, u16), index: u16, service: u16) -> u64 {
        ports.0 as u64 | (ports.1 as u64) << 16 | (index as u64) << 32 | (service as u64) << 48
    }

    /// The same entry with these ranges; 0 = none.
    pub const fn with_ranges(self, [first, second, third, fourth]: [u64; 4]) -> Self {
        Self {
            table: TableRef(first),
            seed: second,
            ports: [third as u16, (third >> 16) as u16],
            source_limit: (third >> 32) as u32,
            service_limit: fourth as u32,
            list: (fourth >> 32) as u32,
            ..self
        }
    }
}

/// What a reply needs of its service, by service id.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct ServiceInfo {
    pub addr: Addr,
    pub port: [u8; 2],
    pub proto: u8,
    pub family: u8,
    /// First of the service's entries in the backend map.
    pub backend_base: u32,
    /// How many entries of the backend map belong to the service.
    pub backend_capacity: u32,
    /// [`ServiceFlags`], the same as in [`Vip::flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<ServiceInfo>() == 32);
