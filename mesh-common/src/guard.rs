//! Who may use a service: sources that can't be are kept out, and so are those that its list denies, and new connections beyond what one source, or all
//! together, may open.
//!
//! A service that wants none of it pays for none of it: its flags are asked with its mode. What it wants is done by a function of its own.

use crate::{
    abi::{Family, Reason, ServiceFlags, SourcePrefix, Vip},
    answer::Answered,
    flow::{V4, V6},
    forward, hash,
    header::{Headers, Ip, Sound, tcp},
    packet::Packet,
    read,
    shared::Shared,
    tables::Tables,
};

/// Words for sources, a power of two; sources share one by chance, and then what it allows.
const SOURCES: u32 = 1 << 16;
/// Words for services.
const SERVICES: u32 = 1 << 16;
/// Words of the map: each the time up to which what came is paid for.
pub const PACERS: u32 = SOURCES + SERVICES;
/// Connections that were not opened in the last second may be opened at once.
const BURST: u64 = 1_000_000_000;
/// Times that a word is tried to be changed, while other CPUs change it too.
const TRIES: usize = 4;

/// Flags of services that something is asked about here.
pub(crate) const ASKED: u16 = ServiceFlags::STRICT | ServiceFlags::LISTS | ServiceFlags::RATES;

/// What is asked about a packet: the flags, the family and the service, in one word.
#[derive(Clone, Copy)]
struct Question(u64);

impl Question {
    const fn wants(self, flag: u16) -> bool {
        self.0 as u16 & flag != 0
    }

    const fn service(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Why a packet for `vip` is kept out, whose flags are `wanted`. Before the packet is read for good, so that little has to be
/// kept meanwhile.
#[inline(always)]
pub(crate) fn refused<A: Ip, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    vip: Shared<'_, Vip>,
    wanted: u16,
    headers: &Headers<A>,
) -> Option<Reason> {
    if wanted & ASKED == 0 {
        return None;
    }
    // What is not sound is not counted.
    let Sound { src, flags, .. } = headers.check(packet).ok()?;
    let connects = flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let wanted = wanted & if connects { ASKED } else { ASKED & !ServiceFlags::RATES };
    if wanted == 0 {
        return None;
    }
    let last = read!(vip, Vip.service_limit as u64);
    let limits = read!(vip, Vip.source_limit as u32) as u64 | last << 32;
    let question = Question(wanted as u64 | (A::FAMILY as u64) << 16 | (read!(vip, Vip.service as u32) as u64) << 32);
    match tables.guard(src.words(), limits, question.0, (last >> 32) as u32) {
        0 => None,
        reason => Some(Reason::from_u8(reason as u8)),
    }
}

/// 0, or the [`Reason`] that a packet is kept out for. `source`: its address, as the engine has it; `limits`: [`crate::abi::Vip::source_limit`] and,
/// above it, [`crate::abi::Vip::service_limit`]; `question`: the flags, 16 bits, the family, and the service in the upper half; `list`:
/// [`crate::abi::Vip::list`].
#[inline(always)]
pub fn guard<T: Tables>(tables: &T, source: [u64; 2], limits: u64, question: u64, list: u32) -> u32 {
    let question = Question(question);
    // Before all that is kept for the rest: the key is 24 bytes of the stack.
    let denied = question.wants(ServiceFlags::LISTS) && tables.listed(list, source) != SourcePrefix::ALLOWED;
    if denied {
        return Reason::Denied as u32;
    }
    if (question.0 >> 16) as u8 == Family::V4 as u8 {
        judge(tables, V4(source[0] as u32), source[0], limits, question)
    } else {
        // Whoever has one address of a network of 64 bits has them all.
        judge(tables, V6(source), source[0], limits, question)
    }
}

#[inline(always)]
fn judge<A: Answered, T: Tables>(tables: &T, source: A, network: u64, limits: u64, question: Question) -> u32 {
    let Some(config) = tables.config() else { return Reason::BadTable as u32 };
    if question.wants(ServiceFlags::STRICT)
        && (!source.is_somebody() || forward::find(tables, config, source, (A::FAMILY as u32) << 24).is_some())
    {
        return Reason::Spoofed as u32;
    }
    if !question.wants(ServiceFlags::RATES) {
        return 0;
    }
    let now = tables.nanoseconds();
    let [key, _] = hash::key(config);
    let spread = hash::last(hash::step(hash::step(key, network), question.service() as u64));
    let source = (spread >> 48) as u32 & (SOURCES - 1);
    if !pays(tables, source, limits as u32, now) {
        return Reason::SourceRate as u32;
    }
    if !pays(tables, SOURCES + (question.service() & (SERVICES - 1)), (limits >> 32) as u32, now) {
        return Reason::ServiceRate as u32;
    }
    0
}

/// Takes one connection from what word `index` allows, if that leaves something. `limit`: time for each, in units of 1024 ns; 0 = no limit.
///
/// The word is the time at which all that came would have come in step (the "virtual scheduling" form of a token bucket, ITU-T I.371): it may be ahead of now
/// by the burst, and by one connection at least.
#[inline(always)]
fn pays<T: Tables>(tables: &T, index: u32, limit: u32, now: u64) -> bool {
    if limit == 0 {
        return true;
    }
    let Some(word) = tables.pacer(index) else { return true };
    let each = (limit as u64) << 10;
    let ahead = if each > BURST { each } else { BURST };
    for _ in 0..TRIES {
        let old = word.load::<u64, 0>();
        let paid = (if old > now { old } else { now }) + each;
        if paid > now + ahead {
            return false;
        }
        if word.exchange::<0>(old, paid) {
            return true;
        }
    }
    true
}
