//! The driver and the floors that the program under test is compared with.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_head},
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

use crate::run::{Run, TEMPLATE};

/// Mmapped by the bench.
const MMAPABLE: u32 = 1 << 10;

#[map]
static RUN: Array<Run> = Array::with_max_entries(1, MMAPABLE);

/// The program under test, in its only slot.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[xdp(frags)]
#[inline(always)]
pub fn bench_driver(ctx: XdpContext) -> u32 {
    drive(&ctx).unwrap_or(XDP_ABORTED)
}

/// Floor: what the repeat loop, the driver and the tail call cost by themselves.
#[xdp(frags)]
#[inline(always)]
pub fn bench_tx(_: XdpContext) -> u32 {
    XDP_TX
}

/// Floor: the least that any forwarding does.
#[xdp(frags)]
#[inline(always)]
pub fn bench_swap(ctx: XdpContext) -> u32 {
    let at = ctx.data();
    if at + 14 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: 14 bytes from `at` on were checked just above, and the packet may be read and written at any alignment.
    unsafe {
        let p = at as *mut u8;
        let destination = (p.cast::<u32>().read_unaligned(), p.add(4).cast::<u16>().read_unaligned());
        let source = (p.add(6).cast::<u32>().read_unaligned(), p.add(10).cast::<u16>().read_unaligned());
        p.cast::<u32>().write_unaligned(source.0);
        p.add(4).cast::<u16>().write_unaligned(source.1);
        p.add(6).cast::<u32>().write_unaligned(destination.0);
        p.add(10).cast::<u16>().write_unaligned(destination.1);
    }
    XDP_TX
}

/// Floor: the least that an IPv4 tunnel does: 20 bytes more of head, an Ethernet and an outer header written.
#[xdp(frags)]
#[inline(always)]
pub fn bench_encap(ctx: XdpContext) -> u32 {
    // SAFETY: `ctx` is the context that this program was called with.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -20) } != 0 {
        return XDP_ABORTED;
    }
    let at = ctx.data();
    if at + 34 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: 34 bytes from `at` on were checked just above, and the packet may be written at any alignment.
    unsafe {
        let p = at as *mut u8;
        p.cast::<u64>().write_unaligned(0x0002_0100_0000_0002);
        p.add(8).cast::<u64>().write_unaligned(0x0045_0008_0100_0000);
        p.add(16).cast::<u64>().write_unaligned(0x0440_0000_0000_5000);
        p.add(24).cast::<u64>().write_unaligned(0x010a_0000_010a_3412);
        p.add(32).cast::<u16>().write_unaligned(0x0100);
    }
    XDP_TX
}

/// The same for IPv6: 40 bytes.
#[xdp(frags)]
#[inline(always)]
pub fn bench_encap6(ctx: XdpContext) -> u32 {
    // SAFETY: `ctx` is the context that this program was called with.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -40) } != 0 {
        return XDP_ABORTED;
    }
    let at = ctx.data();
    if at + 56 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: 56 bytes from `at` on were checked just above, and the packet may be written at any alignment.
    unsafe {
        let p = at as *mut u64;
        p.write_unaligned(0x0002_0100_0000_0002);
        p.add(1).write_unaligned(0x0060_dd86_0100_0000);
        p.add(2).write_unaligned(0x00fd_4029_5000_0000);
        for word in 3..7 {
            p.add(word).write_unaligned(0x0100_0000_0000_0000);
        }
    }
    XDP_TX
}

#[inline(always)]
fn drive(ctx: &XdpContext) -> Option<u32> {
    let run = RUN.get_ptr_mut(0)?;
    // SAFETY: the map holds one `Run`, and no other CPU runs the driver.
    let run = unsafe { &mut *run };
    let have = (ctx.data_end() - ctx.data()) as u32;
    if run.seen == 0 {
        // SAFETY: the helper takes no argument.
        run.start_ns = unsafe { bpf_ktime_get_ns() };
    } else if have != run.len_out {
        run.bad += 1;
    }
    if run.seen == run.count {
        // SAFETY: as above.
        run.end_ns = unsafe { bpf_ktime_get_ns() };
        return Some(XDP_PASS);
    }
    run.seen += 1;
    if have != run.len {
        // SAFETY: `ctx` is the context that this program was called with.
        let failed = unsafe { bpf_xdp_adjust_head(ctx.ctx, have.wrapping_sub(run.len) as i32) } != 0;
        if failed {
            return None;
        }
    }
    stamp(ctx, run)?;
    // SAFETY: nothing of this frame is needed when it does not return.
    unsafe { NEXT.tail_call(ctx, 0) };
    None
}

/// Puts the first bytes back and writes the addresses and ports of the next flow.
#[inline(always)]
fn stamp(ctx: &XdpContext, run: &mut Run) -> Option<()> {
    // An odd multiplier: the flows of a power-of-two range come by once each, scattered.
    let flow = (run.flow & run.flow_mask).wrapping_mul(0x9e37_79b1) & run.flow_mask;
    run.flow = run.flow.wrapping_add(1);
    let service = ((flow.wrapping_mul(0x85eb_ca6b) & 0xffff_ffff) * run.services as u64) >> 32;
    let port = (1024 + (flow & 0x3fff)) as u16;
    let address = (flow >> 14) as u32;
    if run.family == 4 {
        restore::<8>(ctx, &run.template)?;
        write(ctx, 26, (0xac10_0001 + address).to_be())?;
        write(ctx, 30, (0x0a60_0001 + service as u32).to_be())?;
        write(ctx, 34, port.to_be())
    } else {
        restore::<10>(ctx, &run.template)?;
        write(ctx, 34, (1 + address).to_be())?;
        write(ctx, 50, (1 + service as u32).to_be())?;
        write(ctx, 54, port.to_be())
    }
}

#[inline(always)]
fn restore<const WORDS: usize>(ctx: &XdpContext, template: &[u8; TEMPLATE]) -> Option<()> {
    let at = ctx.data();
    if at + WORDS * 8 > ctx.data_end() {
        return None;
    }
    let (to, from) = (at as *mut u64, template.as_ptr().cast::<u64>());
    for i in 0..WORDS {
        // SAFETY: the frame holds WORDS words, as was just checked, and so does the template, which is aligned as `Run` is.
        unsafe { to.add(i).write_unaligned(from.add(i).read()) };
    }
    Some(())
}

#[inline(always)]
fn write<T>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
    let at = ctx.data() + offset;
    if at + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the frame holds a `T` there, as was just checked.
    unsafe { (at as *mut T).write_unaligned(value) };
    Some(())
}
