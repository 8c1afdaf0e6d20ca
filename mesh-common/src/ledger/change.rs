//! How a slot's word goes from what it is to what it shall be: one step at a time, each of which breaks no flow.

use crate::{
    abi::{SlotFlags, SlotWord},
    ledger::{among::Others, rules::Standing},
};

/// Times of the ledger, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// The longest time between a SYN and what completes its handshake, and between two SYNs of one attempt.
    pub handshake: u32,
    /// The longest silence of a flow that is promised to find its backend again.
    pub idle: u32,
    /// Before the flows that are left are remembered one by one, so many are waited to end by themselves.
    pub patience: u32,
    /// Within so many other nodes hear of a packet that went elsewhere, or the one that sent it does not count any more.
    pub lag: u32,
}

impl Times {
    /// A flow's entry lives for so long after its last use: one who is told of that use late has to know of the flow until then.
    pub const fn remembered(&self) -> u32 {
        self.idle + self.lag
    }
}

/// Ticks that may lie between the daemon's look at a slot and its writing of what it concluded; later it has to look anew.
pub const LOOK: u32 = 1;

/// What a slot shall be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// [`SlotWord::NONE`]: nobody is to take new flows.
    pub target: u16,
    pub secondary: u16,
    /// Flows that begin while nobody takes new ones are the host's.
    pub host: bool,
}

/// A slot's word, and since when it is what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    pub word: SlotWord,
    pub since: u32,
}

/// What the packets of a slot that is not at rest have told. Ticks; 0 = never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SlotMemo {
    /// The last packet that was sent to somebody who is not the slot's target.
    pub seen: u32,
    /// The last flow that could not be remembered.
    pub refused: u32,
}

/// What the daemon sees of a slot when it decides on its next step.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub held: Held,
    pub memo: SlotMemo,
    pub now: u32,
    /// Its flows begin with a handshake.
    pub handshakes: bool,
}

/// The slot's next word, if it changes now.
pub fn next(seen: &Seen, wish: Wish, times: &Times, standing: impl Fn(u16) -> Standing) -> Option<SlotWord> {
    next_among(seen, &Others::NONE, wish, times, standing)
}

/// The same where other nodes may have flows of the slot.
pub fn next_among(seen: &Seen, others: &Others, wish: Wish, times: &Times, standing: impl Fn(u16) -> Standing) -> Option<SlotWord> {
    let word = seen.held.word;
    let dead = |owner| standing(owner) == Standing::Dead;
    let next = if wish.target == SlotWord::NONE {
        seen.keep(word, others, wish.host, times, dead)
    } else if dead(word.target()) || dead(word.default()) {
        repoint(word, wish, dead)
    } else {
        // Who is the target already can't stand in for itself.
        let secondary = if wish.secondary == word.target() { wish.target } else { wish.secondary };
        let word = SlotWord::new(word.target(), word.default(), secondary, word.flags());
        let stays = wish.target == word.target() || dead(wish.target) || others.present && closes(word);
        if stays { seen.settle(word, others, times) } else { seen.depart(word, others, wish.target, times) }
    };
    (next != word).then_some(next)
}

/// The default changes, here and elsewhere: others may have gone on because of what was said here. Another wish waits until that is done.
fn closes(word: SlotWord) -> bool {
    let flags = word.flags();
    flags.has(SlotFlags::STRICT) && (flags.has(SlotFlags::LEARN) || word.target() != word.default())
}

/// Not planned: an owner is dead. Packets already go where this says, so that it moves nobody; what is wished is a planned change after it. The
/// secondary stays for the same reason.
fn repoint(word: SlotWord, wish: Wish, dead: impl Fn(u16) -> bool) -> SlotWord {
    let stands_in = [word.target(), word.secondary(), word.default(), wish.target].into_iter().find(|owner| !dead(*owner));
    let Some(target) = stands_in else { return word };
    let default = if dead(word.default()) { target } else { word.default() };
    SlotWord::new(target, default, word.secondary(), SlotFlags::TRANSITION)
}

impl Seen {
    pub(crate) fn age(&self) -> u32 {
        self.now.wrapping_sub(self.held.since)
    }

    /// Something was refused since the word is what it is, or while it was being written.
    fn refused(&self) -> bool {
        self.memo.refused != 0 && self.since_written(self.memo.refused)
    }

