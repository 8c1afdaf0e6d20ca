//! Lists of who may use a service: which number each has, and the trie that they stand in.
//!
//! A list never changes. Another one gets another number, is written whole, and is then led to by one store in the VIP's entry; so no packet sees
//! half of either. The old one goes when no packet can be reading it any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use mesh_common::abi::{Addr, SOURCE_PREFIXES, SourcePrefix};

use super::{
    extents::GRACE,
    layout::{LayoutError, addr_of},
};
use crate::model::SourceRule;

/// A prefix as it stands in the trie, but for the list's number: address, bits, verdict.
pub type Entry = ([u8; 16], u8, u32);

/// Which number each list has.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    numbers: BTreeMap<Vec<Entry>, u32>,
    /// Since when nothing leads to a list.
    idle: BTreeMap<u32, Instant>,
    /// The highest number that was given.
    last: u32,
}

/// The trie, or what stands for it where the pure parts are tested.
#[derive(Debug)]
pub struct Trie(Mutex<Kept>);

#[derive(Debug)]
enum Kept {
    Map(LpmTrie<MapData, [u32; 5], u32>),
    Heap(BTreeMap<([u32; 5], u32), u32>),
}

impl Lists {
    /// The number of a list, and what has to be written first if it is a new one. 0 for no list.
    pub fn number(&mut self, rules: &[SourceRule]) -> Result<(u32, Vec<SourcePrefix>), LayoutError> {
        if rules.is_empty() {
            return Ok((0, Vec::new()));
        }
        let mut entries: Vec<Entry> = rules.iter().map(entry).collect();
        if !entries.iter().any(|(_, bits, _)| *bits == 0) {
            entries.push(([0; 16], 0, SourcePrefix::ALLOWED));
        }
        entries.sort_unstable();
        if let Some(&known) = self.numbers.get(&entries) {
            self.idle.remove(&known);
            return Ok((known, Vec::new()));
        }
        let (taken, wanted) = (self.numbers.keys().map(Vec::len).sum::<usize>(), entries.len());
        if taken + wanted > SOURCE_PREFIXES as usize {
            return Err(LayoutError::Prefixes { wanted, limit: SOURCE_PREFIXES });
        }
        self.last = self.last.checked_add(1).unwrap_or(1);
        let prefixes = prefixes(self.last, &entries);
        self.numbers.insert(entries, self.last);
        Ok((self.last, prefixes))
    }

    /// Takes in what stands in the trie already.
    pub fn adopt(&mut self, found: &[SourcePrefix]) {
        let mut lists: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        for prefix in found {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(bytemuck::cast_slice(&prefix.key[1..]));
            let bits = prefix.bits.saturating_sub(SourcePrefix::LIST_BITS) as u8;
            lists.entry(prefix.key[0]).or_default().push((bytes, bits, prefix.verdict));
        }
        for (number, mut entries) in lists {
            entries.sort_unstable();
            self.last = self.last.max(number);
            self.numbers.insert(entries, number);
        }
    }

