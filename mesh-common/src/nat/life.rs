//! How long a flow lives: what has been seen of it, and when.

use core::mem::offset_of;

use crate::{
    abi::{Config, NatConfig, NatFlow, NatGauges},
    header::tcp,
    put, read,
    shared::Shared,
    tables::Tables,
};

/// `seen | stage | client_fin | backend_fin | reset`: the word of a flow that tells its age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life(u64);

/// What a flow is waiting for, which is how long it may be idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Not established yet.
    HalfOpen,
    /// TCP, both sides are open.
    Established,
    /// TCP, one side has closed.
    Closing,
    /// TCP, both sides have closed or one has reset.
    Closed,
    Udp,
}

impl Phase {
    /// Ticks that a flow in this phase may be idle.
    pub const fn ticks(self, config: &NatConfig) -> u32 {
        match self {
            Self::HalfOpen => config.half_open_ticks,
            Self::Established => config.established_ticks,
            Self::Closing => config.closing_ticks,
            Self::Closed => config.closed_ticks,
            Self::Udp => config.udp_ticks,
        }
    }

    #[inline(always)]
    fn ticks_of(self, config: Shared<'_, Config>) -> u32 {
        match self {
            Self::HalfOpen => read!(config, Config.nat.half_open_ticks as u32),
            Self::Established => read!(config, Config.nat.established_ticks as u32),
            Self::Closing => read!(config, Config.nat.closing_ticks as u32),
            Self::Closed => read!(config, Config.nat.closed_ticks as u32),
            Self::Udp => read!(config, Config.nat.udp_ticks as u32),
        }
    }
}

impl Life {
    /// What is known of a flow as a value.
    pub fn read(flow: &NatFlow) -> Self {
        let [a, b, c, d] = flow.seen.to_ne_bytes();
        Self(u64::from_ne_bytes([a, b, c, d, flow.stage, flow.client_fin, flow.backend_fin, flow.reset]))
    }

    #[inline(always)]
    pub fn of(flow: Shared<'_, NatFlow>) -> Self {
        Self(read!(flow, NatFlow.seen as u64))
    }

    /// A flow that begins now.
    pub(crate) const fn begun(now: u32) -> u64 {
        now as u64
    }

    #[inline(always)]
    pub const fn phase(self, tcp: bool) -> Phase {
        const CLIENT_FIN: u64 = 1 << 40;
        const BACKEND_FIN: u64 = 1 << 48;
        const RESET: u64 = 1 << 56;
        if self.0 & RESET != 0 || self.0 & (CLIENT_FIN | BACKEND_FIN) == CLIENT_FIN | BACKEND_FIN {
            Phase::Closed
        } else if self.stage() != NatFlow::ESTABLISHED {
            Phase::HalfOpen
        } else if !tcp {
            Phase::Udp
        } else if self.0 & (CLIENT_FIN | BACKEND_FIN) != 0 {
            Phase::Closing
        } else {
            Phase::Established
        }
    }

    /// The flow has been idle for longer than its phase allows: its entry may be taken over.
    pub const fn expired(self, tcp: bool, now: u32, config: &NatConfig) -> bool {
        self.idle(now) > self.phase(tcp).ticks(config)
    }

    #[inline(always)]
    pub(crate) fn expired_by(self, tcp: bool, now: u32, config: Shared<'_, Config>) -> bool {
        self.idle(now) > self.phase(tcp).ticks_of(config)
    }

    /// Nothing more is to come.
    #[inline(always)]
    pub(crate) fn is_closed(self, tcp: bool) -> bool {
        self.phase(tcp) == Phase::Closed
    }

    /// Half-open for so long that a flow whose client is there would be further: a new one may take its place where half-open flows are too many.
    #[inline(always)]
    pub(crate) fn is_stuck(self, tcp: bool, now: u32) -> bool {
        /// About half a second.
        const TICKS: u32 = 4;
        self.phase(tcp) == Phase::HalfOpen && self.idle(now) > TICKS
    }

