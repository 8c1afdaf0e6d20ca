//! Every packet ends in exactly one count: forwarded by a backend, or one (service, reason). What was received is the sum of them all, and is not
//! counted by itself: a second counter would cost each packet as much as the first.

use core::mem::offset_of;

use crate::{
    abi::{Action, BackendStats, REASONS, Reason, ReasonStats},
    aside::{Aside, Cause},
    flow_log::Beginning,
    forward::{Run, Sending, Sign, Sink, Way},
    handshake,
    header::{self, tcp},
    packet::Packet,
    rewrite::{Edit, Rewrite},
    tables::Tables,
};

/// What the entry point does with the frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// To the host: untouched, or for the host to route.
    Pass,
    Drop,
    /// Out of the interface that it came in by.
    Transmit,
    /// Out of this interface.
    Redirect(u32),
}

impl Exit {
    /// As a number, all of which is always said: a verifier refuses to keep what may be or not, as which interface a dropped packet leaves by.
    pub const fn word(self) -> u64 {
        match self {
            Self::Drop => 1,
            Self::Pass => 2,
            Self::Transmit => 3,
            Self::Redirect(ifindex) => 4 | (ifindex as u64) << 32,
        }
    }

    pub const fn from_word(word: u64) -> Self {
        match word as u32 {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Transmit,
            _ => Self::Redirect((word >> 32) as u32),
        }
    }
}

/// Who is told what is decided.
pub trait Watch {
    /// The packet is not sent on.
    fn ended(&self, service: u32, reason: Reason);

    /// The packet is about to be sent. `sending` reads all that is known of that.
    #[inline(always)]
    fn sent(&self, sending: impl FnOnce() -> Sending) {
        let _ = sending;
    }
}

/// Takes a packet all the way: decides, tells `watch` what was decided, changes the packet and counts it.
#[inline(always)]
pub fn process<P: Aside<T> + Rewrite, T: Tables, W: Watch>(packet: &mut P, tables: &T, watch: W) -> Exit {
    Exit::from_word(Run { packet, tables, sink: Settle { watch } }.start())
}

/// The same for a packet as nearly all are, for a service that wants nothing beside balancing, which is sent on or for no VIP. `None`: it is another, for
/// [`process_left`].
#[inline(always)]
pub fn process_straight<P: Packet + Rewrite, T: Tables>(packet: &mut P, tables: &T) -> Option<Exit> {
    match header::straight(Run { packet, tables, sink: Straight }) {
        LEFT => None,
        word => Some(Exit::from_word(word)),
    }
}

/// [`process`] for what [`process_straight`] has left: where that came to know why the packet ends, nothing is done a second time.
#[inline(always)]
pub fn process_left<P: Aside<T> + Rewrite, T: Tables, W: Watch>(packet: &mut P, tables: &T, watch: W) -> Exit {
    let cause = taken_cause(tables);
    if cause == 0 {
        return process(packet, tables, watch);
    }
    let (sink, cause) = (Settle { watch }, Cause::from_word(cause));
    Exit::from_word(match cause.reason() {
        // The cause says by how much, too.
        Reason::TooBig => sink.aside(packet, tables, cause),
        reason => sink.end(packet, tables, cause.service(), reason),
    })
}

/// Counts a packet that nobody takes: what [`process_straight`] leaves, and no program is there.
#[inline(always)]
pub fn lost<P: Packet, T: Tables>(packet: &P, tables: &T) -> Exit {
    taken_cause(tables);
    ended(tables, 0, Reason::BadTable, packet.size());
    Exit::Drop
}

/// The word of the [`Cause`] that a packet was left with, which is forgotten; 0 = none.
#[inline(always)]
fn taken_cause<T: Tables>(tables: &T) -> u64 {
    let Some(left) = tables.left() else { return 0 };
    let cause = left.load::<u64, 0>();
    if cause != 0 {
        left.store::<u64, 0>(0);
    }
    cause
}

/// Carries a verdict out, and counts it.
struct Settle<W> {
    watch: W,
}

impl<P: Aside<T> + Rewrite, T: Tables, W: Watch> Sink<P, T> for Settle<W> {
    /// [`Exit::word`].
    type Done = u64;

    #[inline(always)]
    fn end(self, packet: &mut P, tables: &T, service: u32, reason: Reason) -> u64 {
        self.watch.ended(service, reason);
        if reason.is_told() {
            return packet.aside(tables, Cause::new(service, reason));
        }
        ended(tables, service, reason, packet.size());
        if reason.action() == Action::Pass { Exit::Pass.word() } else { Exit::Drop.word() }
    }

    #[inline(always)]
    fn note(&self, tables: &T, stats: impl FnOnce() -> u32, sign: Sign) {
        note(tables, stats, sign);
    }

    #[inline(always)]
    fn begins(&self, tables: &T, beginning: Beginning) {
        tables.tell_flow(beginning);
    }

    #[inline(always)]
    fn send(self, packet: &mut P, tables: &T, way: Way, service: impl Fn() -> u32, edit: impl Fn() -> Edit) -> u64 {
        self.watch.sent(|| way.sending(service(), edit()));
        send(packet, tables, way, service, edit)
    }

    #[inline(always)]
    fn aside(self, packet: &mut P, tables: &T, cause: Cause) -> u64 {
        self.watch.ended(cause.service(), cause.reason());
        packet.aside(tables, cause)
    }
}

/// The same for packets as nearly all are: what is neither sent on nor for no VIP is [`LEFT`], with its cause if one is known.
struct Straight;

/// In place of an [`Exit::word`], none of which it is.
const LEFT: u64 = 0;

