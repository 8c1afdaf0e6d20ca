//! Who has which flow, and which source: buckets of two cache lines, found by a hash. An entry belongs to whoever changed its claim from free, or from
//! expired, to busy; no live one gives way.

use core::mem::offset_of;

use crate::{
    abi::{Addr, Config, FLOW_WAYS, FlowBucket, FlowEntry, FlowWord, SlotWord},
    hash,
    header::{TCP, tcp},
    nat::Opening,
    read,
    shared::{Shared, blurred, opaque},
    tables::Tables,
};

const CLAIM: usize = offset_of!(FlowEntry, claim);
const WORD: usize = offset_of!(FlowEntry, word);

/// What tells hashes of sources from those of flows.
const SOURCES: u64 = 0x536f_7572_6365_7321;

/// What is remembered, as it is to one packet.
pub(super) struct Memory<'a, T> {
    pub tables: &'a T,
    pub config: Shared<'a, Config>,
    pub opening: Shared<'a, Opening>,
    pub now: u32,
}

impl<'a, T: Tables> Memory<'a, T> {
    /// First of the service's entries in the backend map.
    #[inline(always)]
    pub fn base(&self) -> u32 {
        read!(self.opening, Opening.backend_base as u32)
    }

    /// Whom a connection id names; [`SlotWord::NONE`] = nobody. Read anew each time: the stack has no room for it.
    #[inline(always)]
    pub fn named(&self) -> u16 {
        read!(self.opening, Opening.named as u32) as u16
    }

    #[inline(always)]
    pub fn is_named(&self) -> bool {
        self.named() != SlotWord::NONE
    }

    /// A connection id names somebody else.
    #[inline(always)]
    pub fn names_another(&self, backend: u16) -> bool {
        self.is_named() && self.named() != backend
    }

    /// The hash that the packet's flow is found by.
    #[inline(always)]
    pub fn flow(&self) -> u64 {
        read!(self.opening, Opening.hash as u64)
    }

    /// The hash that the packet's source is found by: one for each service.
    #[inline(always)]
    pub fn source(&self) -> u64 {
        const AT: usize = offset_of!(Opening, client);
        const { assert!(size_of::<Addr>() == 16) };
        let (first, second) = (self.opening.load::<u64, AT>(), self.opening.load::<u64, { AT + 8 }>());
        let [key, more] = hash::key(self.config);
        let service = (self.service() as u64) << 32;
        let mixed = hash::last(hash::step(hash::step(key ^ SOURCES ^ service, first), second) ^ more);
        mixed ^ (mixed >> 32)
    }

    #[inline(always)]
    fn service(&self) -> u32 {
        read!(self.opening, Opening.service as u32)
    }

    #[inline(always)]
    fn is_tcp(&self) -> bool {
        read!(self.opening, Opening.proto as u8) == TCP
    }

    /// The live entry of this hash, and what it says.
    #[inline(always)]
    pub fn find(&self, hash: u64) -> Option<(Shared<'a, FlowEntry>, FlowWord)> {
        let entry = self.entry(self.bucket(hash)?, hash)?;
        let word = FlowWord(entry.load::<u64, WORD>());
        (word.left(self.now) >= 0 && word.service() == self.service() & 0xff_ffff).then_some((entry, word))
    }

