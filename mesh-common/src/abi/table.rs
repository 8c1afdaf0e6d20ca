//! Tables that programs reach by their address: arrays that the loader makes, and names in the object before it is loaded.
//!
//! Where the kernel lets a table be the one value of its map, its entries are found without a call: address + index x size. The object has
//! constants in the place of what is not known before ([`Table::constant`]).

use super::{
    Backend, BackendLoad, BackendSignals, Config, FlowBucket, Fragmented, LedgerBucket, LedgerCrowd, LedgerTags, NatBucket, NatFlow,
    NatGauges, Schedule, ServiceInfo, SlotWord, SlotsRefused, SlotsSeen, Vip,
};

/// What stands for a fact in the object.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// Where the first entry is.
    Address = 0,
    /// Number of entries that are reached by address: 0, or all.
    Entries = 1,
    /// The map, for those that are not.
    Map = 2,
}

macro_rules! tables {
    ($($(#[$doc:meta])+ $table:ident($entry:ty) = $name:literal,)+) => {
        /// A table by its name in the objects.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Table { $( $(#[$doc])+ $table, )+ }

        impl Table {
            pub const ALL: &[Self] = &[$( Self::$table ),+];

            /// Name of the map, and of its pin.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$table => $name ),+ }
            }

            /// Bytes of an entry.
            pub const fn entry_size(self) -> usize {
                match self { $( Self::$table => size_of::<$entry>() ),+ }
            }
        }
    };
}

tables! {
    /// One [`Config`].
    Config(Config) = "CONFIG",
    /// [`Vip`] by perfect-hash position, two halves.
    Vips(Vip) = "VIPS",
    /// [`ServiceInfo`] by service id.
    Services(ServiceInfo) = "SERVICES",
    /// [`SlotWord`] by arena index.
    Slots(SlotWord) = "SLOTS",
    /// [`SlotsSeen`] by arena index / 2.
    SlotsSeen(SlotsSeen) = "SLOTS_SEEN",
    /// [`SlotsRefused`] by arena index / 4.
    SlotsRefused(SlotsRefused) = "SLOTS_REFUSED",
    /// [`LedgerTags`] by bucket.
    LedgerTags(LedgerTags) = "LEDGER_TAGS",
    /// One [`LedgerCrowd`].
    LedgerCrowd(LedgerCrowd) = "LEDGER_CROWD",
    /// [`LedgerBucket`] by flow hash.
    Ledger(LedgerBucket) = "LEDGER",
    /// [`Backend`] by `Vip::backend_base` + service-local index.
    Backends(Backend) = "BACKENDS",
    /// [`NatBucket`] by flow hash: the way from a client's packet to its flow.
    NatIndex(NatBucket) = "NAT_INDEX",
    /// [`NatFlow`] by reverse hash: the flows themselves.
    NatFlows(NatFlow) = "NAT_FLOWS",
    /// One [`NatGauges`].
    NatGauges(NatGauges) = "NAT_GAUGES",
    /// [`BackendSignals`] by `Backend::stats`.
    BackendSignals(BackendSignals) = "BACKEND_SIGNALS",
    /// [`super::FRAGMENTED`] entries of [`Fragmented`] by a hash of what the fragments of a packet share.
    Fragments(Fragmented) = "FRAGMENTS",
    /// [`crate::guard::PACERS`] words.
    Pacers(u64) = "PACERS",
    /// [`Schedule`] by service id.
    Schedules(Schedule) = "SCHEDULES",
    /// [`BackendLoad`] by `Backend::stats`.
    BackendLoads(BackendLoad) = "BACKEND_LOADS",
    /// [`FlowBucket`] by a hash of the flow, or of the source: who has which backend.
    Flows(FlowBucket) = "FLOWS",
}

impl Table {
    /// The high half of the constants, which no other constant of an object has.
    const MARK: u32 = 0x6d68_7462;

    /// What stands in the object for a fact about this table.
    pub const fn constant(self, fact: Fact) -> i64 {
        (Self::MARK as i64) << 32 | (fact as i64) << 8 | self as i64
    }

    /// What a constant stands for, if it stands for something.
    pub fn of_constant(constant: u64) -> Option<(Self, Fact)> {
        let [table, fact, 0, 0, mark @ ..] = constant.to_le_bytes() else { return None };
        let fact = [Fact::Address, Fact::Entries, Fact::Map].into_iter().find(|f| *f as u8 == fact)?;
        let table = Self::ALL.iter().copied().find(|t| *t as u8 == table)?;
        (u32::from_le_bytes(mark) == Self::MARK).then_some((table, fact))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_stand_for_one_fact_each() {
        for table in Table::ALL.iter().copied() {
            assert!(table.entry_size().is_multiple_of(8), "{} would not lie in an array as in a slice", table.name());
            for fact in [Fact::Address, Fact::Entries, Fact::Map] {
                assert_eq!(Table::of_constant(table.constant(fact) as u64), Some((table, fact)));
            }
        }
        for other in [0, 1, u64::MAX, 0x6d68_7462 << 32 | 0x3_00, 0x6d68_7462 << 32 | 0xff, 0x6d68_7462 << 32 | 1 << 16] {
            assert_eq!(Table::of_constant(other), None, "{other:#x}");
        }
    }
}
