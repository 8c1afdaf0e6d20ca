//! What other balancers of the same slots have to do with a change: each of them tells the others how far it is, and nobody takes a step that could part
//! flows from their backends before all have said what they have to, having heard of it.
//!
//! Nobody leads. A node that wants another target *prepares*, which others see; they flag the slot, and remember every SYN. Once all have done so for
//! the time of a handshake, entries that a node makes are honoured wherever its flows may go, and each may lead new flows elsewhere. The default changes on
//! all nodes within a moment in which nobody lets by what can't be remembered ([`SlotFlags::STRICT`]), and a slot comes to rest only where all are quiet.

use super::change::{LOOK, Seen, Times};
use crate::abi::{SlotFlags, SlotWord};

/// What the other nodes that are there say of a slot, taken together. The default: there are none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Others {
    /// There are some.
    pub present: bool,
    /// Somebody has another target or default, or prepares: every SYN is to be remembered.
    pub apart: bool,
    /// Somebody has another default: what can't be remembered is dropped where the default has changed already.
    pub parted: bool,
    /// All remember every SYN, and have for the time of a handshake.
    pub recorded: bool,
    /// All want the same target, and name every flow that does not follow it.
    pub learned: bool,
    /// The same, and let nothing by that is not named.
    pub closed: bool,
    /// All are at rest, or would be: with the same target and default, and silent elsewhere.
    pub quiet: bool,
    /// All have said so after they had heard of the slot's present word here; `recorded` and `closed` hold only then.
    pub heard: bool,
}

impl Others {
    pub const NONE: Self =
        Self { present: false, apart: false, parted: false, recorded: true, learned: true, closed: true, quiet: true, heard: true };
    /// There are some, and nobody has said anything that counts.
    pub const SILENT: Self =
        Self { present: true, recorded: false, learned: false, closed: false, quiet: false, heard: false, ..Self::NONE };

    /// What they say of the slot whose word this is here.
    pub fn of(word: SlotWord, peers: impl IntoIterator<Item = Peer>) -> Self {
        peers.into_iter().fold(Self::NONE, |others, peer| others.and(word, peer))
    }

    fn and(self, word: SlotWord, Peer { heard, said }: Peer) -> Self {
        let heard_all = self.heard && heard;
        let Some(said) = said else {
            return Self { present: true, recorded: false, learned: false, closed: false, heard: heard_all, ..self };
        };
        let parted = said.default != word.default();
        let follows = said.target == word.target();
        let there = said.default == word.target();
        let told = |progress| said.progress.has(progress);
        Self {
            present: true,
            apart: self.apart || parted || !follows || said.asks,
            parted: self.parted || parted,
            recorded: self.recorded && heard && told(Progress::RECORDED),
            learned: self.learned && follows && (told(Progress::LEARNED) || there),
            closed: self.closed && heard && follows && (told(Progress::CLOSED) || there),
            quiet: self.quiet && follows && there && told(Progress::QUIET),
            heard: heard_all,
        }
    }
}

/// What one of the other nodes says of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Peer {
    /// It has said so after it had heard of the slot's present word here.
    pub heard: bool,
    /// `None`: the slot is at rest there.
    pub said: Option<Said>,
}

/// The same, of a slot that is not at rest. Owners are named as here; [`SlotWord::NONE`] is one that is not known here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Said {
    pub target: u16,
    pub default: u16,
    /// It prepares a change to another target.
    pub asks: bool,
    pub progress: Progress,
}

/// What a slot becomes on a node that has just come, and has served none of its flows, where others have. `rest`: it is at rest there.
pub fn joined(own: SlotWord, said: &Said, rest: bool) -> Option<SlotWord> {
    let prepared = |default| SlotWord::new(said.target, default, own.secondary(), SlotFlags::TRANSITION.with(SlotFlags::PREPARE));
    let known = said.target != SlotWord::NONE && said.default != SlotWord::NONE;
    let same = own.flags().0 == SlotFlags::STEADY.0 && own.target() == said.target;
    if !known || rest && same { None } else { Some(prepared(if rest { said.target } else { said.default })) }
}

