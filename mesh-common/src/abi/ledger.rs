use bytemuck::{Pod, Zeroable};

/// Entries of a bucket.
pub const LEDGER_WAYS: usize = 4;

/// What the packets of a slot that is not at rest tell the daemon, by arena index. Ticks (see [`super::NatConfig::TICK_SHIFT`]); 0 = never.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct SlotMemo {
    /// The last packet that was sent to somebody who is not the slot's target.
    pub seen: u32,
    /// The last flow that could not be remembered.
    pub refused: u32,
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
