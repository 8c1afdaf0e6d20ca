use bytemuck::{Pod, Zeroable};

/// Entries of a bucket.
pub const LEDGER_WAYS: usize = 4;

/// When two neighbouring slots have last sent a packet to somebody who is not their target, by arena index / 2. Ticks (see
/// [`super::NatConfig::TICK_SHIFT`]); 0 = never.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct SlotsSeen {
    pub at: [u32; SlotsSeen::SLOTS as usize],
}

impl SlotsSeen {
    pub const SLOTS: u32 = 2;
}

/// When a flow of four neighbouring slots could last not be remembered, by arena index / 4: the lower 16 bits of ticks; 0 = never. They come again after more
/// than two hours; who is then taken for one who was refused a moment ago only stays where it was. That many share a cache line is what a flood is cheap by.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct SlotsRefused {
    pub at: [u16; SlotsRefused::SLOTS as usize],
}

impl SlotsRefused {
    pub const SLOTS: u32 = 4;
    /// Another CPU's clock, or one that is read elsewhere, may be so many ticks ahead.
    const AHEAD: u16 = 8;

    /// What stands for this tick.
    pub const fn moment(now: u32) -> u16 {
        if now as u16 == 0 { 1 } else { now as u16 }
    }

    /// Ticks since this moment, which is not 0.
    pub const fn age(moment: u16, now: u32) -> u32 {
        let age = (now as u16).wrapping_sub(moment);
        if age > u16::MAX - Self::AHEAD { 0 } else { age as u32 }
    }

    /// The latest tick, as of now, that this moment may stand for; 0 = never.
    pub const fn tick(moment: u16, now: u32) -> u32 {
        if moment == 0 {
            return 0;
        }
        let (age, ahead) = ((now as u16).wrapping_sub(moment), moment.wrapping_sub(now as u16));
        let tick = if ahead <= Self::AHEAD { now.wrapping_add(ahead as u32) } else { now.wrapping_sub(age as u32) };
        if tick == 0 { 1 } else { tick }
    }
}

/// The entry of one flow: two words, the first of which is taken by compare-and-exchange.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct LedgerEntry {
    /// 0 = free; [`LedgerEntry::BUSY`] while its taker writes the rest; else the flow's [`LedgerEntry::key`] with bit 1 set.
    pub claim: u64,
    /// A [`LedgerWord`].
    pub word: u64,
}

impl LedgerEntry {
    /// Claim of an entry that is being written.
    pub const BUSY: u64 = 1;

    /// What a flow is known by: its hash, whose upper 16 bits, by which its slot was found, give way to those of the service's id. So an entry tells whose
    /// it is, as other balancers have to know.
    pub const fn key(hash: u64, service: u32) -> u64 {
        hash & (u64::MAX >> 16) | (service as u64) << 48
    }

    /// The lower 16 bits of the id of the service that an entry of this claim is of.
    pub const fn service(claim: u64) -> u16 {
        (claim >> 48) as u16
    }
}

/// One cache line of entries, found by the flow's key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct LedgerBucket {
    pub entries: [LedgerEntry; LEDGER_WAYS],
}

const _: () = assert!(size_of::<LedgerBucket>() == 64);

/// Of each entry of a bucket, by the bucket's index, some bits of the key that it was last taken for; 0 = never taken. Whoever finds its own not there
/// has no entry, without a look at the bucket.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct LedgerTags {
    pub of: [u16; LEDGER_WAYS],
}

const _: () = assert!(size_of::<LedgerTags>() == 8);

impl LedgerTags {
    /// The tag of a key: bits that neither the slot nor the bucket was found by.
    pub const fn tag(key: u64) -> u16 {
        (key >> 32) as u16 | 1
    }

    /// Whether this tag is one of the four of a word.
    pub const fn has(word: u64, tag: u16) -> bool {
        const ONES: u64 = 0x0001_0001_0001_0001;
        let other = word ^ (tag as u64 * ONES);
        // A lane that is 0 borrows from its highest bit.
        other.wrapping_sub(ONES) & !other & (ONES << 15) != 0
    }
}

/// How many flows have found no room lately.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct LedgerCrowd {
    /// The last tick in which some did.
    pub tick: u32,
    /// How many did then.
    pub refused: u32,
}

impl LedgerCrowd {
    /// After so many nobody looks for room until the tick is over.
    pub const MANY: u32 = 1024;
}

/// What an entry says: `isn:32 | seen:15 | flow:1 | backend:16`, from the low end; of a flow, `ended:1 | number:31` in place of the isn, the number without
/// its lowest bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerWord(pub u64);

impl LedgerWord {
    /// Ticks that `seen` can tell apart: more than an hour.
    pub const SEEN: u32 = 0x7fff;
    const FLOW: u64 = 1 << 47;

