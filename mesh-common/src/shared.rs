//! Values that somebody else may be changing: map entries, which the daemon stores into while packets read them.
//!
//! All access is by one volatile load or store of a word, so nothing is torn, merged or read twice; what has to be seen together
//! shares a word. This file, and that of atomic words, are the ones of this crate with `unsafe` for memory.

mod atomic;

use core::{cell::Cell, marker::PhantomData, ptr::NonNull};

use crate::{
    abi::{
        BackendSignals, Config, DISPLACEMENTS, FLOW_WAYS, Family, FlowBucket, FlowEntry, Fragmented, LEDGER_WAYS, LedgerBucket,
        LedgerEntry, LedgerTags, NAT_SOURCES, NAT_WAYS, NatBucket, NatSource, SlotsRefused, SlotsSeen, TIME_STEPS, VipHalf,
    },
    fragment::Course,
    patch::{QUOTE, Quote},
};

/// A value in shared memory, at hand for `'a`.
pub struct Shared<'a, T> {
    place: NonNull<T>,
    life: PhantomData<&'a Cell<T>>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

/// What is loaded and stored whole.
pub trait Word: Copy + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! words {
    ($($t:ty),+) => { $( impl sealed::Sealed for $t {} impl Word for $t {} )+ };
}
words!(u8, u16, u32, u64, i64);

/// Loads the word that begins with a field: `read!(vip, Vip.seed as u64)`.
#[macro_export]
macro_rules! read {
    ($shared:expr, $t:ident $(. $field:ident)+ as $word:ty) => {
        $shared.load::<$word, { ::core::mem::offset_of!($t, $($field).+) }>()
    };
}

/// Stores the word that begins with a field: `put!(flow, NatFlow.seen as u32, now)`.
#[macro_export]
macro_rules! put {
    ($shared:expr, $t:ident . $field:ident as $word:ty, $value:expr) => {
        $shared.store::<$word, { ::core::mem::offset_of!($t, $field) }>($value)
    };
}

/// The values of cells that nobody else holds.
pub fn plain<T>(cells: &mut [Cell<T>]) -> &mut [T] {
    // SAFETY: a `Cell<T>` has the layout of a `T`, and is reached through nothing but the exclusive borrow that is given away here.
    unsafe { &mut *(core::ptr::from_mut(cells) as *mut [T]) }
}

impl<'a, T> Shared<'a, T> {
    /// The same place by a register of its own: a compiler that keeps the one of all others in memory loads it from there each time.
    #[inline(always)]
    pub(crate) fn again(self) -> Self {
        // SAFETY: it is the same address.
        unsafe { Self::new(NonNull::new_unchecked(in_order(self.place.as_ptr() as u64) as *mut T)) }
    }

    /// # Safety
    /// `place` is valid for reads and writes of a `T` and aligned for it throughout `'a`, any bytes are a `T`, and no reference to it exists.
    #[inline(always)]
    pub const unsafe fn new(place: NonNull<T>) -> Self {
        Self { place, life: PhantomData }
    }

    /// A value of this thread's own.
    pub fn of(cell: &'a Cell<T>) -> Self {
        Self { place: NonNull::from(cell).cast(), life: PhantomData }
    }

    /// The word at byte `AT`.
    #[inline(always)]
    pub fn load<W: Word, const AT: usize>(self) -> W {
        // SAFETY: `word` proves that the word lies within `T` and is aligned; `new` promises that `T` can be read.
        unsafe { self.word::<W, AT>().read_volatile() }
    }

    /// Stores the word at byte `AT`.
    #[inline(always)]
    pub fn store<W: Word, const AT: usize>(self, value: W) {
        // SAFETY: `word` proves that the word lies within `T` and is aligned; `new` promises that `T` can be written.
        unsafe { self.word::<W, AT>().write_volatile(value) }
    }

    /// Adds to a counter that only this CPU writes.
    #[inline(always)]
    pub fn count<const AT: usize>(self, more: u64) {
        self.store::<u64, AT>(self.load::<u64, AT>().wrapping_add(more));
    }

