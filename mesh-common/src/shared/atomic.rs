//! Words that both halves change at once. The target has no atomics that the compiler knows; the machine has (ISA v3).

#[cfg(target_arch = "bpf")]
pub use bpf::*;
#[cfg(not(target_arch = "bpf"))]
pub use host::*;

#[cfg(target_arch = "bpf")]
mod bpf {
    use core::arch::asm;

    #[inline(always)]
    pub unsafe fn exchange(place: *mut u64, old: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: the caller's promise that `place` is a word that can be written.
        unsafe { asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", p = in(reg) place, n = in(reg) new, inout("r0") old => found) };
        found == old
    }

    #[inline(always)]
    pub unsafe fn exchange32(place: *mut u32, old: u32, new: u32) -> bool {
        let found: u32;
        // SAFETY: the caller's promise that `place` is a word that can be written.
        unsafe { asm!("w0 = cmpxchg32_32({p} + 0, w0, {n})", p = in(reg) place, n = in(wreg) new, inout("w0") old => found) };
        found == old
    }

    #[inline(always)]
    pub unsafe fn add(place: *mut i64, more: i64) {
        // SAFETY: the caller's promise that `place` is a word that can be written.
        unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) place, v = in(reg) more) };
    }

    #[inline(always)]
    pub unsafe fn next(place: *mut u64) -> u64 {
        let mut one = 1_u64;
        // SAFETY: the caller's promise that `place` is a word that can be written.
        unsafe { asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", p = in(reg) place, v = inout(reg) one) };
        one
    }

    #[inline(always)]
    pub unsafe fn add32(place: *mut u32, more: u32) {
        // SAFETY: the caller's promise that `place` is a word that can be written.
        unsafe { asm!("lock *(u32 *)({p} + 0) += {v}", p = in(reg) place, v = in(wreg) more) };
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

    pub unsafe fn exchange(place: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: the caller's promise that `place` is an aligned word that can be written.
        unsafe { AtomicU64::from_ptr(place) }.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    pub unsafe fn exchange32(place: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: the caller's promise that `place` is an aligned word that can be written.
        unsafe { AtomicU32::from_ptr(place) }.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    pub unsafe fn add(place: *mut i64, more: i64) {
        // SAFETY: the caller's promise that `place` is an aligned word that can be written.
        unsafe { AtomicI64::from_ptr(place) }.fetch_add(more, SeqCst);
    }

    pub unsafe fn next(place: *mut u64) -> u64 {
        // SAFETY: the caller's promise that `place` is an aligned word that can be written.
        unsafe { AtomicU64::from_ptr(place) }.fetch_add(1, SeqCst)
    }

    pub unsafe fn add32(place: *mut u32, more: u32) {
        // SAFETY: the caller's promise that `place` is an aligned word that can be written.
        unsafe { AtomicU32::from_ptr(place) }.fetch_add(more, SeqCst);
    }
}
