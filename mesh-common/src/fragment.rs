//! Fragments: only the first one of a packet has ports, and the others follow it, by what all of them share (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! Fragments are rare, and are set aside. What becomes of the first is decided as for any packet, by the same tables, and remembered for a few seconds;
//! who comes before it is dropped. It takes steps that share a note and no stack.
//!
//! ```text
//! look -> a later fragment: recall -----------------------------------------------> carry
//!      -> the first: its backend is known / opens a flow / follow / a scheduler -> complete -> remember -> carry
//! ```

mod carry;
mod course;
mod look;
mod memory;

pub(crate) use carry::{carry, wrap};
pub(crate) use course::outer;
pub use course::{Course, complete, identification, recall, remember};
pub(crate) use look::look;

use crate::{
    abi::{Reason, SlotWord},
    aside::Cause,
    icmp::Icmp,
    outline::Outline,
    packet::Packet,
    patch::Patch,
    read, schedule, select,
    tables::Tables,
};

/// Families whose fragments are followed.
pub(crate) trait Identified: Icmp {
    /// What all fragments of a packet have in common, as it lies there.
    fn identification<P: Packet>(packet: &P, ip: &Outline<Self>) -> Option<u32>;

    /// Replaces it.
    fn identify<P: Patch>(packet: &mut P, ip: &Outline<Self>, id: u32) -> Option<()>;
}

/// What has to be asked before the course of a first fragment is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Question {
    /// [`recall`]: it is a later fragment.
    Recall = 0,
    /// Nothing: the answer stands in the note.
    Known = 1,
    /// [`Tables::open_flow`].
    Open = 2,
    /// [`Tables::follow`].
    Follow = 3,
    /// [`schedule::answer`], and where that says nothing, as for any flow.
    Choose = 4,
}

impl Question {
    /// In place of a cause: the packet does not end.
    const fn asked(self) -> Cause {
        Cause::too_big(0, self as u16).with(Reason::Forwarded)
    }

    /// `None`: the packet ends for this cause.
    const fn of(cause: Cause) -> Option<Self> {
        match (cause.reason(), cause.mtu()) {
            (Reason::Forwarded, 1) => Some(Self::Known),
            (Reason::Forwarded, 2) => Some(Self::Open),
            (Reason::Forwarded, 3) => Some(Self::Follow),
            (Reason::Forwarded, 4) => Some(Self::Choose),
            (Reason::Forwarded, _) => Some(Self::Recall),
            _ => None,
        }
    }
}

/// The steps, each wherever it runs: [`crate::aside::look_at_fragment`], [`complete`], [`remember`],
/// [`recall`], [`crate::aside::carry_fragment`], [`crate::aside::take_answer`].
/// Words are those of a [`Cause`], and at the end of an [`crate::account::Exit`].
pub trait Steps {
    fn look(&mut self, cause: u64) -> u64;
    fn complete(&mut self, answer: u64) -> u64;
    fn remember(&mut self);
    fn recall(&mut self) -> bool;
    fn carry(&mut self, cause: u64) -> u64;
    fn answer(&mut self, cause: u64) -> u64;
}

/// Takes a fragment all the way; [`crate::account::Exit::word`].
#[inline(always)]
pub fn take<S: Steps, T: Tables>(mut steps: S, tables: &T, cause: Cause) -> u64 {
    let looked = steps.look(cause.word());
    let course = match Question::of(Cause::from_word(looked)) {
        None => looked,
        Some(Question::Recall) if steps.recall() => looked,
        // One that is not for a VIP may be a later fragment of anything.
        Some(Question::Recall) if cause.reason() == Reason::NotForVip => Cause::new(0, Reason::NotForVip).word(),
        Some(Question::Recall) => Cause::new(0, Reason::NoFirstFragment).word(),
        Some(question) => {
            let Some(answer) = answer(tables, question) else { return steps.carry(Cause::new(0, Reason::BadTable).word()) };
            let completed = steps.complete(answer);
            if Question::of(Cause::from_word(completed)).is_some() {
                steps.remember();
            }
            completed
        }
    };
    // Whoever sent a first fragment that can't go on is told so, as of any packet.
    if Cause::from_word(course).reason().is_told() { steps.answer(course) } else { steps.carry(course) }
}

#[inline(always)]
fn answer<T: Tables>(tables: &T, question: Question) -> Option<u64> {
    if question == Question::Open {
        schedule::answer(tables);
        return Some(tables.open_flow());
    }
    let course = tables.course()?;
    if question == Question::Known {
        return Some(read!(course, Course.known as u64));
    }
    let (slot, base) = (read!(course, Course.slot as u32), read!(course, Course.base as u32));
    if question == Question::Choose {
        let chosen = schedule::answer(tables);
        let index = if chosen == SlotWord::NONE { select::at_rest(tables, slot, base) } else { Some(chosen) };
        if let Some(index) = index {
            return Some(index as u64);
        }
    }
    let (hash, sent) = (read!(course, Course.hash as u64), read!(course, Course.sent as u64));
    Some(tables.follow(slot, base, hash, sent))
}