    /// A SYN with this initial sequence number was sent to `backend`.
    pub const fn pending(backend: u16, isn: u32, now: u32) -> Self {
        Self(isn as u64 | ((now & Self::SEEN) as u64) << 32 | (backend as u64) << 48)
    }

    /// A flow of `backend`, with number 0, that has not ended.
    pub const fn flow(backend: u16, now: u32) -> Self {
        Self(Self::FLOW | ((now & Self::SEEN) as u64) << 32 | (backend as u64) << 48)
    }

    pub const fn backend(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub const fn is_flow(self) -> bool {
        self.0 & Self::FLOW != 0
    }

    /// Of a flow: the same with this number, and whether its client has ended there.
    pub const fn numbered(self, number: u32, ended: bool) -> Self {
        Self(self.0 & !(u32::MAX as u64) | (number & !1) as u64 | ended as u64)
    }

    /// Of a flow: its number. It is even.
    pub const fn number(self) -> u32 {
        self.0 as u32 & !1
    }

    /// Of a flow: its client has ended at its number.
    pub const fn has_ended(self) -> bool {
        self.0 & 1 != 0
    }

    /// Of a pending entry: the initial sequence number.
    pub const fn isn(self) -> u32 {
        self.0 as u32
    }

    /// The same, used now.
    pub const fn touched(self, now: u32) -> Self {
        Self(self.0 & !((Self::SEEN as u64) << 32) | ((now & Self::SEEN) as u64) << 32)
    }

    /// Ticks since it was used. Another CPU's clock may be a little ahead of ours.
    pub const fn age(self, now: u32) -> u32 {
        let age = now.wrapping_sub((self.0 >> 32) as u32) & Self::SEEN;
        if age > Self::SEEN - 8 { 0 } else { age }
    }
}

/// Size and times of the ledger.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct LedgerConfig {
    /// Number of buckets less one.
    pub bucket_mask: u32,
    /// Ticks that a pending entry lives.
    pub handshake_ticks: u32,
    /// Ticks that the entry of a flow lives; at most [`LedgerWord::SEEN`] / 2.
    pub idle_ticks: u32,
    /// Not 0: other nodes have flows of the same slots, so that ends of connections are not noted.
    pub shared: u32,
}

/// What packets of slots that are not at rest have done. Per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct LedgerStats {
    /// Entries made.
    pub remembered: u64,
    /// Flows for which there was no room; they stayed with the slot's default.
    pub refused: u64,
    /// Packets that went to somebody who is not the slot's target.
    pub elsewhere: u64,
    pub reserved: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_each_lane_and_no_other_is() {
        for way in 0..LEDGER_WAYS {
            for tag in [1_u16, 3, 0x7fff, 0x8001, 0xffff] {
                let mut tags = LedgerTags::default();
                tags.of[way] = tag;
                for other in [1_u16, 3, 5, 0x7fff, 0x8001, 0xfffd, 0xffff] {
                    assert_eq!(LedgerTags::has(bytemuck::cast(tags), other), other == tag, "{other:x} in {tags:x?}");
                    let mut both = tags;
                    both.of[(way + 1) % LEDGER_WAYS] = other;
                    assert!([tag, other].into_iter().all(|one| LedgerTags::has(bytemuck::cast(both), one)), "{both:x?}");
                }
            }
        }
    }

    #[test]
    fn sixteen_bits_of_a_moment_tell_its_tick() {
        for now in [1_u32, 500, 0xffff, 0x1_0000, 0x1_0001, 0xffff_fff0, u32::MAX] {
            for age in [0_u32, 1, 20, 0x8000, 0xfff0] {
                let then = now.wrapping_sub(age);
                let moment = SlotsRefused::moment(then);
                // A tick whose lower bits are 0 is told as the next.
                let told = then.wrapping_add(u32::from(then as u16 == 0));
                assert_eq!(SlotsRefused::tick(moment, now), told.max(1), "{now} - {age}");
                assert_eq!(SlotsRefused::age(moment, now), now.wrapping_sub(told).wrapping_add(8).saturating_sub(8), "{now} - {age}");
            }
            let ahead = SlotsRefused::moment(now.wrapping_add(3));
            assert_eq!(SlotsRefused::age(ahead, now), 0);
        }
        assert_eq!(SlotsRefused::tick(0, 99), 0);
    }

    #[test]
    fn a_flows_number_is_kept_but_for_its_lowest_bit() {
        for number in [0, 1, 2, 0x8000_0001, u32::MAX] {
            for ended in [false, true] {
                let word = LedgerWord::flow(0xfffe, 77).numbered(9, true).numbered(number, ended);
                assert_eq!((word.number(), word.has_ended()), (number & !1, ended));
                assert!(word.is_flow() && word.backend() == 0xfffe && word.age(78) == 1);
                assert_eq!(word.touched(80), LedgerWord::flow(0xfffe, 80).numbered(number, ended));
            }
        }
    }
}
