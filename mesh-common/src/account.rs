//! Every packet ends in exactly one count: forwarded by a backend, or one (service, reason). What was received is the sum of them all, and is not
//! counted by itself: a second counter would cost each packet as much as the first.

use core::mem::offset_of;

use crate::{
    abi::{Action, BackendStats, REASONS, Reason, ReasonStats},
    aside::{Aside, Cause},
    flow_log::Beginning,
    forward::{Run, Sending, Sign, Sink, Way},
    handshake,
    header::tcp,
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
pub fn process<P: Aside<T> + Rewrite, T: Tables>(packet: &mut P, tables: &T, watch: impl Watch) -> Exit {
    Exit::from_word(Run { packet, tables, sink: Settle { watch } }.start())
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
    fn note(&self, tables: &T, sign: Sign) {
        if sign.tells() {
            let drawn = if sign.drawn { sign.hash } else { 0 };
            seldom(tables, sign.stats, drawn, sign.flags as u32 | (sign.opens as u32) << 8 | (sign.reply as u32) << 9);
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
    let stats = tables.backend_stats(way.stats);
    let bytes = way.bytes as u64;
    let exit = match way.ifindex {
        0 => Exit::Transmit.word(),
        ifindex if ifindex == packet.ifindex() => Exit::Transmit.word(),
        Sending::TO_HOST => Exit::Pass.word(),
        ifindex => Exit::Redirect(ifindex).word(),
    };
    if !packet.rewrite(way.room, edit) {
        ended(tables, service(), Reason::Malformed, packet.size());
        return Exit::Drop.word();
    }
    let Some(stats) = stats else {
        ended(tables, service(), way.reason, way.bytes);
        return exit;
    };
    match (replied, exit == Exit::Transmit.word()) {
        (false, true) => stats.count::<{ offset_of!(BackendStats, tx) }>(1),
        (false, false) => stats.count::<{ offset_of!(BackendStats, redirect) }>(1),
        (true, true) => stats.count::<{ offset_of!(BackendStats, reply_tx) }>(1),
        (true, false) => stats.count::<{ offset_of!(BackendStats, reply_redirect) }>(1),
    }
    if replied {
        stats.count::<{ offset_of!(BackendStats, reply_bytes) }>(bytes);
    } else {
        stats.count::<{ offset_of!(BackendStats, bytes) }>(bytes);
    }
    exit
}

/// New flows, RSTs and handshakes. `word`: the TCP flags; bit 8: it opens a flow; bit 9: it is a reply.
#[inline(never)]
pub(crate) fn seldom<T: Tables>(tables: &T, index: u32, drawn: u64, word: u32) {
    let Some(stats) = tables.backend_stats(index) else { return };
    let (flags, replied) = (word as u8, word & 1 << 9 != 0);
    if word & 1 << 8 != 0 {
        stats.count::<{ offset_of!(BackendStats, flows) }>(1);
    }
    if flags & tcp::RST != 0 {
        if replied {
            stats.count32::<{ offset_of!(BackendStats, backend_resets) }>(1);
        } else {
            stats.count32::<{ offset_of!(BackendStats, client_resets) }>(1);
        }
    }
    if drawn != 0 {
        handshake::watch(tables, drawn, index, flags, replied);
    }
}

#[inline(always)]
pub(crate) fn ended<T: Tables>(tables: &T, service: u32, reason: Reason, bytes: usize) {
    if let Some(stats) = tables.reason_stats(service.wrapping_mul(REASONS).wrapping_add(reason as u32)) {
        stats.count::<{ offset_of!(ReasonStats, packets) }>(1);
        stats.count::<{ offset_of!(ReasonStats, bytes) }>(bytes as u64);
    }
}