    /// Puts `new` into the 64-bit word at byte `AT` if `old` stands there; whether it did. A full barrier.
    #[inline(always)]
    pub fn exchange<const AT: usize>(self, old: u64, new: u64) -> bool {
        // SAFETY: `word` proves that the word lies within `T` and is aligned; `new` promises that `T` can be written.
        unsafe { atomic::exchange(self.word::<u64, AT>(), old, new) }
    }

    /// The same for a 32-bit word.
    #[inline(always)]
    pub fn exchange32<const AT: usize>(self, old: u32, new: u32) -> bool {
        // SAFETY: as for `exchange`.
        unsafe { atomic::exchange32(self.word::<u32, AT>(), old, new) }
    }

    /// Adds to a 32-bit counter that only this CPU writes.
    #[inline(always)]
    pub fn count32<const AT: usize>(self, more: u32) {
        self.store::<u32, AT>(self.load::<u32, AT>().wrapping_add(more));
    }

    /// Counts one more in the 64-bit word at byte `AT`, whoever else does so too; what stood there before.
    #[inline(always)]
    pub fn next<const AT: usize>(self) -> u64 {
        // SAFETY: as for `exchange`.
        unsafe { atomic::next(self.word::<u64, AT>()) }
    }

    /// Adds to the 64-bit word at byte `AT`, whoever else does so too.
    #[inline(always)]
    pub fn add<const AT: usize>(self, more: i64) {
        // SAFETY: as for `exchange`.
        unsafe { atomic::add(self.word::<i64, AT>(), more) }
    }

    #[inline(always)]
    fn word<W: Word, const AT: usize>(self) -> *mut W {
        const { assert!(AT + size_of::<W>() <= size_of::<T>() && AT.is_multiple_of(align_of::<W>()) && align_of::<W>() <= align_of::<T>()) };
        self.place.as_ptr().wrapping_byte_add(AT).cast()
    }

    /// Part of this value, `offset` bytes in.
    ///
    /// # Safety
    /// A `U` that any bytes are a value of lies at `offset`, aligned.
    #[inline(always)]
    unsafe fn part<U>(self, offset: usize) -> Shared<'a, U> {
        // SAFETY: the caller's promise; `new` promises the rest for all of `T`.
        unsafe { Shared::new(self.place.byte_add(offset).cast()) }
    }
}

impl<'a> Shared<'a, Config> {
    /// How the half of the VIP table is searched that [`Config::active`] names.
    #[inline(always)]
    pub fn half(self, active: u32) -> Shared<'a, VipHalf> {
        let at = core::mem::offset_of!(Config, halves) + masked::<{ VipHalf::STRIDE as i32 }>(active as u64);
        // SAFETY: the mask leaves the offset of one of two halves.
        unsafe { self.part(at) }
    }

    /// Displacement `index` of that half.
    #[inline(always)]
    pub fn displacement(self, active: u32, index: u64) -> u16 {
        const SIZE: usize = DISPLACEMENTS * size_of::<u16>();
        let at = masked::<{ VipHalf::STRIDE as i32 }>(active as u64) * (SIZE / VipHalf::STRIDE as usize)
            + masked::<{ DISPLACEMENTS as i32 - 1 }>(index) * size_of::<u16>();
        // SAFETY: the masks leave one of two halves and one of its displacements.
        unsafe { self.part::<u16>(core::mem::offset_of!(Config, displacements) + at).load::<u16, 0>() }
    }

    /// Which source address flow number `n` of this family has, where its backend leaves that open.
    #[inline(always)]
    pub fn share(self, family: Family, n: u64) -> u64 {
        let first = core::mem::offset_of!(Config, shares) + if family as u8 == Family::V4 as u8 { 0 } else { NAT_SOURCES };
        // SAFETY: the mask leaves one of the family's bytes.
        unsafe { self.part::<u8>(first + masked::<{ NAT_SOURCES as i32 - 1 }>(n)).load::<u8, 0>() as u64 }
    }

    /// Source address `index` of translated flows.
    #[inline(always)]
    pub fn source(self, index: u64) -> Shared<'a, NatSource> {
        let at = core::mem::offset_of!(Config, sources) + masked::<{ NAT_SOURCES as i32 - 1 }>(index) * size_of::<NatSource>();
        // SAFETY: the mask leaves one of the sources.
        unsafe { self.part(at) }
    }
}