    /// A refusal is of a SYN that may be repeated for so long, and then it is over.
    pub(crate) fn refused_within(&self, ticks: u32) -> bool {
        self.memo.refused != 0 && self.now.wrapping_sub(self.memo.refused) as i32 <= ticks as i32
    }

    /// The moment is not before the daemon looked, to write the word that stands.
    fn since_written(&self, moment: u32) -> bool {
        moment.wrapping_sub(self.held.since).wrapping_add(LOOK) as i32 >= 0
    }

    /// Ticks for which nobody but the target was sent anything, the word having been what it is.
    pub(crate) fn quiet(&self) -> u32 {
        let seen = self.now.wrapping_sub(self.memo.seen);
        if self.memo.seen == 0 || seen as i32 >= 0 && seen > self.age() {
            self.age()
        } else if (seen as i32) < 0 {
            0
        } else {
            seen
        }
    }

    /// All flows of the default are named by entries, or have been silent for more ticks than this.
    pub(crate) fn has_learned(&self, silence: u32, times: &Times) -> bool {
        let learned = self.held.word.flags().has(SlotFlags::LEARN) && !self.refused() && self.age() > times.idle;
        // Without handshake, a new flow can't be told from an old one: only what was remembered lets the default change.
        learned || self.handshakes && self.quiet() > silence
    }

    /// Just before nothing went by any more that was not named, something did.
    pub(crate) fn disturbed_closing(&self) -> bool {
        let learns = self.held.word.flags().has(SlotFlags::LEARN);
        let before = |moment: u32| moment != 0 && self.since_written(moment) && moment.wrapping_sub(self.held.since) as i32 <= LOOK as i32;
        before(self.memo.refused) || !learns && before(self.memo.seen)
    }

    /// Nobody takes new flows: those that there are stay where they are, until there are none.
    fn keep(&self, word: SlotWord, others: &Others, host: bool, times: &Times, dead: impl Fn(u16) -> bool) -> SlotWord {
        let Some(owner) = [word.default(), word.target(), word.secondary()].into_iter().find(|owner| !dead(*owner)) else {
            return SlotWord::EMPTY;
        };
        let flags = if host { SlotFlags::TRANSITION.with(SlotFlags::HOST) } else { SlotFlags::TRANSITION };
        let kept = SlotWord::new(SlotWord::NONE, owner, SlotWord::NONE, flags);
        // Without handshake flows begin with the old owner all the same, at any moment.
        let ended = self.handshakes && self.quiet() > times.idle && others.quiet;
        if word == kept && ended { SlotWord::EMPTY } else { kept }
    }

    /// On the way to another target.
    fn depart(&self, word: SlotWord, others: &Others, target: u16, times: &Times) -> SlotWord {
        let flags = word.flags();
        if !self.handshakes {
            // Nobody tells the first packet of a flow: all stay with the default until those that there are have been remembered.
            return SlotWord::new(target, word.default(), word.secondary(), SlotFlags::TRANSITION.with(SlotFlags::LEARN));
        }
        if !flags.has(SlotFlags::PREPARE) {
            let kept = flags.without(SlotFlags::LEARN).without(SlotFlags::STRICT);
            return word.with_flags(kept.with(SlotFlags::TRANSITION).with(SlotFlags::PREPARE));
        }
        if self.refused_within(times.handshake + LOOK) || self.age() <= times.handshake || !others.recorded {
            return word;
        }
        // Back to where it came from: others may still lead new flows away, so that here all are remembered until they have heard.
        let flags = if others.present && target == word.default() { flags } else { SlotFlags::TRANSITION };
        SlotWord::new(target, word.default(), word.secondary(), flags)
    }

