//! The maps as the daemon sees them: rows of values in shared memory, read and changed by aligned 64-bit words.
//!
//! The one file with `unsafe` for map memory. A [`Row`] lives in a mapping of a `BPF_F_MMAPABLE` array, or on the heap, where the pure parts
//! are tested.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytemuck::{Pod, Zeroable};
use memmap2::{MmapOptions, MmapRaw};
use mesh_common::abi::{
    Backend, BackendLoad, BackendSignals, Config, FlowBucket, LedgerBucket, LedgerEntry, LedgerTags, NatFlow, NatGauges, Schedule,
    ServiceInfo, SlotWord, SlotsRefused, SlotsSeen, Vip,
};

use super::{lists::Trie, quic::Ids};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// All mmapped maps.
#[derive(Debug)]
pub struct Image {
    pub config: Row<Config>,
    pub vips: Row<Vip>,
    pub services: Row<ServiceInfo>,
    pub slots: Row<SlotWord>,
    pub slots_seen: Row<SlotsSeen>,
    pub slots_refused: Row<SlotsRefused>,
    pub ledger_tags: Arc<Row<LedgerTags>>,
    /// Other balancers are told of it by a thread of their own.
    pub ledger: Arc<Row<LedgerBucket>>,
    pub backends: Row<Backend>,
    pub nat_flows: Row<NatFlow>,
    pub nat_gauges: Row<NatGauges>,
    /// By the index of a backend's counters.
    pub signals: Row<BackendSignals>,
    /// By service id.
    pub schedules: Row<Schedule>,
    /// By the index of a backend's counters.
    pub loads: Row<BackendLoad>,
    pub remembered: Row<FlowBucket>,
    /// Who may use services; no mapping, changed by system calls.
    pub lists: Trie,
    /// Backends by server id; likewise.
    pub ids: Ids,
}

/// A row of values that the kernel half reads (and may write) at the same time.
///
/// Each word is read and written whole; a value of several words is not. Who writes one puts it where nobody looks yet, or changes words that
/// mean something each on its own.
pub struct Row<T> {
    memory: Memory,
    len: usize,
    value: PhantomData<T>,
}

enum Memory {
    Map(MmapRaw),
    Heap(Box<[AtomicU64]>),
}

