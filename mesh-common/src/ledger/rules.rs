//! What a packet of a slot that is not at rest does: which backend it goes to, and what is remembered of it.

use crate::abi::{SlotFlags, SlotWord};

/// What a packet tells of its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// TCP, a SYN without ACK: it may begin a flow, repeat its beginning, or be a stray.
    Syn { isn: u32 },
    /// TCP, the client's FIN: what comes after it only acknowledges, until the backend is done too.
    Fin { seq: u32 },
    /// Any other TCP segment.
    Segment { seq: u32 },
    /// TCP, the client's RST: its flow is over, or a backend has answered for an older flow of the same tuple.
    Reset { seq: u32 },
    /// A protocol without handshake.
    Datagram,
}

/// How a backend stands, for a slot that names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Takes what comes; some flows of its slots may be elsewhere, by entry.
    Takes,
    /// Old flows stay, new ones go elsewhere if they can: suspected, drained, or its next hop unknown.
    Keeps,
    /// Nothing is sent to it.
    Dead,
}

/// A live entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// [`SlotWord::NONE`]: the flow is the host's.
    pub backend: u16,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A SYN was sent there; the flow is recognised by its initial sequence number. Lives for the handshake time.
    Pending { isn: u32 },
    /// Lives for the idle time. `number`: where its client has ended, once it has (`ended`); before that, no less than the initial sequence numbers
    /// that were seen of it, so that what is beyond ends this connection and not one before it.
    Flow { number: u32, ended: bool },
}

/// How far behind its SYN a segment may be and still be taken as the first one to follow, in bytes: what a sender may send before it hears more. And how far
/// behind a number of its connection it tells nothing new: a segment has no more than that.
pub const FIRST_FLIGHT: u32 = 1 << 16;

/// What is remembered of this packet's flow and of its slot. A flow has one entry at most.
pub trait Memory {
    /// The flow's entry, if it is live.
    fn entry(&self) -> Option<Entry>;
    /// The entry has been used.
    fn touch(&mut self);
    /// The pending entry becomes one of a flow, whose number is the SYN's.
    fn promote(&mut self);
    /// The flow's entry says this from now on, and has been used.
    fn note(&mut self, number: u32, ended: bool);
    /// Ends of connections are noted: no other node has flows of the slot. One that is told late of an end would lead the tuple's next connection astray.
    fn notes_ends(&self) -> bool;
    /// There is no entry any more.
    fn forget(&mut self);
    /// Makes an entry where none is live; whether there was room. Room is a place that is free or whose entry has expired; no live one gives way. It may be
    /// passed over, as if there were none.
    fn remember(&mut self, entry: Entry) -> bool;
    /// Within the last handshake time a flow of the slot could not be remembered.
    fn refused_lately(&self) -> bool;
    fn note_refusal(&mut self);
    /// The slot has sent a packet to somebody who is not its target.
    fn note_elsewhere(&mut self);
}

/// The backend that takes the packet; `None` or [`SlotWord::NONE`]: nobody can, or nobody may.
#[inline(always)]
pub fn owner<M: Memory>(slot: SlotWord, sent: Sent, standing: impl Fn(u16) -> Standing, memory: &mut M) -> Option<u16> {
    let chosen = choose(slot, sent, standing, memory)?;
    if chosen != slot.target() {
        memory.note_elsewhere();
    }
    Some(chosen)
}

#[inline(always)]
fn choose<M: Memory>(slot: SlotWord, sent: Sent, standing: impl Fn(u16) -> Standing, memory: &mut M) -> Option<u16> {
    if let Some(entry) = memory.entry() {
        // Nobody's flows are the host's.
        if entry.backend != SlotWord::NONE && standing(entry.backend) == Standing::Dead {
            memory.forget();
        } else if let Some(backend) = by_entry(entry, sent, memory) {
            return Some(backend);
        }
    }
    // What is not asked for here is not looked up: most packets need one of three backends.
    match sent {
        Sent::Syn { isn } => begin(slot.flags(), Owners::of(slot, &standing), isn, memory),
        Sent::Reset { .. } => {
            let (old, old_is_dead) = old_of(slot, &standing);
            (!old_is_dead).then_some(old)
        }
        _ => go_on(slot.flags(), old_of(slot, &standing), sent, memory),
    }
}

/// Where flows go that have no entry.
#[derive(Clone, Copy)]
struct Owners {
    new: u16,
    new_is_dead: bool,
    old: u16,
    old_is_dead: bool,
}

impl Owners {
    #[inline(always)]
    fn of(slot: SlotWord, standing: &impl Fn(u16) -> Standing) -> Self {
        let target = standing(slot.target());
        let (mut new, mut new_is_dead) = (slot.target(), false);
        if target != Standing::Takes {
            let secondary = standing(slot.secondary());
            if target == Standing::Dead || secondary == Standing::Takes {
                (new, new_is_dead) = (slot.secondary(), secondary == Standing::Dead);
            }
        }
        let (old, old_is_dead) = old_of(slot, standing);
        // Who was to take new flows is dead: better old than none. Where nobody is to, that is what is wished.
        if new_is_dead && !old_is_dead && slot.target() != SlotWord::NONE {
            (new, new_is_dead) = (old, false);
        }
        Self { new, new_is_dead, old, old_is_dead }
    }
}

