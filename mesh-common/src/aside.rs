//! Packets that are rare: the packet path sets them aside, for a function that takes its time, and begins anew with the frame.
//!
//! In the kernel that is a function of its own, which the verifier follows once; whoever sets a packet aside only says why.

use core::mem::offset_of;

use network_types::eth::EtherType;

use crate::{
    abi::{Action, BackendStats, Reason},
    account::{self, Exit},
    answer::{self, Answered},
    flow::{V4, V6},
    fragment, header, icmp,
    packet::Packet,
    patch::Patch,
    rewrite::Rewrite,
    tables::Tables,
};

const IPV4: u16 = EtherType::Ipv4 as u16;
const IPV6: u16 = EtherType::Ipv6 as u16;

/// Why a packet was set aside: what would become of it otherwise, and at which service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause(u64);

impl Cause {
    pub const fn new(service: u32, reason: Reason) -> Self {
        Self((service as u64) << 32 | reason as u64)
    }

    /// It does not fit: IP packets up to `mtu` bytes would, as the sender sends them.
    pub const fn too_big(service: u32, mtu: u16) -> Self {
        Self((service as u64) << 32 | (mtu as u64) << 16 | Reason::TooBig as u64)
    }

    /// A fragment, for the desk that follows them.
    pub const fn fragment(service: u32, reason: Reason) -> Self {
        Self(Self::new(service, reason).0 | Self::FRAGMENT)
    }

    const FRAGMENT: u64 = 1 << 8;

    /// The same for another reason.
    pub(crate) const fn with(self, reason: Reason) -> Self {
        Self(self.0 & !0xffff | reason as u64)
    }

    /// As a number, which a function of the kernel's takes.
    pub const fn word(self) -> u64 {
        self.0
    }

    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(crate) const fn service(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) const fn mtu(self) -> u16 {
        (self.0 >> 16) as u16
    }

    pub(crate) const fn reason(self) -> Reason {
        Reason::from_u8(self.0 as u8)
    }
}

/// A frame that can be set aside.
pub trait Aside<T>: Packet {
    /// Carries out and counts what becomes of it, as [`take`] does, wherever that runs; [`Exit::word`].
    fn aside(&mut self, tables: &T, cause: Cause) -> u64;
}

/// Where a packet that was set aside is seen to: in the kernel, each desk is a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Desk {
    Icmp,
    Answer,
    Fragment,
}

impl Cause {
    #[inline(always)]
    pub const fn desk(self) -> Desk {
        match self.reason() {
            _ if self.0 & Self::FRAGMENT != 0 => Desk::Fragment,
            Reason::Icmp | Reason::NotForVip => Desk::Icmp,
            _ => Desk::Answer,
        }
    }
}

/// What has become of a packet that was set aside. All of it is always said: a verifier refuses what may be or not.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    /// [`Reason::Forwarded`] or [`Reason::Replied`] for a packet that is changed already and only to be sent and counted.
    reason: Reason,
    service: u32,
    /// Index of the backend's counters.
    stats: u32,
    ifindex: u32,
    /// Bytes of the frame up to the end of the IP packet, if it is sent on.
    end: usize,
}

impl Outcome {
    pub(crate) const fn end(service: u32, reason: Reason) -> Self {
        Self { reason, service, stats: 0, ifindex: 0, end: 0 }
    }

    pub(crate) const fn sent(reply: bool, stats: u32, ifindex: u32, end: usize) -> Self {
        Self { reason: if reply { Reason::Replied } else { Reason::Forwarded }, service: 0, stats, ifindex, end }
    }
}

/// Takes a packet that was set aside the rest of the way; [`Exit::word`].
pub fn take<P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, cause: Cause) -> u64 {
    match cause.desk() {
        Desk::Icmp => take_icmp(packet, tables, cause),
        Desk::Answer => take_answer(packet, tables, cause),
        Desk::Fragment => fragment::take(InPlace { packet, tables }, tables, cause),
    }
}

/// The steps of a fragment, one after the other where they are asked for.
struct InPlace<'a, P, T> {
    packet: &'a mut P,
    tables: &'a T,
}