impl<P: Packet + Rewrite, T: Tables> Sink<P, T> for Straight {
    /// [`Exit::word`], or [`LEFT`].
    type Done = u64;
    const PLAIN: bool = true;

    #[inline(always)]
    fn end(self, packet: &mut P, tables: &T, service: u32, reason: Reason) -> u64 {
        if reason != Reason::NotForVip {
            return self.aside(packet, tables, Cause::new(service, reason));
        }
        ended(tables, service, reason, packet.size());
        Exit::Pass.word()
    }

    #[inline(always)]
    fn note(&self, tables: &T, stats: impl FnOnce() -> u32, sign: Sign) {
        note(tables, stats, sign);
    }

    #[inline(always)]
    fn begins(&self, tables: &T, beginning: Beginning) {
        tables.tell_flow(beginning);
    }

    #[inline(always)]
    fn send(self, packet: &mut P, tables: &T, way: Way, service: impl Fn() -> u32, edit: impl Fn() -> Edit) -> u64 {
        send(packet, tables, way, service, edit)
    }

    #[inline(always)]
    fn aside(self, _: &mut P, tables: &T, cause: Cause) -> u64 {
        core::hint::cold_path();
        if let Some(left) = tables.left() {
            left.store::<u64, 0>(cause.word());
        }
        LEFT
    }

    #[inline(always)]
    fn other(self, _: &mut P, _: &T) -> u64 {
        LEFT
    }
}

#[inline(always)]
fn note<T: Tables>(tables: &T, stats: impl FnOnce() -> u32, sign: Sign) {
    let Sign { reply, flags, hash, left_out } = sign;
    if left_out == 0 {
        core::hint::cold_path();
        if !reply && flags & (tcp::SYN | tcp::RST | tcp::FIN) == 0 && handshake::is_over(tables, hash) {
            return;
        }
    } else if flags & tcp::RST == 0 {
        return;
    }
    core::hint::cold_path();
    seldom(tables, stats(), (hash, left_out), flags as u32 | (reply as u32) << 9);
}

#[inline(always)]
fn send<P: Packet + Rewrite, T: Tables>(
    packet: &mut P,
    tables: &T,
    way: Way,
    service: impl FnOnce() -> u32,
    edit: impl FnOnce() -> Edit,
) -> u64 {
    let replied = way.reason == Reason::Replied;
    let bytes = way.bytes as u64;
    if !packet.rewrite(way.room, edit) {
        core::hint::cold_path();
        ended(tables, service(), Reason::Malformed, packet.size());
        return Exit::Drop.word();
    }
    let Some(stats) = tables.backend_stats(way.stats) else {
        core::hint::cold_path();
        ended(tables, service(), way.reason, way.bytes);
        return exit(packet, way.ifindex);
    };
    if way.opens {
        stats.count::<{ offset_of!(BackendStats, flows) }>(1);
    }
    if replied {
        stats.count::<{ offset_of!(BackendStats, reply_bytes) }>(bytes);
    } else {
        stats.count::<{ offset_of!(BackendStats, bytes) }>(bytes);
    }
    let exit = exit(packet, way.ifindex);
    match (replied, exit == Exit::Transmit.word()) {
        (false, true) => stats.count::<{ offset_of!(BackendStats, tx) }>(1),
        (false, false) => stats.count::<{ offset_of!(BackendStats, redirect) }>(1),
        (true, true) => stats.count::<{ offset_of!(BackendStats, reply_tx) }>(1),
        (true, false) => stats.count::<{ offset_of!(BackendStats, reply_redirect) }>(1),
    }
    exit
}

/// How a packet leaves by this interface ([`Sending::ifindex`]); [`Exit::word`].
#[inline(always)]
pub(crate) fn exit<P: Packet>(packet: &P, ifindex: u32) -> u64 {
    // Asked for by how often it is so: most have one interface.
    match ifindex {
        ifindex if ifindex == packet.ifindex() => Exit::Transmit.word(),
        0 => Exit::Transmit.word(),
        Sending::TO_HOST => Exit::Pass.word(),
        ifindex => Exit::Redirect(ifindex).word(),
    }
}

/// New flows, RSTs and handshakes. `left_out`: as in [`Sign`]. `word`: the TCP flags; bit 8: it opens a flow; bit 9: it is a reply.
#[cold]
#[inline(never)]
pub(crate) fn seldom<T: Tables>(tables: &T, index: u32, (hash, left_out): (u64, u32), word: u32) {
    let (flags, opens, replied) = (word as u8, word & 1 << 8 != 0, word & 1 << 9 != 0);
    if (opens || flags & tcp::RST != 0)
        && let Some(stats) = tables.backend_stats(index)
    {
        if opens {
            stats.count::<{ offset_of!(BackendStats, flows) }>(1);
        }
        if flags & tcp::RST != 0 {
            if replied {
                stats.count32::<{ offset_of!(BackendStats, backend_resets) }>(1);
            } else {
                stats.count32::<{ offset_of!(BackendStats, client_resets) }>(1);
            }
        }
    }
    if left_out == 0 {
        handshake::watch(tables, hash, index, flags, replied);
    }
}

#[inline(always)]
pub(crate) fn ended<T: Tables>(tables: &T, service: u32, reason: Reason, bytes: usize) {
    if let Some(stats) = tables.reason_stats(service.wrapping_mul(REASONS).wrapping_add(reason as u32)) {
        stats.count::<{ offset_of!(ReasonStats, packets) }>(1);
        stats.count::<{ offset_of!(ReasonStats, bytes) }>(bytes as u64);
    }
}