impl<T: Pod> Row<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(WORD) && size_of::<T>() > 0);
        size_of::<T>() / WORD
    };

    /// Maps the array behind `fd`, which has `len` elements.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|b| *b > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let map = MmapOptions::new().len(bytes.next_multiple_of(page_size())).map_raw(fd.as_raw_fd())?;
        Ok(Self { memory: Memory::Map(map), len, value: PhantomData })
    }

    /// The same on the heap, zeroed.
    pub fn heap(len: usize) -> Self {
        let words = (0..len * Self::WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { memory: Memory::Heap(words), len, value: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at `index`, read word by word; zeroed beyond the end.
    pub fn get(&self, index: usize) -> T {
        let mut value = T::zeroed();
        for (bytes, word) in bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(WORD).zip(self.words_of(index)) {
            bytes.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
        }
        value
    }

    /// Writes the value at `index`, word by word from the first on. Does nothing beyond the end.
    pub fn set(&self, index: usize, value: &T) {
        for (bytes, word) in bytemuck::bytes_of(value).chunks_exact(WORD).zip(self.words_of(index)) {
            word.store(u64::from_ne_bytes(bytes.try_into().unwrap_or_default()), Ordering::Release);
        }
    }

    /// Word `word` of the value at `index`; 0 beyond the end.
    pub fn word(&self, index: usize, word: usize) -> u64 {
        self.words_of(index).get(word).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Stores one word of the value at `index` in one piece. Does nothing beyond the end.
    pub fn set_word(&self, index: usize, word: usize, value: u64) {
        if let Some(w) = self.words_of(index).get(word) {
            w.store(value, Ordering::Release);
        }
    }

    /// Stores `new` in one word if it is `old` still, against the kernel half that may do the same. Tells whether it did.
    pub fn exchange_word(&self, index: usize, word: usize, old: u64, new: u64) -> bool {
        self.words_of(index).get(word).is_some_and(|w| w.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// Adds to one word, against the kernel half that may do the same; wraps around.
    pub fn add_word(&self, index: usize, word: usize, delta: u64) {
        if let Some(w) = self.words_of(index).get(word) {
            w.fetch_add(delta, Ordering::AcqRel);
        }
    }

    /// A run of words of the value at `index`, from word `first` on; shorter at the end.
    pub fn run(&self, index: usize, first: usize, count: usize) -> impl Iterator<Item = u64> + '_ {
        self.words_of(index).iter().skip(first).take(count).map(|w| w.load(Ordering::Acquire))
    }

    /// Stores a run of words of the value at `index`, from word `first` on.
    pub fn set_run(&self, index: usize, first: usize, values: impl IntoIterator<Item = u64>) {
        for (w, value) in self.words_of(index).iter().skip(first).zip(values) {
            w.store(value, Ordering::Release);
        }
    }

    fn words_of(&self, index: usize) -> &[AtomicU64] {
        let words = self.words();
        let at = index.saturating_mul(Self::WORDS);
        words.get(at..at.saturating_add(Self::WORDS)).unwrap_or_default()
    }

    fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::Heap(words) => words,
            Memory::Map(map) => {
                // SAFETY: the mapping lives as long as `self`, starts at a page, and is at least `len * WORDS` words long (`map`). It is shared with
                // the kernel half, which reads and writes aligned words; atomics are what such memory may be looked at through.
                unsafe { std::slice::from_raw_parts(map.as_mut_ptr().cast::<AtomicU64>(), self.len * Self::WORDS) }
            }
        }
    }
}

impl Row<SlotWord> {
    /// Writes a whole table from slot `base` on; what would go beyond the end is left out.
    pub fn set_table(&self, base: u32, table: &[SlotWord]) {
        let words = self.words().get(base as usize..).unwrap_or_default();
        for (w, slot) in words.iter().zip(table) {
            w.store(slot.0, Ordering::Relaxed);
        }
        std::sync::atomic::fence(Ordering::Release);
    }

    /// The `len` slots from `base` on; fewer at the end.
    pub fn table(&self, base: u32, len: usize) -> impl Iterator<Item = SlotWord> + '_ {
        self.words().get(base as usize..).unwrap_or_default().iter().take(len).map(|w| SlotWord(w.load(Ordering::Relaxed)))
    }
}

impl Row<LedgerBucket> {
    /// The entries whose claim and word are not as in `known`, by their place; those that are free are passed over. Takes little time where there are none.
    pub fn changed(&self, known: &[(u64, u64)]) -> Vec<usize> {
        let entries = self.words().chunks_exact(size_of::<LedgerEntry>() / WORD).zip(known).enumerate();
        let differs = |entry: &[AtomicU64], (claim, word): &(u64, u64)| match entry {
            [now, then, ..] => match now.load(Ordering::Acquire) {
                0 => false,
                there => there != *claim || then.load(Ordering::Acquire) != *word,
            },
            _ => false,
        };
        entries.filter(|(_, (entry, known))| differs(entry, known)).map(|(place, _)| place).collect()
    }
}

impl Image {
    /// Sizes of an image on the heap, in elements of each map.
    pub fn heap(vips: usize, services: usize, slots: usize, backends: usize, nat_flows: usize) -> Self {
        Self {
            config: Row::heap(1),
            vips: Row::heap(vips),
            services: Row::heap(services),
            slots: Row::heap(slots),
            slots_seen: Row::heap(slots.div_ceil(SlotsSeen::SLOTS as usize)),
            slots_refused: Row::heap(slots.div_ceil(SlotsRefused::SLOTS as usize)),
            ledger_tags: Arc::new(Row::heap(4)),
            ledger: Arc::new(Row::heap(4)),
            backends: Row::heap(backends),
            nat_flows: Row::heap(nat_flows),
            nat_gauges: Row::heap(1),
            signals: Row::heap(backends),
            schedules: Row::heap(services),
            loads: Row::heap(backends),
            remembered: Row::heap(4),
            lists: Trie::heap(),
            ids: Ids::heap(),
        }
    }
}

impl<T> std::fmt::Debug for Row<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The words that a value is stored by.
pub fn words_of<T: Pod + Zeroable>(value: &T) -> impl Iterator<Item = u64> + '_ {
    bytemuck::bytes_of(value).chunks_exact(WORD).map(|b| u64::from_ne_bytes(b.try_into().unwrap_or_default()))
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().and_then(|n| usize::try_from(n).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_value_comes_back_as_it_was_stored() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(page_size() as u64).unwrap();
        for row in [Row::<Backend>::heap(4), Row::<Backend>::map(file.as_fd(), 4).unwrap()] {
            let backend = Backend { port: [1, 2], ifindex: 7, stats: 9, ..Backend::default() };
            row.set(3, &backend);
            assert_eq!(row.get(3), backend);
            assert_eq!(row.get(2), Backend::default());
            row.set_word(3, 4, 1);
            assert_eq!(row.get(3).ifindex, u32::from_ne_bytes([1, 0, 0, 0]));
            assert!(row.exchange_word(3, 4, 1, 2) && !row.exchange_word(3, 4, 1, 3));
            row.add_word(3, 4, u64::MAX);
            assert_eq!(row.word(3, 4), 1);
        }
    }

    #[test]
    fn beyond_the_end_nothing_happens() {
        let row = Row::<SlotWord>::heap(4);
        row.set(4, &SlotWord::EMPTY);
        row.set_word(usize::MAX, 0, 1);
        row.set_table(3, &[SlotWord(1), SlotWord(2)]);
        row.set_table(9, &[SlotWord(1)]);
        assert_eq!(row.table(0, 99).collect::<Vec<_>>(), [0, 0, 0, 1].map(SlotWord));
        assert_eq!(row.get(usize::MAX), SlotWord(0));
    }
}
