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
    Exit::from_word(Run { packet, tables, sink: Settle::<W, false> { watch } }.start())
}

/// The same for a packet as nearly all are: `None` is answered, and nothing done, where it is another, or its service wants more than balancing.
#[inline(always)]
pub fn process_straight<P: Aside<T> + Rewrite, T: Tables, W: Watch>(packet: &mut P, tables: &T, watch: W) -> Option<Exit> {
    match header::straight(Run { packet, tables, sink: Settle::<W, true> { watch } }) {
        LEFT => None,
        word => Some(Exit::from_word(word)),
    }
}

/// Counts a packet that nobody takes: what [`process_straight`] leaves, and no program is there.
#[inline(always)]
pub fn lost<P: Packet, T: Tables>(packet: &P, tables: &T) -> Exit {
    ended(tables, 0, Reason::BadTable, packet.size());
    Exit::Drop
}

/// Carries a verdict out, and counts it. `PLAIN`: of packets as nearly all are; others are [`LEFT`].
struct Settle<W, const PLAIN: bool> {
    watch: W,
}

/// In place of an [`Exit::word`], none of which it is.
const LEFT: u64 = 0;

impl<P: Aside<T> + Rewrite, T: Tables, W: Watch, const PLAIN: bool> Sink<P, T> for Settle<W, PLAIN> {
    /// [`Exit::word`].
    type Done = u64;
    const PLAIN: bool = PLAIN;

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
    fn note(&self, tables: &T, sign: Sign) {
        if sign.tells() {
            core::hint::cold_path();
            seldom(tables, sign.stats, (sign.hash, sign.left_out), sign.flags as u32 | (sign.opens as u32) << 8 | (sign.reply as u32) << 9);
        }
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

    #[inline(always)]
    fn other(self, _: &mut P, _: &T) -> u64 {
        LEFT
    }
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
