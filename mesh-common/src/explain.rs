//! What the engine would make of a packet: the same decisions, told and not carried out.
//!
//! That nothing is left behind is for the tables to see to: those that it is run with hand out copies of what the engine writes to.

use core::mem::offset_of;

use crate::{
    abi::{Explained, Reason, TableRef, Vip},
    aside::Cause,
    flow::{Address, Tuple},
    forward::{Arrival, Run, Sign, Sink, Way},
    nat::Opening,
    packet::Packet,
    put, read,
    rewrite::{Edit, Network, Outer},
    schedule::Choice,
    shared::Shared,
    tables::Tables,
};

const SRC: usize = offset_of!(Explained, src);
const DST: usize = offset_of!(Explained, dst);

/// Tells what would become of the packet; `out` is zeroed.
#[inline(always)]
pub fn explain<P: Packet, T: Tables>(packet: &mut P, tables: &T, out: Shared<'_, Explained>) -> Reason {
    if let Some(opening) = tables.opening() {
        put!(opening, Opening.chosen as u32, Choice::NONE.word());
    }
    let reason = Run { packet, tables, sink: Tell { out } }.start();
    if let Some(opening) = tables.opening() {
        put!(out, Explained.by as u8, (read!(opening, Opening.chosen as u32) >> 16) as u8);
    }
    reason
}

struct Tell<'a> {
    out: Shared<'a, Explained>,
}

impl<P, T> Sink<P, T> for Tell<'_> {
    type Done = Reason;

    #[inline(always)]
    fn arrived<A: Address>(&self, arrival: &Arrival<'_, A>) {
        put!(self.out, Explained.hash as u64, arrival.chooser());
        put!(self.out, Explained.table as u64, TableRef(read!(arrival.vip, Vip.table as u64)).0);
        put!(self.out, Explained.service as u32, arrival.service());
        put!(self.out, Explained.backend_base as u32, read!(arrival.vip, Vip.backend_base as u32));
        put!(self.out, Explained.mode as u8, read!(arrival.vip, Vip.mode as u8));
    }

    #[inline(always)]
    fn end(self, _: &mut P, _: &T, service: u32, reason: Reason) -> Reason {
        put!(self.out, Explained.service as u32, service);
        put!(self.out, Explained.reason as u8, reason as u8);
        reason
    }

    #[inline(always)]
    fn note(&self, _: &T, _: impl FnOnce() -> u32, _: Sign) {}

    #[inline(always)]
    fn send(self, _: &mut P, _: &T, way: Way, service: impl Fn() -> u32, edit: impl Fn() -> Edit) -> Reason {
        let (out, sending) = (self.out, way.sending(service(), edit()));
        put!(out, Explained.opens as u8, way.opens as u8);
        put!(out, Explained.service as u32, sending.service);
        put!(out, Explained.stats as u32, sending.stats);
        put!(out, Explained.ifindex as u32, sending.ifindex);
        put!(out, Explained.dst_mac as u64, sending.edit.macs.dst);
        put!(out, Explained.src_mac as u64, sending.edit.macs.src);
        put!(out, Explained.reason as u8, sending.reason as u8);
        match sending.edit.network {
            Network::Untouched => put!(out, Explained.edit as u8, Explained::UNTOUCHED),
            Network::V4(translation) => tuple(out, Explained::V4, translation.tuple),
            Network::V6(translation) => tuple(out, Explained::V6, translation.tuple),
            Network::Encap(encap) => match encap.outer {
                Outer::V4 { src, dst, .. } => tuple(out, Explained::OUTER_V4, Tuple { src, dst, ports: 0 }),
                Outer::V6 { src, dst, .. } => tuple(out, Explained::OUTER_V6, Tuple { src, dst, ports: 0 }),
            },
        }
        sending.reason
    }

    #[inline(always)]
    fn aside(self, packet: &mut P, tables: &T, cause: Cause) -> Reason {
        self.end(packet, tables, cause.service(), cause.reason())
    }
}

#[inline(always)]
fn tuple<A: Address>(out: Shared<'_, Explained>, edit: u8, tuple: Tuple<A>) {
    put!(out, Explained.edit as u8, edit);
    tuple.src.store::<Explained, SRC, { SRC + 8 }>(out);
    tuple.dst.store::<Explained, DST, { DST + 8 }>(out);
    put!(out, Explained.ports as u32, tuple.ports);
}
