//! Handshakes of flows drawn at random: how long a backend and the way to it take to answer, and whose SYNs have to be sent again.
//!
//! Where answers don't come by (`dsr`, `tunnel`) the client's first ACK tells as much. A flow that is not drawn pays one comparison of its hash; one
//! that is drawn has a word in a small table until it ends: `tag | REPEATED | ANSWERED | ACCEPTED | time of the SYN`, which a colliding
//! flow simply takes over. For how long flows stay, up to the first FIN that comes by, is latency where a connection is a request.

use core::mem::offset_of;

use crate::{
    abi::{BackendSignals, Config},
    header::tcp,
    read,
    tables::Tables,
};

/// Words of the table of handshakes, a power of two.
pub const WATCHED: u32 = 1 << 14;

const TAG: u64 = !0 << 44;
const REPEATED: u64 = 1 << 43;
const ANSWERED: u64 = 1 << 42;
/// The handshake is over.
const ACCEPTED: u64 = 1 << 41;
/// Units of [`BackendSignals::TIME_SHIFT`]; they begin anew after 26 days.
const TIME: u64 = ACCEPTED - 1;

/// What the packet is to the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    /// The client's SYN.
    Syn = 0,
    /// The backend's SYN and ACK.
    Answer = 1,
    /// The client's ACK.
    Accept = 2,
    /// A RST from either.
    Reset = 3,
    /// A FIN from either.
    End = 4,
}

/// What keeps a flow of this hash from having its handshakes watched; 0 = they are.
#[inline(always)]
pub(crate) fn left_out<T: Tables>(tables: &T, hash: u64) -> u32 {
    // Looked up anew: to keep it from when the flow was looked up would take room on the stack.
    tables.config().map_or(1, |config| hash as u32 & read!(config, Config.sample_mask as u32))
}

/// A client's packet in the midst of a flow that was drawn has nothing to tell: its handshake is over, or was not seen.
#[inline(always)]
pub(crate) fn is_over<T: Tables>(tables: &T, hash: u64) -> bool {
    tables.watched(index(hash)).is_some_and(|word| (word.load::<u64, 0>() ^ (hash & TAG)) & (TAG | ACCEPTED) != 0)
}

/// Looks at a packet of the client's (or, if `answer`, of the backend's) in a flow that was drawn. `flags` are those of TCP.
#[inline(always)]
pub(crate) fn watch<T: Tables>(tables: &T, hash: u64, stats: u32, flags: u8, answer: bool) {
    let step = match flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) {
        tcp::SYN if !answer => return tables.note_handshake(hash, stats, Step::Syn as u32),
        f if f & tcp::RST != 0 => Step::Reset,
        f if f & tcp::FIN != 0 => Step::End,
        f if answer && f == tcp::SYN | tcp::ACK => Step::Answer,
        tcp::ACK if !answer => Step::Accept,
        _ => return,
    };
    // Packets of a connection that stands end here.
    let Some(word) = tables.watched(index(hash)) else { return };
    let over = if step as u32 >= Step::Reset as u32 { 0 } else { ACCEPTED };
    if (word.load::<u64, 0>() ^ (hash & TAG)) & (TAG | over) == 0 {
        tables.note_handshake(hash, stats, step as u32);
    }
}

/// Notes a [`Step`] of a flow with the backend whose counters are `stats`.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, hash: u64, stats: u32, step: u32) {
    const SAMPLED: usize = offset_of!(BackendSignals, sampled);
    const RETRANSMITS: usize = offset_of!(BackendSignals, syn_retransmits);
    let (Some(word), Some(signals)) = (tables.watched(index(hash)), tables.backend_signals(stats)) else { return };
    let old = word.load::<u64, 0>();
    let known = (old ^ hash) & TAG == 0 && old & TIME != 0;
    if step == Step::Reset as u32 {
        if known && old & ACCEPTED != 0 {
            signals.add::<{ offset_of!(BackendSignals, aborted) }>(1);
        }
        word.store::<u64, 0>(0);
        return;
    }
    let now = (tables.nanoseconds() >> BackendSignals::TIME_SHIFT) & TIME;
    if step == Step::Syn as u32 {
        if known && old & ACCEPTED == 0 {
            signals.add::<RETRANSMITS>(1);
            word.store::<u64, 0>(old | REPEATED);
        } else {
            signals.add::<SAMPLED>(1);
            word.store::<u64, 0>(hash & TAG | now);
        }
        return;
    }
    if !known {
        return;
    }
    let time = now.wrapping_sub(old) & TIME;
    if step == Step::End as u32 && old & ACCEPTED != 0 {
        word.store::<u64, 0>(0);
        signals.add::<{ offset_of!(BackendSignals, stays) }>(1);
        signals.add::<{ offset_of!(BackendSignals, stay_time) }>(time as i64);
        return;
    }
    // A FIN of the client's is an ACK as well.
    let answer = step == Step::Answer as u32;
    word.store::<u64, 0>(old | if answer { ANSWERED } else { ACCEPTED });
    if old & REPEATED != 0 || (answer && old & ANSWERED != 0) {
        return;
    }
    if answer {
        signals.add::<{ offset_of!(BackendSignals, answer_time) }>(time as i64);
        signals.add_time::<{ offset_of!(BackendSignals, answers) }>(time);
    } else {
        signals.add::<{ offset_of!(BackendSignals, accept_time) }>(time as i64);
        signals.add_time::<{ offset_of!(BackendSignals, accepts) }>(time);
    }
}

/// Where the flow's word is. Bits that the draw, the tag and `nat`'s claims don't take.
#[inline(always)]
const fn index(hash: u64) -> u32 {
    (hash >> 4) as u32 & (WATCHED - 1)
}