impl<P: Patch + Rewrite, T: Tables> fragment::Steps for InPlace<'_, P, T> {
    fn look(&mut self, cause: u64) -> u64 {
        look_at_fragment(self.packet, self.tables, Cause::from_word(cause))
    }

    fn complete(&mut self, answer: u64) -> u64 {
        fragment::complete(self.tables, answer)
    }

    fn remember(&mut self) {
        fragment::remember(self.tables);
    }

    fn recall(&mut self) -> bool {
        fragment::recall(self.tables)
    }

    fn carry(&mut self, cause: u64) -> u64 {
        carry_fragment(self.packet, self.tables, Cause::from_word(cause))
    }

    fn answer(&mut self, cause: u64) -> u64 {
        take_answer(self.packet, self.tables, Cause::from_word(cause))
    }
}

/// The first step of a fragment, see [`fragment::Steps`].
#[inline(always)]
pub fn look_at_fragment<P: Packet, T: Tables>(packet: &P, tables: &T, cause: Cause) -> u64 {
    let looked = match header::ethernet(packet) {
        (IPV4, l3) => fragment::look::<V4, P, T>(packet, tables, l3, cause),
        (IPV6, l3) => fragment::look::<V6, P, T>(packet, tables, l3, cause),
        _ => cause.with(Reason::NotForVip),
    };
    looked.word()
}

/// The last step of a fragment.
#[inline(always)]
pub fn carry_fragment<P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, cause: Cause) -> u64 {
    let size = packet.size();
    let outcome = match header::ethernet(packet) {
        (IPV4, l3) => fragment::carry::<V4, P, T>(packet, tables, l3, cause),
        (IPV6, l3) => fragment::carry::<V6, P, T>(packet, tables, l3, cause),
        _ => Outcome::end(0, Reason::NotForVip),
    };
    settle(packet, tables, outcome, size)
}

/// The desk for ICMP.
#[inline(always)]
pub fn take_icmp<P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, cause: Cause) -> u64 {
    struct Icmp;
    impl See for Icmp {
        #[inline(always)]
        fn see<A: Answered, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize, cause: Cause) -> Outcome {
            icmp::arrived::<A, P, T>(packet, tables, l3, cause.reason() == Reason::Icmp)
        }
    }
    seen::<Icmp, P, T>(packet, tables, cause)
}

/// The desk for answers.
#[inline(always)]
pub fn take_answer<P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, cause: Cause) -> u64 {
    struct Answer;
    impl See for Answer {
        #[inline(always)]
        fn see<A: Answered, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize, cause: Cause) -> Outcome {
            answer::tell::<A, P, T>(packet, tables, l3, cause)
        }
    }
    seen::<Answer, P, T>(packet, tables, cause)
}

trait See {
    fn see<A: Answered, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize, cause: Cause) -> Outcome;
}

#[inline(always)]
fn seen<D: See, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, cause: Cause) -> u64 {
    let size = packet.size();
    let outcome = match header::ethernet(packet) {
        (IPV4, l3) => D::see::<V4, P, T>(packet, tables, l3, cause),
        (IPV6, l3) => D::see::<V6, P, T>(packet, tables, l3, cause),
        _ => Outcome::end(0, Reason::NotForVip),
    };
    settle(packet, tables, outcome, size)
}

/// Counts the packet as it leaves. It had `size` bytes at hand.
#[inline(always)]
fn settle<P: Patch, T: Tables>(packet: &P, tables: &T, outcome: Outcome, size: usize) -> u64 {
    let Outcome { reason, service, stats, ifindex, end } = outcome;
    match reason.action() {
        Action::Forward => {}
        action => {
            account::ended(tables, service, reason, size);
            return match action {
                Action::Pass => Exit::Pass.word(),
                Action::Answer => Exit::Transmit.word(),
                _ => Exit::Drop.word(),
            };
        }
    }
    let exit = account::exit(packet, ifindex);
    let bytes = if end > size { end } else { size };
    count(tables, stats, reason == Reason::Replied, exit == Exit::Transmit.word(), bytes);
    exit
}

#[inline(always)]
fn count<T: Tables>(tables: &T, stats: u32, reply: bool, tx: bool, bytes: usize) {
    let Some(stats) = tables.backend_stats(stats) else { return };
    match (reply, tx) {
        (false, true) => stats.count::<{ offset_of!(BackendStats, tx) }>(1),
        (false, false) => stats.count::<{ offset_of!(BackendStats, redirect) }>(1),
        (true, true) => stats.count::<{ offset_of!(BackendStats, reply_tx) }>(1),
        (true, false) => stats.count::<{ offset_of!(BackendStats, reply_redirect) }>(1),
    }
    if reply {
        stats.count::<{ offset_of!(BackendStats, reply_bytes) }>(bytes as u64);
    } else {
        stats.count::<{ offset_of!(BackendStats, bytes) }>(bytes as u64);
    }
}