    /// The entry of this hash, live or not. In which place it lies is nothing that a verifier is to know: it would follow what comes for each.
    #[inline(always)]
    fn entry(&self, bucket: Shared<'a, FlowBucket>, hash: u64) -> Option<Shared<'a, FlowEntry>> {
        let mut found = FLOW_WAYS;
        for way in 0..FLOW_WAYS {
            if bucket.flow(way).load::<u64, CLAIM>() == claim(hash) {
                found = way;
                break;
            }
        }
        let found = blurred::<15>(found as u64, hash);
        (found < FLOW_WAYS).then(|| bucket.flow(found))
    }

    /// Makes this hash have an entry that says `word`; whether there was room.
    #[inline(always)]
    pub fn remember(&self, hash: u64, word: FlowWord) -> bool {
        let Some(bucket) = self.bucket(hash) else { return false };
        let done = match self.entry(bucket, hash) {
            Some(entry) => entry.exchange::<WORD>(entry.load::<u64, WORD>(), word.0),
            None => (0..FLOW_WAYS).any(|way| self.take(bucket.flow(way), claim(hash), word)),
        };
        opaque(done as u64, hash) != 0
    }

    /// Changes the claim of a place that is free, or whose entry has expired, and writes the entry.
    #[inline(always)]
    fn take(&self, place: Shared<'a, FlowEntry>, claim: u64, word: FlowWord) -> bool {
        let old = place.load::<u64, CLAIM>();
        if old == FlowEntry::BUSY || (old != 0 && FlowWord(place.load::<u64, WORD>()).left(self.now) >= 0) {
            return false;
        }
        if !place.exchange::<CLAIM>(old, FlowEntry::BUSY) {
            return false;
        }
        place.store::<u64, WORD>(word.0);
        place.exchange::<CLAIM>(FlowEntry::BUSY, claim)
    }

    #[inline(always)]
    pub fn forget(&self, entry: Shared<'_, FlowEntry>) {
        entry.exchange::<CLAIM>(claim(self.flow()), 0);
    }

    /// A flow that begins now.
    #[inline(always)]
    pub fn begun(&self, backend: u16) -> FlowWord {
        if self.is_tcp() {
            let ticks = read!(self.config, Config.nat.half_open_ticks as u32);
            FlowWord::new(self.service(), backend, FlowWord::PENDING, self.now, ticks)
        } else {
            FlowWord::new(self.service(), backend, 0, self.now, read!(self.config, Config.nat.udp_ticks as u32))
        }
    }

    /// The source of a flow that begins now.
    #[inline(always)]
    pub fn of_source(&self, backend: u16, ticks: u32) -> FlowWord {
        FlowWord::new(self.service(), backend, FlowWord::SOURCE, self.now, ticks)
    }

    /// Notes one more packet of a flow, by its TCP flags; whether it is the first that ends the flow.
    #[inline(always)]
    pub fn go_on(&self, entry: Shared<'_, FlowEntry>, word: FlowWord, flags: u8) -> bool {
        let (kind, ticks) = self.after(word.kind(), flags);
        let new = FlowWord::new(self.service(), word.backend(), kind, self.now, ticks);
        if new.0 == word.0 {
            return false;
        }
        let changed = entry.exchange::<WORD>(word.0, new.0);
        changed && kind & !word.kind() & FlowWord::ENDING != 0
    }

    /// What a flow is after a packet, and for how long it may then be silent.
    #[inline(always)]
    fn after(&self, kind: u8, flags: u8) -> (u8, u32) {
        if !self.is_tcp() {
            return (kind, read!(self.config, Config.nat.udp_ticks as u32));
        }
        if flags & tcp::RST != 0 {
            return (kind | FlowWord::ENDING, read!(self.config, Config.nat.closed_ticks as u32));
        }
        if flags & tcp::FIN != 0 || kind & FlowWord::ENDING != 0 {
            return (kind & !FlowWord::PENDING | FlowWord::ENDING, read!(self.config, Config.nat.closing_ticks as u32));
        }
        if kind & FlowWord::PENDING != 0 && flags & tcp::ACK == 0 {
            return (kind, read!(self.config, Config.nat.half_open_ticks as u32));
        }
        (kind & !FlowWord::PENDING, read!(self.config, Config.nat.established_ticks as u32))
    }

    #[inline(always)]
    fn bucket(&self, hash: u64) -> Option<Shared<'a, FlowBucket>> {
        self.tables.flow_bucket((hash >> 8) as u32 & read!(self.config, Config.nat.remembered_mask as u32))
    }
}

/// What the claim of an entry of this hash is.
#[inline(always)]
const fn claim(hash: u64) -> u64 {
    hash | 2
}