impl<'a> Shared<'a, Quote> {
    /// Word `index` of the room. `index` is a loop's variable, whose range the verifier knows.
    #[inline(always)]
    pub fn at_word(self, index: usize) -> Shared<'a, u64> {
        // SAFETY: the remainder is one of the words.
        unsafe { self.part((index % (QUOTE / 8)) * size_of::<u64>()) }
    }

    /// Where the bytes lie, for a helper of the kernel's to fill or to read.
    pub fn place(self) -> NonNull<Quote> {
        self.place
    }
}

impl<'a> Shared<'a, Fragmented> {
    /// Word `index` of the entry. `index` is a loop's variable, whose range the verifier knows.
    #[inline(always)]
    pub fn at_word(self, index: usize) -> Shared<'a, u64> {
        const WORDS: usize = size_of::<Fragmented>() / size_of::<u64>();
        // SAFETY: the remainder is one of the words.
        unsafe { self.part((index % WORDS) * size_of::<u64>()) }
    }
}

impl<'a> Shared<'a, Course> {
    /// What becomes of the fragments.
    #[inline(always)]
    pub fn fragmented(self) -> Shared<'a, Fragmented> {
        // SAFETY: a `Fragmented` stands there, aligned as `Course` is.
        unsafe { self.part(core::mem::offset_of!(Course, fragmented)) }
    }
}

impl<'a> Shared<'a, BackendSignals> {
    /// Adds a time to the histogram that begins at byte `AT`, of [`TIME_STEPS`] steps.
    #[inline(always)]
    pub fn add_time<const AT: usize>(self, time: u64) {
        const { assert!(AT + TIME_STEPS * size_of::<u32>() <= size_of::<BackendSignals>()) };
        let step = masked::<{ TIME_STEPS as i32 - 1 }>(log2(time));
        // SAFETY: the mask leaves one of the steps, and the histogram lies within, as is asserted.
        let step = unsafe { self.part::<u32>(AT + step * size_of::<u32>()) };
        // SAFETY: a `Shared` can be written.
        unsafe { atomic::add32(step.word::<u32, 0>(), 1) };
    }
}

/// The highest bit's number, at most 31; 0 of 0.
#[inline(always)]
fn log2(n: u64) -> u64 {
    // By halves: there is no instruction for it, and a loop would cost the verifier more.
    let mut rest = if n > u32::MAX as u64 { u32::MAX as u64 } else { n };
    let mut log = 0;
    for bits in [16, 8, 4, 2, 1] {
        if rest >> bits != 0 {
            rest >>= bits;
            log += bits;
        }
    }
    log
}

impl<'a> Shared<'a, LedgerBucket> {
    /// Entry `way` of the bucket. `way` is a loop's variable, whose range the verifier knows.
    #[inline(always)]
    pub fn entry(self, way: usize) -> Shared<'a, LedgerEntry> {
        // SAFETY: the remainder is one of the ways.
        unsafe { self.part((way % LEDGER_WAYS) * size_of::<LedgerEntry>()) }
    }
}

impl<'a> Shared<'a, LedgerTags> {
    /// Tag of entry `way`. `way` is a loop's variable, whose range the verifier knows.
    #[inline(always)]
    pub fn way(self, way: usize) -> Shared<'a, u16> {
        // SAFETY: the remainder is one of the ways.
        unsafe { self.part((way % LEDGER_WAYS) * size_of::<u16>()) }
    }
}

impl<'a> Shared<'a, SlotsSeen> {
    /// The moment of the slot with this arena index.
    #[inline(always)]
    pub fn slot(self, index: u32) -> Shared<'a, u32> {
        // SAFETY: the mask leaves one of the slots.
        unsafe { self.part(masked::<{ SlotsSeen::SLOTS as i32 - 1 }>(index as u64) * size_of::<u32>()) }
    }
}

