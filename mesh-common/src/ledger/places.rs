//! Where entries lie: buckets of a cache line, found by the flow's hash. An entry belongs to whoever changed its claim from free, or from expired, to
//! busy; readers compare the claim before and after.

use core::mem::offset_of;

use crate::{
    abi::{Backend, BackendState, Config, LEDGER_WAYS, LedgerEntry, LedgerStats, LedgerWord, Reason, SlotMemo, SlotWord},
    ledger::{
        rules::{self, Entry, Kind, Memory, Sent, Standing},
        second,
    },
    put, read,
    select::Candidate,
    shared::Shared,
    tables::Tables,
};

const CLAIM: usize = offset_of!(LedgerEntry, claim);
const WORD: usize = offset_of!(LedgerEntry, word);

/// What a packet tells of its flow, and the answer, each as one word: they pass between parts of a program that are verified apart.
impl Sent {
    const SYN: u64 = 1 << 32;
    const SEGMENT: u64 = 2 << 32;
    const DATAGRAM: u64 = 3 << 32;
    const FIN: u64 = 4 << 32;
    const RESET: u64 = 0;

    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        match self {
            Self::Syn { isn } => Self::SYN | isn as u64,
            Self::Segment { seq } => Self::SEGMENT | seq as u64,
            Self::Datagram => Self::DATAGRAM,
            Self::Fin { seq } => Self::FIN | seq as u64,
            Self::Reset { seq } => Self::RESET | seq as u64,
        }
    }

    #[inline(always)]
    const fn unpack(word: u64) -> Self {
        let number = word as u32;
        match word & 7 << 32 {
            Self::SYN => Self::Syn { isn: number },
            Self::SEGMENT => Self::Segment { seq: number },
            Self::DATAGRAM => Self::Datagram,
            Self::FIN => Self::Fin { seq: number },
            _ => Self::Reset { seq: number },
        }
    }
}

/// The backend that takes a packet of this slot, with who else may have its flow in bits 32 to 47; or 2^16 + the reason why nobody does. `hash`: the flow's
/// [`LedgerEntry::key`]; `sent`: a packed
/// [`Sent`].
#[inline(always)]
pub fn follow<T: Tables>(tables: &T, slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
    match follow_to(tables, slot, base, hash, Sent::unpack(sent)) {
        Ok((backend, other)) => answer(backend, other),
        Err(reason) => REFUSED | reason as u64,
    }
}

const REFUSED: u64 = 1 << 16;

/// As [`follow`] answers: the backend, and who else may have the flow.
#[inline(always)]
pub(crate) const fn answer(backend: u16, other: u16) -> u64 {
    backend as u64 | (other as u64) << 32
}

/// What [`follow`] has answered.
#[inline(always)]
pub(crate) const fn followed(answer: u64) -> Result<(u16, u16), Reason> {
    if answer & REFUSED == 0 { Ok((answer as u16, (answer >> 32) as u16)) } else { Err(Reason::from_u8(answer as u8)) }
}

#[inline(always)]
fn follow_to<T: Tables>(tables: &T, slot: u32, base: u32, hash: u64, sent: Sent) -> Result<(u16, u16), Reason> {
    let (Some(config), Some(word), Some(memo)) = (tables.config(), tables.slot(slot), tables.slot_memo(slot)) else {
        return Err(Reason::BadTable);
    };
    let mut places = Places::of(tables, config, memo, hash);
    match rules::owner(word, sent, |index| standing(tables, base, index), &mut places) {
        Some(backend) => Ok((backend, other(tables, base, word, backend))),
        None => Err(Reason::NoBackend),
    }
}

/// Who of the slot's owners may have a flow that `chosen` knows nothing of, if that can be told it (by GUE).
#[inline(always)]
fn other<T: Tables>(tables: &T, base: u32, word: SlotWord, chosen: u16) -> u16 {
    match Candidate::at(tables, base, chosen) {
        Some(backend) if backend.flags() & Backend::GUE != 0 => second::other(word, chosen, |index| standing(tables, base, index)),
        _ => SlotWord::NONE,
    }
}

/// How a backend stands for the slots that name it.
#[inline(always)]
fn standing<T: Tables>(tables: &T, base: u32, index: u16) -> Standing {
    let Some(backend) = Candidate::at(tables, base, index) else { return Standing::Dead };
    match backend.state() {
        BackendState::Active | BackendState::Recovering | BackendState::Settling if backend.ready() => Standing::Takes,
        state if state.keeps_old() => Standing::Keeps,
        _ => Standing::Dead,
    }
}

/// The ledger, as it is to one packet.
struct Places<'a, T> {
    tables: &'a T,
    config: Shared<'a, Config>,
    memo: Shared<'a, SlotMemo>,
    now: u32,
    hash: u64,
    /// The flow's own place, whether its entry is live or has expired.
    own: Option<Shared<'a, LedgerEntry>>,
    word: LedgerWord,
}

impl<'a, T: Tables> Places<'a, T> {
    #[inline(always)]
    fn of(tables: &'a T, config: Shared<'a, Config>, memo: Shared<'a, SlotMemo>, hash: u64) -> Self {
        let mut places = Self { tables, config, memo, now: tables.tick(), hash, own: None, word: LedgerWord(0) };
        if let Some(bucket) = places.bucket() {
            for way in 0..LEDGER_WAYS {
                let entry = bucket.entry(way);
                let word = entry.load::<u64, WORD>();
                if entry.load::<u64, CLAIM>() == places.claim() {
                    (places.own, places.word) = (Some(entry), LedgerWord(word));
                }
            }
        }
        places
    }

