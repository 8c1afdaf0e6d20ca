//! Where entries lie: buckets of a cache line, found by the flow's hash. An entry belongs to whoever changed its claim from free, or from expired, to
//! busy; readers compare the claim before and after.

use core::mem::offset_of;

use crate::{
    abi::{
        Backend, BackendState, Config, LEDGER_WAYS, LedgerCrowd, LedgerEntry, LedgerStats, LedgerTags, LedgerWord, Reason, SlotWord,
        SlotsRefused, SlotsSeen,
    },
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
    let (Some(config), Some(word)) = (tables.config(), tables.slot(slot)) else { return Err(Reason::BadTable) };
    let (seen, refused) = (tables.slots_seen(slot / SlotsSeen::SLOTS), tables.slots_refused(slot / SlotsRefused::SLOTS));
    let (Some(seen), Some(refused)) = (seen, refused) else { return Err(Reason::BadTable) };
    let mut places = Places::of(tables, config, (seen.slot(slot), refused.slot(slot)), hash);
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
    /// When the slot last sent a packet elsewhere.
    seen: Shared<'a, u32>,
    /// When a flow of it could last not be remembered, and whether that is this packet's.
    refused: Shared<'a, u16>,
    refuses: bool,
    now: u32,
    hash: u64,
    /// The flow's own place, whether its entry is live or has expired.
    own: Option<Shared<'a, LedgerEntry>>,
    word: LedgerWord,
}

impl<'a, T: Tables> Places<'a, T> {
    #[inline(always)]
    fn of(tables: &'a T, config: Shared<'a, Config>, (seen, refused): (Shared<'a, u32>, Shared<'a, u16>), hash: u64) -> Self {
        let now = tables.tick();
        let mut places = Self { tables, config, seen, refused, refuses: false, now, hash, own: None, word: LedgerWord(0) };
        if places.may_be_known()
            && let Some(bucket) = places.bucket()
        {
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
    fn index(&self) -> u32 {
        (self.hash >> 8) as u32 & read!(self.config, Config.ledger.bucket_mask as u32)
    }

    /// One of the bucket's tags is the flow's.
    #[inline(always)]
    fn may_be_known(&self) -> bool {
        self.tables.ledger_tags(self.index()).is_some_and(|tags| LedgerTags::has(tags.load::<u64, 0>(), LedgerTags::tag(self.hash)))
    }

    #[inline(always)]
    fn bucket(&self) -> Option<Shared<'a, crate::abi::LedgerBucket>> {
        self.tables.ledger_bucket(self.index())
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
    fn take(&self, place: Shared<'a, LedgerEntry>, tag: Shared<'a, u16>, word: LedgerWord) -> bool {
        let claim = place.load::<u64, CLAIM>();
        if claim == LedgerEntry::BUSY || (claim != 0 && self.live(LedgerWord(place.load::<u64, WORD>()))) {
            return false;
        }
        if !place.exchange::<CLAIM>(claim, LedgerEntry::BUSY) {
            return false;
        }
        place.store::<u64, WORD>(word.0);
        // Before the claim: whoever finds no tag looks for no entry.
        tag.store::<u16, 0>(LedgerTags::tag(self.hash));
        place.exchange::<CLAIM>(LedgerEntry::BUSY, self.claim())
    }

    /// So many have found no room within this tick that nobody looks any more: a flood into a full ledger is not to cost a look at it each time.
    #[inline(always)]
    fn crowded(&self) -> bool {
        self.tables.ledger_crowd().is_some_and(|crowd| {
            read!(crowd, LedgerCrowd.tick as u32) == self.now && read!(crowd, LedgerCrowd.refused as u32) >= LedgerCrowd::MANY
        })
    }

    /// This one has found none. CPUs that count at once may count less.
    #[inline(always)]
    fn crowd(&self) {
        let Some(crowd) = self.tables.ledger_crowd() else { return };
        if read!(crowd, LedgerCrowd.tick as u32) == self.now {
            crowd.count32::<{ offset_of!(LedgerCrowd, refused) }>(1);
        } else {
            put!(crowd, LedgerCrowd.tick as u32, self.now);
            put!(crowd, LedgerCrowd.refused as u32, 1);
        }
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
        } else if !self.crowded()
            && let (Some(bucket), Some(tags)) = (self.bucket(), self.tables.ledger_tags(self.index()))
        {
            for way in 0..LEDGER_WAYS {
                if !done {
                    done = self.take(bucket.entry(way), tags.way(way), word);
                }
            }
            if !done {
                self.crowd();
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
        let refused = self.refused.load::<u16, 0>();
        refused != 0 && SlotsRefused::age(refused, self.now) <= read!(self.config, Config.ledger.handshake_ticks as u32)
    }

    #[inline(always)]
    fn note_refusal(&mut self) {
        let moment = SlotsRefused::moment(self.now);
        if self.refused.load::<u16, 0>() != moment {
            self.refused.store::<u16, 0>(moment);
        }
        self.refuses = true;
        if let Some(stats) = self.tables.ledger_stats() {
            stats.count::<{ offset_of!(LedgerStats, refused) }>(1);
        }
    }

    #[inline(always)]
    fn note_elsewhere(&mut self) {
        // A refusal says that too (`Standings::memo`): a flood needs one line of memory less.
        if !self.refuses && self.seen.load::<u32, 0>() != self.moment() {
            self.seen.store::<u32, 0>(self.moment());
        }
        if let Some(stats) = self.tables.ledger_stats() {
            stats.count::<{ offset_of!(LedgerStats, elsewhere) }>(1);
        }
    }
}

/// No owner's index, to begin with.
const _: () = assert!((SlotWord::NONE as u64) < REFUSED);