/// Who has the flows that no entry names, and whether that one is dead.
#[inline(always)]
fn old_of(slot: SlotWord, standing: &impl Fn(u16) -> Standing) -> (u16, bool) {
    if standing(slot.default()) != Standing::Dead {
        return (slot.default(), false);
    }
    // A flow of a dead default goes where the dead target's would, not where a suspected target sends its new ones.
    if standing(slot.target()) != Standing::Dead {
        return (slot.target(), false);
    }
    (slot.secondary(), standing(slot.secondary()) == Standing::Dead)
}

/// Where the flow's entry leads the packet; `None` if the entry says nothing of it.
#[inline(always)]
fn by_entry<M: Memory>(entry: Entry, sent: Sent, memory: &mut M) -> Option<u16> {
    match (entry.kind, sent) {
        // The client has ended, and begins beyond its end: as RFC 1122, 4.2.2.13 and RFC 6191 have it, this is another connection.
        (Kind::Flow { number, ended: true }, Sent::Syn { isn }) if is_beyond(isn, number) => {
            memory.forget();
            return None;
        }
        // A late or forged SYN does not end a flow that lives. It may be another connection's all the same, whose end is beyond it.
        (Kind::Flow { number, ended }, Sent::Syn { isn }) if memory.notes_ends() && (ended || is_beyond(isn, number)) => {
            memory.note(if is_beyond(isn, number) { isn } else { number }, false);
        }
        (Kind::Flow { number, .. }, Sent::Fin { seq } | Sent::Reset { seq }) if memory.notes_ends() && is_beyond(seq, number) => {
            memory.note(seq, true);
        }
        (Kind::Flow { number, ended }, Sent::Segment { seq }) if says_more(number, ended, seq) => {
            memory.note(if is_beyond(seq, number) { seq.wrapping_sub(1) } else { number }, false);
        }
        // Whoever got the SYN may still hold a socket of the tuple's last use: then this is what frees it for the SYN's repetition.
        (_, Sent::Reset { .. }) => {}
        (Kind::Flow { .. }, _) => memory.touch(),
        (Kind::Pending { isn }, Sent::Syn { isn: again }) if isn == again => memory.touch(),
        (Kind::Pending { isn }, Sent::Segment { seq } | Sent::Fin { seq }) if seq.wrapping_sub(isn).wrapping_sub(1) < FIRST_FLIGHT => {
            memory.promote()
        }
        (Kind::Pending { .. }, _) => return None,
    }
    Some(entry.backend)
}

/// Whether a segment of a flow tells of another connection than the one that its entry knows, which began while nobody asked for entries: then what comes late,
/// or is forged, is not to end the wrong one. A client that has ended acknowledges from right behind the data of its FIN; what was lost before it says more, too.
const fn says_more(number: u32, ended: bool, seq: u32) -> bool {
    if ended { seq.wrapping_sub(number) > FIRST_FLIGHT } else { is_beyond(seq, number.wrapping_add(FIRST_FLIGHT)) }
}

/// Whether one sequence number comes after another.
const fn is_beyond(number: u32, other: u32) -> bool {
    number.wrapping_sub(other) as i32 > 0
}

/// A SYN of a flow without entry, or whose entry is another attempt's.
#[inline(always)]
fn begin<M: Memory>(flags: SlotFlags, owners: Owners, isn: u32, memory: &mut M) -> Option<u16> {
    if owners.new_is_dead {
        if flags.has(SlotFlags::HOST) {
            memory.remember(Entry { backend: SlotWord::NONE, kind: Kind::Pending { isn } });
        }
        return None;
    }
    let diverts = owners.new != owners.old;
    if !diverts && !flags.has(SlotFlags::PREPARE) && !flags.has(SlotFlags::STRICT) && !flags.has(SlotFlags::LEARN) {
        return Some(owners.new);
    }
    // Who was refused a moment ago may have repeated its SYN: it must not be led elsewhere now. It is remembered where it stays, if there is room by now, so
    // that it holds up nobody who comes after it.
    let stays = diverts && memory.refused_lately();
    let to = if stays { owners.old } else { owners.new };
    let never = owners.old_is_dead || flags.has(SlotFlags::STRICT);
    if !(stays && never) && memory.remember(Entry { backend: to, kind: Kind::Pending { isn } }) {
        return Some(to);
    }
    memory.note_refusal();
    if never { None } else { Some(owners.old) }
}

/// A flow of which nothing is known but this packet. What is taken for its end may be the end of one before it.
const fn learnt(sent: Sent) -> Kind {
    let number = match sent {
        Sent::Segment { seq } => seq.wrapping_sub(1),
        Sent::Syn { isn: seq } | Sent::Fin { seq } | Sent::Reset { seq } => seq,
        Sent::Datagram => 0,
    };
    Kind::Flow { number, ended: false }
}

/// A packet of a flow that lives by the slot's default.
#[inline(always)]
fn go_on<M: Memory>(flags: SlotFlags, (old, old_is_dead): (u16, bool), sent: Sent, memory: &mut M) -> Option<u16> {
    if old_is_dead {
        return None;
    }
    if flags.has(SlotFlags::LEARN) && !memory.remember(Entry { backend: old, kind: learnt(sent) }) {
        memory.note_refusal();
        if flags.has(SlotFlags::STRICT) {
            return None;
        }
    }
    Some(old)
}