    #[inline(always)]
    fn bucket(&self) -> Option<Shared<'a, crate::abi::LedgerBucket>> {
        self.tables.ledger_bucket((self.hash >> 8) as u32 & read!(self.config, Config.ledger.bucket_mask as u32))
    }

    const fn claim(&self) -> u64 {
        self.hash | 2
    }

    #[inline(always)]
    fn live(&self, word: LedgerWord) -> bool {
        let limit = if word.is_flow() {
            read!(self.config, Config.ledger.idle_ticks as u32)
        } else {
            read!(self.config, Config.ledger.handshake_ticks as u32)
        };
        word.age(self.now) <= limit
    }

    /// Changes what the flow's own entry says, unless another packet of the flow has just done so.
    #[inline(always)]
    fn change(&mut self, word: LedgerWord) -> bool {
        let Some(own) = self.own else { return false };
        word.0 == self.word.0 || own.exchange::<WORD>(self.word.0, word.0)
    }

    /// Changes the claim of a place that is free, or whose entry has expired, and writes the entry.
    #[inline(always)]
    fn take(&self, place: Shared<'a, LedgerEntry>, word: LedgerWord) -> bool {
        let claim = place.load::<u64, CLAIM>();
        if claim == LedgerEntry::BUSY || (claim != 0 && self.live(LedgerWord(place.load::<u64, WORD>()))) {
            return false;
        }
        if !place.exchange::<CLAIM>(claim, LedgerEntry::BUSY) {
            return false;
        }
        place.store::<u64, WORD>(word.0);
        place.exchange::<CLAIM>(LedgerEntry::BUSY, self.claim())
    }

    /// The moment, told apart from never.
    const fn moment(&self) -> u32 {
        if self.now == 0 { 1 } else { self.now }
    }
}

impl<T: Tables> Memory for Places<'_, T> {
    #[inline(always)]
    fn entry(&self) -> Option<Entry> {
        if self.own.is_none() || !self.live(self.word) {
            return None;
        }
        let kind = if self.word.is_flow() {
            Kind::Flow { number: self.word.number(), ended: self.word.has_ended() && self.notes_ends() }
        } else {
            Kind::Pending { isn: self.word.isn() }
        };
        Some(Entry { backend: self.word.backend(), kind })
    }

    #[inline(always)]
    fn touch(&mut self) {
        self.change(self.word.touched(self.now));
    }

    #[inline(always)]
    fn promote(&mut self) {
        self.note(self.word.isn(), false);
    }

    #[inline(always)]
    fn note(&mut self, number: u32, ended: bool) {
        self.change(LedgerWord::flow(self.word.backend(), self.now).numbered(number, ended));
    }

    #[inline(always)]
    fn notes_ends(&self) -> bool {
        read!(self.config, Config.ledger.shared as u32) == 0
    }

    #[inline(always)]
    fn forget(&mut self) {
        if let Some(own) = self.own.take() {
            own.exchange::<CLAIM>(self.claim(), 0);
        }
    }

    #[inline(always)]
    fn remember(&mut self, entry: Entry) -> bool {
        let word = match entry.kind {
            Kind::Pending { isn } => LedgerWord::pending(entry.backend, isn, self.now),
            Kind::Flow { number, ended } => LedgerWord::flow(entry.backend, self.now).numbered(number, ended),
        };
        let mut done = false;
        if self.own.is_some() {
            done = !self.live(self.word) && self.change(word);
        } else if let Some(bucket) = self.bucket() {
            for way in 0..LEDGER_WAYS {
                if !done {
                    done = self.take(bucket.entry(way), word);
                }
            }
        }
        if let Some(stats) = self.tables.ledger_stats()
            && done
        {
            stats.count::<{ offset_of!(LedgerStats, remembered) }>(1);
        }
        done
    }

    #[inline(always)]
    fn refused_lately(&self) -> bool {
        let refused = read!(self.memo, SlotMemo.refused as u32);
        let age = self.now.wrapping_sub(refused);
        refused != 0 && (age as i32) <= read!(self.config, Config.ledger.handshake_ticks as u32) as i32
    }

    #[inline(always)]
    fn note_refusal(&mut self) {
        if read!(self.memo, SlotMemo.refused as u32) != self.moment() {
            put!(self.memo, SlotMemo.refused as u32, self.moment());
        }
        if let Some(stats) = self.tables.ledger_stats() {
            stats.count::<{ offset_of!(LedgerStats, refused) }>(1);
        }
    }

    #[inline(always)]
    fn note_elsewhere(&mut self) {
        if read!(self.memo, SlotMemo.seen as u32) != self.moment() {
            put!(self.memo, SlotMemo.seen as u32, self.moment());
        }
        if let Some(stats) = self.tables.ledger_stats() {
            stats.count::<{ offset_of!(LedgerStats, elsewhere) }>(1);
        }
    }
}

/// No owner's index, to begin with.
const _: () = assert!((SlotWord::NONE as u64) < REFUSED);