/// Whether a slot's word begins to count anew when another node is lost: what that one has sent elsewhere until then may go on here, and it can't tell any
/// more since when all is quiet. Where nothing goes by that is not remembered, it has told all that is to be known of it.
pub const fn counts_anew(flags: SlotFlags) -> bool {
    flags.0 != SlotFlags::STEADY.0 && !flags.has(SlotFlags::STRICT)
}

/// The value of [`Times::lag`] on a network.
pub const LAG: u32 = 16;

/// How far a node is with a slot, as it tells others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Progress(pub u8);

impl Progress {
    /// It has remembered every SYN for the time of a handshake.
    pub const RECORDED: Self = Self(1);
    /// All flows that live by the default are named by entries, or have been silent for too long.
    pub const LEARNED: Self = Self(2);
    /// The same, and nothing goes by that is not named.
    pub const CLOSED: Self = Self(4);
    /// Target and default are one, and nobody else was sent anything for the idle time.
    pub const QUIET: Self = Self(8);

    pub const fn has(self, what: Self) -> bool {
        self.0 & what.0 == what.0
    }

    pub const fn without(self, what: Self) -> Self {
        Self(self.0 & !what.0)
    }

    const fn with(self, what: Self, holds: bool) -> Self {
        Self(if holds { self.0 | what.0 } else { self.0 })
    }
}

/// Whether a slot with this word remembers every SYN that does not go where all others go.
pub const fn records(target: u16, default: u16, flags: SlotFlags) -> bool {
    target != default || flags.has(SlotFlags::PREPARE) || flags.has(SlotFlags::LEARN) || flags.has(SlotFlags::STRICT)
}

