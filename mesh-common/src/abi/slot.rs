use bytemuck::{Pod, Zeroable};

/// Slot number within a service's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u32);

/// Flags of a slot. Zero is the steady state: no flow of the slot needs to be remembered.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct SlotFlags(pub u16);

impl SlotFlags {
    pub const STEADY: Self = Self(0);
    /// Some flows of the slot may have entries.
    pub const TRANSITION: Self = Self(1);
    /// A change is coming: every SYN is remembered with its present owner.
    pub const PREPARE: Self = Self(2);
    /// Flows that live by the default are remembered, so that the default can change.
    pub const LEARN: Self = Self(4);
    /// A SYN that can't be remembered is dropped.
    pub const STRICT: Self = Self(8);
    /// Flows that begin while nobody takes new ones are remembered as nobody's, so that the host gets all their packets.
    pub const HOST: Self = Self(16);

    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    pub const fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }

    pub const fn without(self, flag: Self) -> Self {
        Self(self.0 & !flag.0)
    }
}

/// One slot as it stands in the arena: `secondary | default | target | flags`, 16 bits each from the low end, in one aligned word that
/// is always read and written whole. The target stands where one comparison tells that a slot is at rest and somebody's ([`SlotWord::at_rest`]).
///
/// The three owners are backend indices within the service; [`SlotWord::NONE`] names nobody.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct SlotWord(pub u64);

impl SlotWord {
    /// The owner that is no backend.
    pub const NONE: u16 = u16::MAX;
    /// A slot that nobody owns.
    pub const EMPTY: Self = Self::new(Self::NONE, Self::NONE, Self::NONE, SlotFlags::STEADY);

    pub const fn new(target: u16, default: u16, secondary: u16, flags: SlotFlags) -> Self {
        Self(secondary as u64 | (default as u64) << 16 | (target as u64) << 32 | (flags.0 as u64) << 48)
    }

    /// A slot at rest: `target` owns old and new flows alike.
    pub const fn steady(target: u16, secondary: u16) -> Self {
        Self::new(target, target, secondary, SlotFlags::STEADY)
    }

    /// Where new flows go.
    pub const fn target(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Where flows without an entry go.
    pub const fn default(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Where to go if the target is down.
    pub const fn secondary(self) -> u16 {
        self.0 as u16
    }

    /// The target of a slot in the steady state, if it is a backend.
    #[inline(always)]
    pub const fn at_rest(self) -> Option<u32> {
        const NOBODY: u64 = (SlotWord::NONE as u64) << 32;
        if self.0 < NOBODY { Some((self.0 >> 32) as u32) } else { None }
    }

    pub const fn flags(self) -> SlotFlags {
        SlotFlags((self.0 >> 48) as u16)
    }

    pub const fn with_flags(self, flags: SlotFlags) -> Self {
        Self::new(self.target(), self.default(), self.secondary(), flags)
    }
}
