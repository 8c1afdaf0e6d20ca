use bytemuck::{Pod, Zeroable};

/// Who gets a service's new flows.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scheduler {
    /// The slot of the flow's hash says, for every packet of it: nothing is remembered.
    #[default]
    Hash = 0,
    /// A slot drawn at random: the table has as many of each backend as its weight is worth.
    Random = 1,
    /// Whoever has had the fewest turns for its weight.
    RoundRobin = 2,
    /// Whoever has the fewest live flows for its weight.
    LeastConnections = 3,
    /// Whoever has the lowest product of live flows and time to answer for its weight.
    LeastResponseTime = 4,
    /// Of two drawn slots, whoever has fewer live flows for its weight.
    TwoChoices = 5,
    /// The slot's target, unless it has half as many flows more than all have on average: then the slot's secondary, if that has fewer.
    HashUnlessCrowded = 6,
}

impl Scheduler {
    pub const ALL: [Self; 7] = [
        Self::Hash,
        Self::Random,
        Self::RoundRobin,
        Self::LeastConnections,
        Self::LeastResponseTime,
        Self::TwoChoices,
        Self::HashUnlessCrowded,
    ];

    /// The scheduler of this number; [`Scheduler::Hash`] where there is none.
    pub const fn from_u8(raw: u8) -> Self {
        match raw {
            1 => Self::Random,
            2 => Self::RoundRobin,
            3 => Self::LeastConnections,
            4 => Self::LeastResponseTime,
            5 => Self::TwoChoices,
            6 => Self::HashUnlessCrowded,
            _ => Self::Hash,
        }
    }
}

/// How a service chooses, by service id; means something where its flags say [`super::ServiceFlags::CHOOSES`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Schedule {
    /// A [`Scheduler`].
    pub scheduler: u8,
    pub reserved: [u8; 3],
    /// Local indices of its backends are below this.
    pub members: u32,
    /// Ticks that a source stays with its backend after its last new flow; 0 = it does not.
    pub affinity_ticks: u32,
    /// Sum of its backends' [`BackendLoad::weight`].
    pub weight: u32,
    /// Live flows of all its backends, as the daemon has counted them last.
    pub live: u64,
    /// Choices so far, about: what tells one draw from the next.
    pub drawn: u64,
}

const _: () = assert!(size_of::<Schedule>() == 32);

/// What a backend carries, by [`super::Backend::stats`]. Counted for services that choose, and for no others.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct BackendLoad {
    /// Flows that were opened less those that have ended. Changed by atomic addition; the daemon puts it right by what it counts.
    pub live: i64,
    /// Turns that it has had.
    pub turns: u64,
    /// Up to [`BackendLoad::MOST`], which is that of the service's largest; 0 = it takes no new flows.
    pub weight: u32,
    /// Time that it takes to answer, in units of 1024 ns.
    pub latency: u32,
    pub reserved: u64,
}

const _: () = assert!(size_of::<BackendLoad>() == 32);

impl BackendLoad {
    /// The largest weight.
    pub const MOST: u32 = 0xffff;
}

/// Entries of a bucket of remembered flows.
pub const FLOW_WAYS: usize = 8;

/// Who has a flow, or a source: two words, the first of which is taken by compare-and-exchange.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct FlowEntry {
    /// 0 = free; [`FlowEntry::BUSY`] while its taker writes the rest; else a hash with bit 1 set.
    pub claim: u64,
    /// A [`FlowWord`].
    pub word: u64,
}

impl FlowEntry {
    /// Claim of an entry that is being written.
    pub const BUSY: u64 = 1;
}

/// Two cache lines of entries, found by the hash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct FlowBucket {
    pub entries: [FlowEntry; FLOW_WAYS],
}

const _: () = assert!(size_of::<FlowBucket>() == 128);

/// What an entry says: `until:20 | kind:4 | service:24 | backend:16`, from the low end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowWord(pub u64);

impl FlowWord {
    /// The longest that an entry can live, in ticks of [`super::NatConfig::TICK_SHIFT`]: 19 hours.
    pub const LONGEST: u32 = (1 << 19) - 16;
    /// TCP: nothing but the SYN was seen.
    pub const PENDING: u8 = 1;
    /// The client has closed or reset the flow.
    pub const ENDING: u8 = 2;
    /// It is not of a flow but of a source.
    pub const SOURCE: u8 = 4;

    const UNTIL: u64 = (1 << 20) - 1;

    /// An entry that lives until `ticks` from now have passed.
    pub const fn new(service: u32, backend: u16, kind: u8, now: u32, ticks: u32) -> Self {
        let ticks = if ticks > Self::LONGEST { Self::LONGEST } else { ticks };
        let until = now.wrapping_add(ticks) as u64 & Self::UNTIL;
        Self(until | (kind as u64 & 15) << 20 | (service as u64 & 0xff_ffff) << 24 | (backend as u64) << 48)
    }

    pub const fn backend(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub const fn service(self) -> u32 {
        (self.0 >> 24) as u32 & 0xff_ffff
    }

    /// [`FlowWord::PENDING`], ...
    pub const fn kind(self) -> u8 {
        (self.0 >> 20) as u8 & 15
    }

    /// Ticks that it has left; negative: since it has expired.
    pub const fn left(self, now: u32) -> i32 {
        let left = (self.0 as u32).wrapping_sub(now) << 12;
        left as i32 >> 12
    }
}

/// How often was chosen. Per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct ScheduleStats {
    /// New flows that a scheduler has given to a backend.
    pub chosen: u64,
    /// New flows that went where their source's last one did.
    pub affine: u64,
    /// New flows that went by the hash because they could not be remembered.
    pub full: u64,
    /// Remembered flows whose backend was dead.
    pub lost: u64,
}