    /// A packet with these TCP flags is the first that ends the flow.
    #[inline(always)]
    pub(crate) const fn ends_by(self, tcp: bool, flags: u8) -> bool {
        const ENDS: u64 = 0xff_ff_ff << 40;
        tcp && flags & (tcp::FIN | tcp::RST) != 0 && self.0 & ENDS == 0
    }

    /// What counts of a client's flags. Until it is established a flow is not over by the client's RST: that answers what its backend still knew of the
    /// port's last use, and the SYN that follows has to go the same way, where the backend has forgotten it by then (RFC 9293, 3.5.1).
    #[inline(always)]
    pub(crate) const fn client_flags(self, flags: u8) -> u8 {
        if self.stage() == NatFlow::ESTABLISHED { flags } else { flags & !tcp::RST }
    }

    /// Notes a packet of the client's.
    #[inline(always)]
    pub(crate) fn client_sent<T: Tables>(self, tables: &T, flow: Shared<'_, NatFlow>, tcp: bool, flags: u8, now: u32) {
        self.touch(flow, now);
        if !tcp {
            return;
        }
        if self.stage() == NatFlow::REPLIED && flags & (tcp::SYN | tcp::RST | tcp::ACK) == tcp::ACK {
            establish(tables, flow);
        }
        if flags & tcp::FIN != 0 {
            put!(flow, NatFlow.client_fin as u8, 1);
        }
        if self.client_flags(flags) & tcp::RST != 0 {
            put!(flow, NatFlow.reset as u8, 1);
        }
    }

    /// Notes a packet of the backend's.
    #[inline(always)]
    pub(crate) fn backend_sent<T: Tables>(self, tables: &T, flow: Shared<'_, NatFlow>, tcp: bool, flags: u8, now: u32) {
        self.touch(flow, now);
        if self.stage() == NatFlow::OPENED {
            if tcp { replied(flow) } else { establish(tables, flow) }
        }
        if flags & tcp::FIN != 0 {
            put!(flow, NatFlow.backend_fin as u8, 1);
        }
        if flags & tcp::RST != 0 {
            put!(flow, NatFlow.reset as u8, 1);
        }
    }

    #[inline(always)]
    fn touch(self, flow: Shared<'_, NatFlow>, now: u32) {
        if self.0 as u32 != now {
            put!(flow, NatFlow.seen as u32, now);
        }
    }

    const fn stage(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Ticks since the last packet. Another CPU's clock may be a little ahead of ours.
    const fn idle(self, now: u32) -> u32 {
        let age = now.wrapping_sub(self.0 as u32) as i32;
        if age < 0 { 0 } else { age as u32 }
    }
}

const STAGE: usize = offset_of!(NatFlow, stage);

/// Makes a flow count as established, or as one that is over: whoever does so takes it off the gauge.
#[inline(never)]
pub(crate) fn establish<T: Tables>(tables: &T, flow: Shared<'_, NatFlow>) {
    settle(tables, flow);
}

/// The same without a frame of its own, for those that have one.
#[inline(always)]
pub(crate) fn settle<T: Tables>(tables: &T, flow: Shared<'_, NatFlow>) {
    let old = flow.load::<u32, STAGE>();
    if old as u8 == NatFlow::ESTABLISHED || !flow.exchange32::<STAGE>(old, old & !0xff | NatFlow::ESTABLISHED as u32) {
        return;
    }
    if let Some(gauges) = tables.nat_gauges() {
        gauges.add::<{ offset_of!(NatGauges, half_open) }>(-1);
    }
}

/// The backend has answered. If somebody else changes the word at the same moment, the next answer will do.
#[inline(always)]
fn replied(flow: Shared<'_, NatFlow>) {
    let old = flow.load::<u32, STAGE>();
    if old as u8 == NatFlow::OPENED {
        flow.exchange32::<STAGE>(old, old | NatFlow::REPLIED as u32);
    }
}
