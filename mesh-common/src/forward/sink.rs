//! Where decisions end.

use super::{Arrival, Sending, Verdict};
use crate::{abi::Reason, aside::Cause, flow::Address, flow_log::Beginning, header::tcp, rewrite::Edit};

/// Where a packet is sent: what is asked for before what is changed in it, see [`Sink::send`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub reason: Reason,
    /// The packet opens a flow.
    pub opens: bool,
    pub stats: u32,
    pub ifindex: u32,
    pub bytes: usize,
    /// Bytes that it grows by.
    pub room: usize,
}

impl Way {
    /// All that is known of it then.
    #[inline(always)]
    pub(crate) fn sending(self, service: u32, edit: Edit) -> Sending {
        let Self { reason, stats, ifindex, bytes, .. } = self;
        Sending { reason, service, stats, ifindex, bytes, edit }
    }
}

/// What a packet that is sent on tells of its flow. Of most packets that is nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sign {
    pub reply: bool,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Hash of the flow, and what keeps its handshake from being watched ([`crate::handshake::left_out`]).
    pub hash: u64,
    pub left_out: u32,
}

impl Sign {
    /// These TCP flags may tell something: those of packets in the midst of a flow tell nothing.
    #[inline(always)]
    pub(crate) const fn may_tell(flags: u8) -> bool {
        flags & (tcp::SYN | tcp::RST) != 0
    }
}

/// Where decisions end. What is done with one is compiled into each of the places that decisions are made at, so that nothing of a verdict has to
/// be kept in memory, where a verifier loses track of what it means.
pub(crate) trait Sink<P, T> {
    type Done;
    /// Only packets for services that want nothing beside balancing are taken; the rest goes to [`Self::other`].
    const PLAIN: bool = false;

    /// Is told which service the packet is for, before anything is decided.
    #[inline(always)]
    fn arrived<A: Address>(&self, _: &Arrival<'_, A>) {}
    fn end(self, packet: &mut P, tables: &T, service: u32, reason: Reason) -> Self::Done;
    /// A packet is about to be sent. `stats`: index of the backend's counters, asked for only where it is needed.
    fn note(&self, tables: &T, stats: impl FnOnce() -> u32, sign: Sign);
    /// The packet begins a flow that nobody translates and that is to be told of.
    #[inline(always)]
    fn begins(&self, _: &T, _: Beginning) {}
    /// The packet is sent. `service` and `edit` read what is asked for last, or not at all, so that little has to be kept until then.
    fn send(self, packet: &mut P, tables: &T, way: Way, service: impl Fn() -> u32, edit: impl Fn() -> Edit) -> Self::Done;
    fn aside(self, packet: &mut P, tables: &T, cause: Cause) -> Self::Done;
    /// The packet is none of those that are taken.
    #[inline(always)]
    fn other(self, packet: &mut P, tables: &T) -> Self::Done
    where
        Self: Sized,
    {
        self.end(packet, tables, 0, Reason::NotForVip)
    }
}

/// The verdict itself is all that is wanted.
pub(super) struct Tell;

impl<P, T> Sink<P, T> for Tell {
    type Done = Verdict;

    #[inline(always)]
    fn end(self, _: &mut P, _: &T, service: u32, reason: Reason) -> Verdict {
        Verdict::End { service, reason }
    }

    #[inline(always)]
    fn note(&self, _: &T, _: impl FnOnce() -> u32, _: Sign) {}

    #[inline(always)]
    fn send(self, _: &mut P, _: &T, way: Way, service: impl Fn() -> u32, edit: impl Fn() -> Edit) -> Verdict {
        Verdict::Send(way.sending(service(), edit()))
    }

    #[inline(always)]
    fn aside(self, _: &mut P, _: &T, cause: Cause) -> Verdict {
        Verdict::End { service: cause.service(), reason: cause.reason() }
    }
}
