//! From the program that takes packets as nearly all are to the one that takes the rest.

use aya_ebpf::{macros::map, maps::ProgramArray, programs::XdpContext};

/// The other program, put here by the loader before the first one is attached.
#[map]
static XDP_REST: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Leaves the packet to the other program, and does not return. If it does, there is none.
#[inline(always)]
pub fn leave(ctx: &XdpContext) {
    // SAFETY: the map has one place; nothing of this program's is needed when the call does not return.
    unsafe { XDP_REST.tail_call(ctx, 0) };
}
