//! Every packet ends in exactly one count: received = forwarded by backends + each (service, reason).

use core::mem::offset_of;

use crate::{
    abi::{Action, BackendStats, REASONS, Reason, ReasonStats, RxStats},
    forward::{Sending, Verdict},
    packet::Packet,
    rewrite::Rewrite,
    tables::Tables,
};

/// What the entry point does with the frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// To the host, untouched.
    Pass,
    Drop,
    /// Out of the interface that it came in by.
    Transmit,
    /// Out of this interface.
    Redirect(u32),
}

/// Counts a packet in, before anything of it is looked at.
#[inline(always)]
pub fn received<P: Packet, T: Tables>(packet: &P, tables: &T) {
    if let Some(rx) = tables.rx_stats() {
        rx.count::<{ offset_of!(RxStats, packets) }>(1);
        rx.count::<{ offset_of!(RxStats, bytes) }>(packet.linear() as u64);
    }
}

/// Carries a verdict out, and counts it.
#[inline(always)]
pub fn settle<P: Packet + Rewrite, T: Tables>(packet: &mut P, tables: &T, verdict: &Verdict) -> Exit {
    match verdict {
        Verdict::End { service, reason } => {
            ended(tables, *service, *reason, packet.linear());
            if reason.action() == Action::Pass { Exit::Pass } else { Exit::Drop }
        }
        Verdict::Send(sending) => send(packet, tables, sending),
    }
}

#[inline(always)]
fn send<P: Packet + Rewrite, T: Tables>(packet: &mut P, tables: &T, sending: &Sending) -> Exit {
    let linear = packet.linear();
    let exit = match sending.ifindex {
        0 => Exit::Transmit,
        ifindex if ifindex == packet.ifindex() => Exit::Transmit,
        ifindex => Exit::Redirect(ifindex),
    };
    if !packet.rewrite(&sending.edit) {
        ended(tables, sending.service, Reason::Malformed, linear);
        return Exit::Drop;
    }
    if sending.end > linear {
        received_more(tables, sending.end - linear);
    }
    let bytes = sending.end.max(linear) as u64;
    let Some(stats) = tables.backend_stats(sending.stats) else {
        ended(tables, sending.service, sending.reason, bytes as usize);
        return exit;
    };
    match (sending.reason == Reason::Replied, exit == Exit::Transmit) {
        (false, true) => stats.count::<{ offset_of!(BackendStats, tx) }>(1),
        (false, false) => stats.count::<{ offset_of!(BackendStats, redirect) }>(1),
        (true, true) => stats.count::<{ offset_of!(BackendStats, reply_tx) }>(1),
        (true, false) => stats.count::<{ offset_of!(BackendStats, reply_redirect) }>(1),
    }
    if sending.reason == Reason::Replied {
        stats.count::<{ offset_of!(BackendStats, reply_bytes) }>(bytes);
    } else {
        stats.count::<{ offset_of!(BackendStats, bytes) }>(bytes);
        if sending.opens {
            stats.count::<{ offset_of!(BackendStats, flows) }>(1);
        }
    }
    exit
}

/// What a packet of several buffers has beyond the first one.
#[inline(never)]
fn received_more<T: Tables>(tables: &T, bytes: usize) {
    if let Some(rx) = tables.rx_stats() {
        rx.count::<{ offset_of!(RxStats, bytes) }>(bytes as u64);
    }
}

#[inline(always)]
fn ended<T: Tables>(tables: &T, service: u32, reason: Reason, bytes: usize) {
    if let Some(stats) = tables.reason_stats(service.wrapping_mul(REASONS).wrapping_add(reason as u32)) {
        stats.count::<{ offset_of!(ReasonStats, packets) }>(1);
        stats.count::<{ offset_of!(ReasonStats, bytes) }>(bytes as u64);
    }
}