impl Seen {
    /// What is told of the slot. `recording`: since when it remembers every SYN.
    pub fn progress(&self, recording: Option<u32>, times: &Times) -> Progress {
        let word = self.held.word;
        let flags = word.flags();
        let arrived = word.target() == word.default();
        let recorded = recording.is_some_and(|since| self.now.wrapping_sub(since) > times.handshake + LOOK);
        let strict = flags.has(SlotFlags::STRICT);
        Progress::default()
            .with(Progress::RECORDED, recorded && !self.refused_within(times.handshake + LOOK))
            .with(Progress::LEARNED, !arrived && (strict || self.has_learned(times.idle + times.lag, times)))
            .with(Progress::CLOSED, !arrived && strict && self.age() > LOOK && !self.disturbed_closing())
            .with(Progress::QUIET, arrived && (self.quiet() > times.idle + times.lag || strict && !flags.has(SlotFlags::LEARN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{
        change::{Held, SlotMemo, Wish, next_among},
        rules::Standing,
    };

    const TIMES: Times = Times { handshake: 20, idle: 100, patience: 10, lag: 16 };
    const T: SlotFlags = SlotFlags::TRANSITION;

    fn word(target: u16, default: u16, flags: SlotFlags) -> SlotWord {
        SlotWord::new(target, default, 2, flags)
    }

    fn seen(word: SlotWord, age: u32) -> Seen {
        Seen { held: Held { word, since: 1000 - age }, memo: SlotMemo::default(), now: 1000, handshakes: true }
    }

    /// Where a slot goes that is wished to be backend 1's.
    fn goes(from: SlotWord, age: u32, others: Others) -> SlotWord {
        next_among(&seen(from, age), &others, Wish { target: 1, secondary: 2, host: false }, &TIMES, |_| Standing::Takes).unwrap_or(from)
    }

    #[test]
    fn nobody_diverts_before_all_remember() {
        let prepared = word(0, 0, T.with(SlotFlags::PREPARE));
        assert_eq!(goes(word(0, 0, SlotFlags::STEADY), 9, Others::SILENT), prepared);
        assert_eq!(goes(prepared, 1000, Others::SILENT), prepared);
        assert_eq!(goes(prepared, 21, Others { recorded: true, ..Others::SILENT }), word(1, 0, T));
    }

    #[test]
    fn who_has_nothing_to_do_remembers_for_others() {
        let others = Others { apart: true, ..Others::SILENT };
        let prepared = word(1, 1, T.with(SlotFlags::PREPARE));
        assert_eq!(goes(word(1, 1, SlotFlags::STEADY), 9, others), prepared);
        assert_eq!(goes(prepared, 1000, others), prepared, "however long it takes them");
        assert_eq!(goes(prepared, 9, Others::SILENT), word(1, 1, T));
        let told = seen(prepared, 30);
        assert!(told.progress(Some(970), &TIMES).has(Progress::RECORDED));
        assert!(!told.progress(Some(990), &TIMES).has(Progress::RECORDED));
    }

    #[test]
    fn flows_without_handshake_are_named_where_another_default_would_lead_them_astray() {
        let goes = |from, others| {
            let seen = Seen { handshakes: false, ..seen(from, 9) };
            next_among(&seen, &others, Wish { target: 1, secondary: 2, host: false }, &TIMES, |_| Standing::Takes).unwrap_or(from)
        };
        let parted = Others { apart: true, parted: true, ..Others::SILENT };
        let (rest, waits, learns) = (word(1, 1, SlotFlags::STEADY), word(1, 1, T), word(1, 1, T.with(SlotFlags::LEARN)));
        assert_eq!(goes(rest, parted), learns);
        assert_eq!(goes(waits, parted), learns);
        assert_eq!(goes(learns, parted), learns, "until they have the same");
        assert_eq!(goes(rest, Others { parted: false, ..parted }), waits, "it leads them to the same");
        assert_eq!(goes(learns, Others::SILENT), waits);
    }

    #[test]
    fn the_default_changes_while_nothing_goes_by_unnamed() {
        let learns = T.with(SlotFlags::LEARN);
        let strict = learns.with(SlotFlags::STRICT);
        assert_eq!(goes(word(1, 0, learns), 117, Others::SILENT), word(1, 0, learns));
        let learned = Others { learned: true, recorded: true, ..Others::SILENT };
        assert_eq!(goes(word(1, 0, learns), 117, learned), word(1, 0, strict));
        assert_eq!(goes(word(1, 0, strict), 50, learned), word(1, 0, strict));
        let closed = Others { closed: true, ..learned };
        assert_eq!(goes(word(1, 0, strict), 2, closed), word(1, 1, strict));
        let parted = Others { parted: true, apart: true, ..learned };
        assert_eq!(goes(word(1, 1, strict), 50, parted), word(1, 1, strict), "others have not got there");
        assert_eq!(goes(word(1, 1, strict), 2, learned), word(1, 1, T));
        assert_eq!(goes(word(1, 1, T), 117, learned), word(1, 1, T));
        let deaf = Others { quiet: true, ..learned };
        let quiet = Others { heard: true, ..deaf };
        assert_eq!(
            goes(word(1, 1, T.with(SlotFlags::STRICT)), 50, deaf),
            word(1, 1, T.with(SlotFlags::STRICT)),
            "they have not said so since"
        );
        assert_eq!(goes(word(1, 1, T), 117, quiet), word(1, 1, T.with(SlotFlags::STRICT)));
        assert_eq!(goes(word(1, 1, T.with(SlotFlags::STRICT)), 2, quiet), word(1, 1, SlotFlags::STEADY));
    }

    #[test]
    fn what_others_say_counts_if_they_have_heard_and_what_they_need_counts_at_once() {
        let here = word(1, 0, T);
        let all = Progress(15);
        let said = |target, default, progress| Peer { heard: true, said: Some(Said { target, default, asks: false, progress }) };
        assert_eq!(Others::of(here, []), Others::NONE);
        let learned = Others::of(here, [said(1, 0, all), said(1, 1, Progress(1))]);
        assert!(learned.recorded && learned.learned && learned.closed && learned.apart && learned.parted && !learned.quiet);
        for other in [said(2, 0, all), said(1, 0, Progress(0)), Peer { heard: true, said: None }] {
            let others = Others::of(here, [said(1, 0, all), other]);
            assert!(!others.learned && !others.closed, "{other:?}");
        }
        let deaf = Others::of(here, [said(1, 0, all), Peer { heard: false, ..said(1, 0, all) }]);
        assert!(deaf.learned && !deaf.closed && !deaf.recorded && !deaf.heard);
        let asks = Peer { heard: false, said: Some(Said { target: 1, default: 0, asks: true, progress: Progress(0) }) };
        assert_eq!(Others::of(here, [asks]), Others { apart: true, ..Others::SILENT });
        let rest = Others::of(word(1, 1, T), [Peer { heard: true, said: None }, said(1, 1, Progress::QUIET)]);
        assert_eq!(rest, Others { quiet: true, heard: true, ..Others::SILENT });
    }
}
