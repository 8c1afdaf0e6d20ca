/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Pass,
    Drop,
    /// Sent on, out of the interface it came in by or of another one.
    Forward,
}

/// Reasons there are room for, a power of two: counters are found by service id x REASONS + reason.
pub const REASONS: u32 = 32;

/// Why a packet left the way it did: exactly one for each packet.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Sent to a backend.
    Forwarded = 0,
    /// A reply, translated and sent to its client.
    Replied = 1,
    /// Not IP, not TCP or UDP, or for no VIP.
    NotForVip = 2,
    /// For an address of a VIP, but ICMP: the host answers.
    Icmp = 3,
    /// A fragment of a packet for a VIP.
    Fragment = 4,
    /// A length or offset that can't be, in a packet for a VIP.
    Malformed = 5,
    /// No backend of the service can take the packet.
    NoBackend = 6,
    /// The next hop to the chosen backend is not resolved.
    NextHop = 7,
    /// TTL or hop limit is used up.
    TtlExceeded = 8,
    /// Mid-flow TCP packet of a flow that has no entry (`nat`).
    NoFlow = 9,
    /// No room for one more translated flow.
    NatFull = 10,
    /// Too many flows that nobody answered.
    HalfOpenLimit = 11,
    /// The maps contradict themselves; nothing is sent by guess.
    BadTable = 12,
    /// With what `tunnel` adds, it does not fit the way to its backend.
    TooBig = 13,
}

impl Reason {
    pub const ALL: [Self; 14] = [
        Self::Forwarded,
        Self::Replied,
        Self::NotForVip,
        Self::Icmp,
        Self::Fragment,
        Self::Malformed,
        Self::NoBackend,
        Self::NextHop,
        Self::TtlExceeded,
        Self::NoFlow,
        Self::NatFull,
        Self::HalfOpenLimit,
        Self::BadTable,
        Self::TooBig,
    ];

    /// The reason of this number; [`Reason::BadTable`] where there is none.
    pub const fn from_u8(raw: u8) -> Self {
        let mut i = 0;
        while i < Self::ALL.len() {
            if Self::ALL[i] as u8 == raw {
                return Self::ALL[i];
            }
            i += 1;
        }
        Self::BadTable
    }

    pub const fn action(self) -> Action {
        match self {
            Self::Forwarded | Self::Replied => Action::Forward,
            Self::NotForVip | Self::Icmp => Action::Pass,
            Self::Fragment
            | Self::Malformed
            | Self::NoBackend
            | Self::NextHop
            | Self::TtlExceeded
            | Self::NoFlow
            | Self::NatFull
            | Self::HalfOpenLimit
            | Self::BadTable
            | Self::TooBig => Action::Drop,
        }
    }

    /// Label in metrics and in the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Replied => "replied",
            Self::NotForVip => "not_for_vip",
            Self::Icmp => "icmp",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
            Self::NoBackend => "no_backend",
            Self::NextHop => "next_hop",
            Self::TtlExceeded => "ttl_exceeded",
            Self::NoFlow => "no_flow",
            Self::NatFull => "nat_full",
            Self::HalfOpenLimit => "half_open_limit",
            Self::BadTable => "bad_table",
            Self::TooBig => "too_big",
        }
    }
}

const _: () = assert!(Reason::ALL.len() <= REASONS as usize);