impl<'a> Shared<'a, SlotsRefused> {
    /// The moment of the slot with this arena index.
    #[inline(always)]
    pub fn slot(self, index: u32) -> Shared<'a, u16> {
        // SAFETY: the mask leaves one of the slots.
        unsafe { self.part(masked::<{ SlotsRefused::SLOTS as i32 - 1 }>(index as u64) * size_of::<u16>()) }
    }
}

impl<'a> Shared<'a, FlowBucket> {
    /// Entry `way` of the bucket. `way` is a loop's variable, whose range the verifier knows.
    #[inline(always)]
    pub fn flow(self, way: usize) -> Shared<'a, FlowEntry> {
        // SAFETY: the remainder is one of the ways.
        unsafe { self.part((way % FLOW_WAYS) * size_of::<FlowEntry>()) }
    }
}

impl<'a> Shared<'a, NatBucket> {
    /// Word `way` of the bucket. `way` is a loop's variable, whose range the verifier knows.
    #[inline(always)]
    pub fn way(self, way: usize) -> Shared<'a, u64> {
        // SAFETY: the remainder is one of the ways.
        unsafe { self.part((way % NAT_WAYS) * size_of::<u64>()) }
    }
}

/// `x & M`, as a verifier of any age can see.
#[inline(always)]
pub fn below<const M: i32>(x: u64) -> usize {
    masked::<M>(x)
}

/// `x & M` where the mask is certain to be the last operation before an index is used: verifiers before 6.10 forget a range after an OR or XOR
/// with a variable, and the compiler likes to move masks in front of those.
#[inline(always)]
#[cfg(target_arch = "bpf")]
fn masked<const M: i32>(mut x: u64) -> usize {
    // SAFETY: one AND of a register with a constant.
    unsafe { core::arch::asm!("{0} &= {m}", inout(reg) x, m = const M, options(nomem, nostack, preserves_flags, pure)) };
    x as usize
}

#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
fn masked<const M: i32>(x: u64) -> usize {
    (x & M as u64) as usize
}

/// `x & M` of which a verifier knows nothing but that: values that came about in many ways become one case to it, instead of each being followed
/// through all that comes after. `noise` is any value that it does not know.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub(crate) fn blurred<const M: i32>(mut x: u64, noise: u64) -> usize {
    // SAFETY: arithmetic of registers.
    unsafe {
        core::arch::asm!("{0} ^= {n}", "{0} ^= {n}", "{0} &= {m}", inout(reg) x, n = in(reg) noise, m = const M,
            options(nomem, nostack, preserves_flags, pure));
    }
    x as usize
}

#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn blurred<const M: i32>(x: u64, _noise: u64) -> usize {
    (x & M as u64) as usize
}

/// `x` of which a verifier knows nothing. `noise` is any value that it does not know.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub(crate) fn opaque(mut x: u64, noise: u64) -> u64 {
    // SAFETY: arithmetic of registers.
    unsafe {
        core::arch::asm!("{0} ^= {n}", "{0} ^= {n}", inout(reg) x, n = in(reg) noise, options(nomem, nostack, preserves_flags, pure))
    };
    x
}

#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn opaque(x: u64, _noise: u64) -> u64 {
    x
}

/// `x >> (by & 63)`. The machine masks by itself.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub(crate) fn shifted(mut x: u64, by: u32) -> u64 {
    // SAFETY: arithmetic of registers.
    unsafe { core::arch::asm!("{0} >>= {by}", inout(reg) x, by = in(reg) by as u64, options(nomem, nostack, preserves_flags, pure)) };
    x
}

#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn shifted(x: u64, by: u32) -> u64 {
    x >> (by & 63)
}

/// `x`, computed before anything that follows is loaded: a compiler that sees many loads at once wants to have them all at once, on a stack that
/// is small.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub fn in_order(x: u64) -> u64 {
    let copy;
    // SAFETY: a register is copied. (No instruction at all would do, but the kernel refuses an object that has a line of source for none.)
    unsafe { core::arch::asm!("{0} = {1}", lateout(reg) copy, in(reg) x, options(nostack, preserves_flags)) };
    copy
}

#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
pub fn in_order(x: u64) -> u64 {
    x
}
