//! The second chance: who is asked after a flow that the chosen owner knows nothing of. It makes up for entries that were lost, and for a balancer that never
//! had them; flows whose owner no field of the slot's word names any more are beyond it.

use crate::{abi::SlotWord, ledger::rules::Standing};

/// The first of target, default and secondary that is not `chosen` and lives; [`SlotWord::NONE`] if there is none. Nothing is ever sent to the dead: a flow of
/// theirs is to end with whoever stands in for them.
#[inline(always)]
pub fn other(slot: SlotWord, chosen: u16, standing: impl Fn(u16) -> Standing) -> u16 {
    let can = |owner: u16| owner != chosen && standing(owner) != Standing::Dead;
    if can(slot.target()) {
        slot.target()
    } else if can(slot.default()) {
        slot.default()
    } else if can(slot.secondary()) {
        slot.secondary()
    } else {
        SlotWord::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::SlotFlags;

    #[test]
    fn the_other_owner_is_another_one_and_alive() {
        let word = SlotWord::new(0, 1, 2, SlotFlags::TRANSITION);
        let but = |dead: &'static [u16]| move |owner| if dead.contains(&owner) { Standing::Dead } else { Standing::Keeps };
        for (chosen, dead, wanted) in [
            (0, &[][..], 1),
            (1, &[], 0),
            (2, &[], 0),
            (0, &[1], 2),
            (1, &[0], 2),
            (0, &[1, 2], SlotWord::NONE),
            (1, &[0, 2], SlotWord::NONE),
        ] {
            assert_eq!(other(word, chosen, but(dead)), wanted, "{chosen} with {dead:?} dead");
        }
        // Nobody stands in place NONE.
        let none = but(&[SlotWord::NONE]);
        assert_eq!(other(SlotWord::steady(3, SlotWord::NONE), 3, none), SlotWord::NONE);
    }
}
