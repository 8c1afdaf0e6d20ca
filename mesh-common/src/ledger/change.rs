//! How a slot's word goes from what it is to what it shall be: one step at a time, each of which breaks no flow.

use crate::{
    abi::{SlotFlags, SlotMemo, SlotWord},
    ledger::rules::Standing,
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
}

/// Ticks that may lie between the daemon's look at a slot and its writing of what it concluded; later it has to look anew.
pub const LOOK: u32 = 1;

/// What a slot shall be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    pub target: u16,
    pub secondary: u16,
}

/// A slot's word, and since when it is what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    pub word: SlotWord,
    pub since: u32,
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
    let word = seen.held.word;
    let dead = |owner| standing(owner) == Standing::Dead;
    let next = if dead(word.target()) || dead(word.default()) {
        repoint(word, wish, dead)
    } else {
        // Who is the target already can't stand in for itself.
        let secondary = if wish.secondary == word.target() { wish.target } else { wish.secondary };
        let word = SlotWord::new(word.target(), word.default(), secondary, word.flags());
        let stays = wish.target == word.target() || dead(wish.target);
        if stays { seen.settle(word, times) } else { seen.depart(word, wish.target, times) }
    };
    (next != word).then_some(next)
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
    fn age(&self) -> u32 {
        self.now.wrapping_sub(self.held.since)
    }

    /// Something was refused since the word is what it is, or while it was being written.
    fn refused(&self) -> bool {
        self.memo.refused != 0 && self.since_written(self.memo.refused)
    }

    /// A refusal is of a SYN that may be repeated for so long, and then it is over.
    fn refused_within(&self, ticks: u32) -> bool {
        self.memo.refused != 0 && self.now.wrapping_sub(self.memo.refused) as i32 <= ticks as i32
    }

    /// The moment is not before the daemon looked, to write the word that stands.
    fn since_written(&self, moment: u32) -> bool {
        moment.wrapping_sub(self.held.since).wrapping_add(LOOK) as i32 >= 0
    }

    /// Ticks for which nobody but the target was sent anything, the word having been what it is.
    fn quiet(&self) -> u32 {
        let seen = self.now.wrapping_sub(self.memo.seen);
        if self.memo.seen == 0 || seen as i32 >= 0 && seen > self.age() {
            self.age()
        } else if (seen as i32) < 0 {
            0
        } else {
            seen
        }
    }

    /// On the way to another target.
    fn depart(&self, word: SlotWord, target: u16, times: &Times) -> SlotWord {
        let flags = word.flags();
        if !self.handshakes {
            // Nobody tells the first packet of a flow: all stay with the default until those that there are have been remembered.
            return SlotWord::new(target, word.default(), word.secondary(), SlotFlags::TRANSITION.with(SlotFlags::LEARN));
        }
        if !flags.has(SlotFlags::PREPARE) {
            let kept = flags.without(SlotFlags::LEARN).without(SlotFlags::STRICT);
            return word.with_flags(kept.with(SlotFlags::TRANSITION).with(SlotFlags::PREPARE));
        }
        if self.refused_within(times.handshake + LOOK) || self.age() <= times.handshake {
            return word;
        }
        SlotWord::new(target, word.default(), word.secondary(), SlotFlags::TRANSITION)
    }

    /// The target is right; on the way to rest.
    fn settle(&self, word: SlotWord, times: &Times) -> SlotWord {
        let flags = word.flags();
        if flags == SlotFlags::STEADY {
            return word;
        }
        if flags.has(SlotFlags::PREPARE) {
            return word.with_flags(flags.without(SlotFlags::PREPARE));
        }
        if flags.has(SlotFlags::STRICT) {
            return self.strict(word);
        }
        let learns = flags.has(SlotFlags::LEARN);
        let arrived = word.default() == word.target();
        if arrived && learns {
            return word.with_flags(flags.without(SlotFlags::LEARN));
        }
        // Without handshake, a new flow can't be told from an old one: only what was remembered lets the default change.
        if self.quiet() > times.idle && (arrived || self.handshakes) {
            return word.with_flags(flags.with(SlotFlags::STRICT));
        }
        if arrived {
            return word;
        }
        match learns {
            true if self.refused() => word.with_flags(SlotFlags::TRANSITION),
            true if self.age() > times.idle => word.with_flags(flags.with(SlotFlags::STRICT)),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { handshake: 20, idle: 100, patience: 10 };

    fn prepared(refused: u32, now: u32) -> Option<SlotWord> {
        let word = SlotWord::new(0, 0, 1, SlotFlags::TRANSITION.with(SlotFlags::PREPARE));
        let seen = Seen { held: Held { word, since: 1000 }, memo: SlotMemo { seen: 0, refused }, now, handshakes: true };
        next(&seen, Wish { target: 1, secondary: 2 }, &TIMES, |_| Standing::Takes).filter(|then| then.target() == 1)
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