    /// The target is right; on the way to rest.
    fn settle(&self, word: SlotWord, others: &Others, times: &Times) -> SlotWord {
        let flags = word.flags();
        let arrived = word.default() == word.target();
        // For others every SYN is remembered; where their default is another one, every flow that has none, for there it would go elsewhere.
        let prepares = arrived && if self.handshakes { others.apart } else { others.parted };
        let records = if self.handshakes { SlotFlags::PREPARE } else { SlotFlags::LEARN };
        let waits = if prepares { SlotFlags::TRANSITION.with(records) } else { SlotFlags::TRANSITION };
        if flags == SlotFlags::STEADY {
            return if others.apart { word.with_flags(waits) } else { word };
        }
        if flags.has(SlotFlags::PREPARE) && !prepares {
            return word.with_flags(flags.without(SlotFlags::PREPARE));
        }
        if flags.has(SlotFlags::STRICT) {
            return if others.present { self.strict_among(word, others, waits) } else { self.strict(word) };
        }
        if prepares {
            return word.with_flags(waits);
        }
        let learns = flags.has(SlotFlags::LEARN);
        if arrived && learns {
            return word.with_flags(flags.without(SlotFlags::LEARN));
        }
        let ready = if arrived { others.quiet } else { others.learned };
        // What others say may be so old, and a flow may have been elsewhere since.
        let silence = if others.present { times.idle + times.lag } else { times.idle };
        if self.quiet() > silence && (arrived || self.handshakes) && ready {
            return word.with_flags(flags.with(SlotFlags::STRICT));
        }
        if arrived {
            return word;
        }
        match learns {
            true if self.refused() => word.with_flags(SlotFlags::TRANSITION),
            true if self.age() > times.idle && ready => word.with_flags(flags.with(SlotFlags::STRICT)),
            false if self.age() > times.patience || !self.handshakes => word.with_flags(flags.with(SlotFlags::LEARN)),
            _ => word,
        }
    }

    /// All seems to be done: what was under way when that was seen may still tell otherwise. From now on nothing goes by that is not remembered.
    fn strict(&self, word: SlotWord) -> SlotWord {
        let learns = word.flags().has(SlotFlags::LEARN);
        let elsewhere = self.memo.seen != 0 && self.since_written(self.memo.seen);
        if self.refused() || (!learns && elsewhere) {
            return word.with_flags(SlotFlags::TRANSITION);
        }
        if self.age() <= LOOK {
            return word;
        }
        if learns {
            SlotWord::new(word.target(), word.target(), word.secondary(), SlotFlags::TRANSITION)
        } else {
            SlotWord::steady(word.target(), word.secondary())
        }
    }

    /// The same, with others who have to be as far. Who has said that nothing goes by any more stays with it: others may have gone on because of that.
    fn strict_among(&self, word: SlotWord, others: &Others, waits: SlotFlags) -> SlotWord {
        let flags = word.flags();
        let all = SlotFlags::TRANSITION.with(SlotFlags::LEARN).with(SlotFlags::STRICT);
        if word.default() != word.target() {
            if self.disturbed_closing() || !others.learned {
                return word.with_flags(SlotFlags::TRANSITION);
            }
            let goes = self.age() > LOOK && others.closed;
            return if goes { SlotWord::new(word.target(), word.target(), word.secondary(), all) } else { word };
        }
        if flags.has(SlotFlags::LEARN) {
            // The default has changed here; somebody else's may not have yet.
            return if others.parted || self.age() <= LOOK { word } else { word.with_flags(waits) };
        }
        if self.disturbed_closing() || !others.quiet {
            return word.with_flags(waits);
        }
        if self.age() <= LOOK || !others.heard { word } else { SlotWord::steady(word.target(), word.secondary()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { handshake: 20, idle: 100, patience: 10, lag: 16 };

    fn prepared(refused: u32, now: u32) -> Option<SlotWord> {
        let word = SlotWord::new(0, 0, 1, SlotFlags::TRANSITION.with(SlotFlags::PREPARE));
        let seen = Seen { held: Held { word, since: 1000 }, memo: SlotMemo { seen: 0, refused }, now, handshakes: true };
        next(&seen, Wish { target: 1, secondary: 2, host: false }, &TIMES, |_| Standing::Takes).filter(|then| then.target() == 1)
    }

    #[test]
    fn a_refusal_holds_a_change_up_for_the_time_of_a_handshake_and_no_longer() {
        assert_eq!(prepared(0, 1020), None);
        assert!(prepared(0, 1021).is_some());
        for now in 1005..=1005 + TIMES.handshake + LOOK {
            assert_eq!(prepared(1005, now), None, "{now}");
        }
        assert!(prepared(1005, 1006 + TIMES.handshake + LOOK).is_some());
        // Another CPU's clock is a little ahead.
        assert_eq!(prepared(1022, 1021), None);
    }
}
