//! Functions that the verifier follows once, and not from each place and state that they are called from: global functions of the object.

use mesh_common::{
    flow_log::{self, Beginning},
    fragment, guard, handshake,
    ledger::places,
    nat, schedule,
};

use crate::{explain::Copies, maps::Maps};

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_open_flow() -> u64 {
    nat::open_flow(&Maps)
}

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_note_handshake(hash: u64, stats: u32, step: u32) -> u32 {
    handshake::note(&Maps, hash, stats, step);
    0
}

/// The words of a [`Beginning`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_tell_flow(client: u64, more: u64, key: u64, whose: u64, ports: u64) -> u32 {
    flow_log::tell(&Maps, Beginning { client: [client, more], key, whose, ports });
    0
}

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_open() -> u64 {
    nat::open_flow(&Copies)
}

/// As [`mesh_open_flow`]: what becomes of a packet's fragments.
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_complete_course(answer: u64) -> u64 {
    fragment::complete(&Maps, answer)
}

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_remember_course() -> u32 {
    fragment::remember(&Maps);
    0
}

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_recall_course() -> u32 {
    fragment::recall(&Maps) as u32
}

/// As [`mesh_open_flow`]: what a packet does whose slot is not at rest.
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_follow(slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
    places::follow(&Maps, slot, base, hash, sent)
}

/// As [`mesh_explain_open`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_follow(slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
    places::follow(&Copies, slot, base, hash, sent)
}

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_guard(first: u64, second: u64, limits: u64, question: u64, list: u32) -> u32 {
    guard::guard(&Maps, [first, second], limits, question, list)
}

/// As [`mesh_explain_open`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_guard(first: u64, second: u64, limits: u64, question: u64, list: u32) -> u32 {
    guard::guard(&Copies, [first, second], limits, question, list)
}

/// As [`mesh_open_flow`]: what the first packet of a flow does whose service has a scheduler, and where nobody translates every packet.
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_choose(sent: u64) -> u64 {
    schedule::choose(&Maps, sent)
}

/// As [`mesh_explain_open`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_choose(sent: u64) -> u64 {
    schedule::choose(&Copies, sent)
}

#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_pick() -> u64 {
    schedule::pick(&Maps)
}

/// As [`mesh_explain_open`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_pick() -> u64 {
    schedule::pick(&Copies)
}

/// One look of [`mesh_pick`]: followed once by the verifier, and not for each backend that is looked at.
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_cost(base: u32, index: u32, scheduler: u32) -> u64 {
    schedule::cost(&Maps, base, index as u16, scheduler)
}

/// As [`mesh_explain_open`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_cost(base: u32, index: u32, scheduler: u32) -> u64 {
    schedule::cost(&Copies, base, index as u16, scheduler)
}

/// As [`mesh_open_flow`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_owner(slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
    schedule::owner(&Maps, slot, base, key, sent, asked)
}

/// As [`mesh_explain_open`].
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
pub extern "C" fn mesh_explain_owner(slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
    schedule::owner(&Copies, slot, base, key, sent, asked)
}