    /// What has to be taken out of the trie: the lists that none of `used` has been for long enough.
    pub fn collect(&mut self, used: &BTreeSet<u32>, now: Instant) -> Vec<SourcePrefix> {
        let mut gone = Vec::new();
        let idle = &mut self.idle;
        self.numbers.retain(|entries, number| {
            if used.contains(number) {
                idle.remove(number);
                return true;
            }
            let over = now.saturating_duration_since(*idle.entry(*number).or_insert(now)) > GRACE;
            if over {
                idle.remove(number);
                gone.extend(prefixes(*number, entries));
            }
            !over
        });
        gone
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

impl Trie {
    pub fn map(map: LpmTrie<MapData, [u32; 5], u32>) -> Self {
        Self(Mutex::new(Kept::Map(map)))
    }

    /// The same on the heap, empty.
    pub fn heap() -> Self {
        Self(Mutex::new(Kept::Heap(BTreeMap::new())))
    }

    /// Writes the prefixes of one list. Where the kernel has no memory for all of them, that is told to the log, and nobody is let in whom the list does
    /// not name.
    pub fn put(&self, prefixes: &[SourcePrefix]) {
        match &mut *self.kept() {
            Kept::Map(map) => {
                if let Err(error) = write(prefixes, |p| map.insert(&key(p), p.verdict, 0)) {
                    log::error!(
                        "failed to write a list of sources: {error}; its service lets in nobody whom it does not name, until mesh is restarted \
                         with more memory"
                    );
                }
            }
            Kept::Heap(rows) => rows.extend(prefixes.iter().map(|p| ((p.key, p.bits), p.verdict))),
        }
    }

    pub fn remove(&self, prefixes: &[SourcePrefix]) {
        match &mut *self.kept() {
            Kept::Map(map) => {
                if let Some(error) = prefixes.iter().filter_map(|p| map.remove(&key(p)).err()).last() {
                    log::error!("failed to remove a list of sources that nothing uses any more: {error}");
                }
            }
            Kept::Heap(rows) => rows.retain(|at, _| !prefixes.iter().any(|p| (p.key, p.bits) == *at)),
        }
    }

    /// All that stands there.
    pub fn all(&self) -> Result<Vec<SourcePrefix>, MapError> {
        match &*self.kept() {
            Kept::Map(map) => {
                map.iter().map(|row| row.map(|(key, verdict)| SourcePrefix { bits: key.prefix_len(), key: key.data(), verdict })).collect()
            }
            Kept::Heap(rows) => Ok(rows.iter().map(|(&(key, bits), &verdict)| SourcePrefix { bits, key, verdict }).collect()),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what a list says of everybody last, and only if all the rest stands: who finds nothing in a list is denied.
fn write<E>(prefixes: &[SourcePrefix], mut insert: impl FnMut(&SourcePrefix) -> Result<(), E>) -> Result<(), E> {
    let (all, some): (Vec<_>, Vec<_>) = prefixes.iter().partition(|p| p.bits == SourcePrefix::LIST_BITS);
    some.into_iter().chain(all).try_for_each(&mut insert)
}

fn key(prefix: &SourcePrefix) -> Key<[u32; 5]> {
    Key::new(prefix.bits, prefix.key)
}

fn entry(rule: &SourceRule) -> Entry {
    (addr_of(rule.addr).0.0, rule.bits, if rule.allowed { SourcePrefix::ALLOWED } else { SourcePrefix::DENIED })
}

fn prefixes(number: u32, entries: &[Entry]) -> Vec<SourcePrefix> {
    entries.iter().map(|&(addr, bits, verdict)| SourcePrefix::new(number, Addr(addr), bits, verdict)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(addr: &str, bits: u8, allowed: bool) -> SourceRule {
        SourceRule { addr: addr.parse().unwrap(), bits, allowed }
    }

    #[test]
    fn a_list_keeps_its_number_and_another_gets_another() {
        let (mut lists, trie, start) = (Lists::default(), Trie::heap(), Instant::now());
        // Each list says something of everybody.
        assert_eq!(Lists::default().number(&[rule("10.0.0.0", 8, false)]).unwrap().1.len(), 2);
        let old = [rule("0.0.0.0", 0, false), rule("10.0.0.0", 8, true)];
        let (first, written) = lists.number(&old).unwrap();
        trie.put(&written);
        assert_eq!((first, written.len()), (1, 2));
        assert_eq!(lists.number(&[old[1], old[0]]).unwrap(), (1, Vec::new()));
        let (second, written) = lists.number(&old[..1]).unwrap();
        trie.put(&written);
        assert_eq!(second, 2);
        assert_eq!(lists.number(&[]).unwrap(), (0, Vec::new()));
        // Who starts anew finds the same.
        let mut adopted = Lists::default();
        adopted.adopt(&trie.all().unwrap());
        assert_eq!(adopted.number(&old).unwrap(), (1, Vec::new()));
        assert_eq!(adopted.number(&[rule("fd00::", 8, true)]).unwrap().0, 3);
        // What nothing leads to goes, and not at once.
        assert_eq!(lists.collect(&BTreeSet::from([2]), start), []);
        let gone = lists.collect(&BTreeSet::from([2]), start + 2 * GRACE);
        trie.remove(&gone);
        assert_eq!((gone.len(), trie.all().unwrap().len()), (2, 1));
    }

    #[test]
    fn a_list_that_there_is_no_memory_for_lets_nobody_in() {
        let (_, prefixes) = Lists::default().number(&[rule("10.0.0.0", 8, false), rule("10.1.0.0", 16, true)]).unwrap();
        for room in 0..=prefixes.len() {
            let mut written = Vec::new();
            let done = write(&prefixes, |p| {
                if written.len() == room {
                    return Err(());
                }
                written.push(*p);
                Ok(())
            });
            assert_eq!(done.is_ok(), room == prefixes.len());
            let of = |octets: [u8; 4]| {
                let [a, b, c, d] = octets;
                SourcePrefix::longest(&written, &SourcePrefix::key(1, [u64::from_le_bytes([a, b, c, d, 0, 0, 0, 0]), 0]))
            };
            assert_ne!(of([10, 2, 0, 1]), SourcePrefix::ALLOWED);
            assert_eq!(of([192, 0, 2, 1]) == SourcePrefix::ALLOWED, done.is_ok());
        }
    }

    #[test]
    fn more_prefixes_than_there_is_room_for_are_refused() {
        let mut lists = Lists::default();
        let many: Vec<_> =
            (0..SOURCE_PREFIXES - 1).map(|n| SourceRule { addr: std::net::Ipv4Addr::from(n).into(), bits: 32, allowed: false }).collect();
        assert!(lists.number(&many).is_ok());
        assert!(matches!(lists.number(&[rule("10.0.0.0", 8, true)]), Err(LayoutError::Prefixes { .. })));
    }
}
