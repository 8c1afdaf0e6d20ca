/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Pass,
    Drop,
    /// Sent on, out of the interface it came in by or of another one.
    Forward,
    /// Turned into an answer, which leaves by the interface that it came in by.
    Answer,
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
    /// ICMP for an address of a VIP that is neither an echo request nor concerns a flow: the host's.
    Icmp = 3,
    /// A fragment of a packet for a VIP of which nothing is known yet: it is looked at by itself, and ends for another reason.
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
    /// An echo request for a VIP's address, answered.
    EchoAnswered = 14,
    /// Nobody can take the packet, and its sender was told: by a RST, or by an ICMP error.
    Rejected = 15,
    /// As [`Reason::TooBig`], and its sender was told.
    TooBigTold = 16,
    /// As [`Reason::TtlExceeded`], and its sender was told.
    TtlTold = 17,
    /// A fragment that came before its first, or long after.
    NoFirstFragment = 18,
    /// The source is not allowed to use the service.
    Denied = 19,
    /// The source can't be where the packet comes from: a VIP, or an address that nobody has.
    Spoofed = 20,
    /// One more new connection than the service allows to one source.
    SourceRate = 21,
    /// One more new connection than the service takes.
    ServiceRate = 22,
    /// No backend can take the packet, and the service leaves it to the host.
    HandedOver = 23,
}

impl Reason {
    pub const ALL: [Self; 24] = [
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
        Self::EchoAnswered,
        Self::Rejected,
        Self::TooBigTold,
        Self::TtlTold,
        Self::NoFirstFragment,
        Self::Denied,
        Self::Spoofed,
        Self::SourceRate,
        Self::ServiceRate,
        Self::HandedOver,
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
            Self::NotForVip | Self::Icmp | Self::HandedOver => Action::Pass,
            Self::Fragment
            | Self::Malformed
            | Self::NoBackend
            | Self::NextHop
            | Self::TtlExceeded
            | Self::NoFlow
            | Self::NatFull
            | Self::HalfOpenLimit
            | Self::BadTable
            | Self::TooBig
            | Self::NoFirstFragment
            | Self::Denied
            | Self::Spoofed
            | Self::SourceRate
            | Self::ServiceRate => Action::Drop,
            Self::EchoAnswered | Self::Rejected | Self::TooBigTold | Self::TtlTold => Action::Answer,
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
            Self::EchoAnswered => "echo_answered",
            Self::Rejected => "rejected",
            Self::TooBigTold => "too_big_told",
            Self::TtlTold => "ttl_told",
            Self::NoFirstFragment => "no_first_fragment",
            Self::Denied => "denied",
            Self::Spoofed => "spoofed",
            Self::SourceRate => "source_rate",
            Self::ServiceRate => "service_rate",
            Self::HandedOver => "handed_over",
        }
    }
}

const _: () = assert!(Reason::ALL.len() <= REASONS as usize);
