//! Who has which part of an array: extents, and single numbers. Nothing that was given back is handed out before no packet can still be
//! reading it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Longest time that a packet is under way in the kernel half; what it may still read is not reused before.
pub const GRACE: Duration = Duration::from_millis(100);

/// Free parts of an array, first fit.
#[derive(Clone, Debug)]
pub struct Extents {
    /// Start -> length; neighbours are always merged.
    free: BTreeMap<u32, u32>,
    /// Given back at a time, oldest first.
    waiting: VecDeque<(Instant, u32, u32)>,
    size: u32,
}

impl Extents {
    /// An array of `size` elements, all free.
    pub fn new(size: u32) -> Self {
        let free = if size > 0 { BTreeMap::from([(0, size)]) } else { BTreeMap::new() };
        Self { free, waiting: VecDeque::new(), size }
    }

    /// Takes `len` elements, and tells the first. `None` = no free part is that long.
    pub fn take(&mut self, len: u32, now: Instant) -> Option<u32> {
        self.settle(now);
        let (&start, &room) = self.free.iter().find(|(_, room)| **room >= len)?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start + len, room - len);
        }
        Some(start)
    }

    /// Takes just these elements. Tells whether they were free.
    pub fn claim(&mut self, start: u32, len: u32) -> bool {
        let Some((&at, &room)) = self.free.range(..=start).next_back() else { return len == 0 };
        let (Some(end), room_end) = (start.checked_add(len), at + room) else { return false };
        if end > room_end {
            return false;
        }
        self.free.remove(&at);
        if start > at {
            self.free.insert(at, start - at);
        }
        if room_end > end {
            self.free.insert(end, room_end - end);
        }
        true
    }

    /// Gives elements back at `now`; they are handed out again after [`GRACE`].
    pub fn give_back(&mut self, start: u32, len: u32, now: Instant) {
        self.waiting.push_back((now, start, len));
    }

    /// Gives back elements that no packet has ever been led to.
    pub fn give_back_unused(&mut self, start: u32, len: u32) {
        self.merge(start, len);
    }

    /// Elements that are neither taken nor waiting.
    #[cfg(test)]
    pub fn free(&self) -> u32 {
        self.free.values().sum()
    }

    /// Elements in all.
    pub fn size(&self) -> u32 {
        self.size
    }

    fn settle(&mut self, now: Instant) {
        while let Some(&(since, start, len)) = self.waiting.front() {
            if now.saturating_duration_since(since) < GRACE {
                break;
            }
            self.waiting.pop_front();
            self.merge(start, len);
        }
    }

    fn merge(&mut self, mut start: u32, mut len: u32) {
        if len == 0 {
            return;
        }
        if let Some((&before, &room)) = self.free.range(..start).next_back().filter(|(at, room)| **at + **room == start) {
            self.free.remove(&before);
            start = before;
            len += room;
        }
        if let Some(room) = self.free.remove(&(start + len)) {
            len += room;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_given_back_waits() {
        let mut extents = Extents::new(16);
        let t0 = Instant::now();
        assert_eq!(extents.take(16, t0), Some(0));
        extents.give_back(0, 16, t0);
        assert_eq!(extents.take(1, t0 + GRACE / 2), None);
        assert_eq!(extents.take(16, t0 + GRACE), Some(0));
        extents.give_back_unused(0, 16);
        assert!(extents.claim(4, 4) && !extents.claim(7, 2) && !extents.claim(0, 5) && extents.claim(8, 8));
        assert_eq!(extents.free(), 4);
    }

    proptest! {
        /// No element is had by two, and all come together again.
        #[test]
        fn no_element_is_had_twice(lens in prop::collection::vec((1u32..20, any::<bool>()), 1..60)) {
            let mut extents = Extents::new(128);
            let (mut had, mut now) = (Vec::<(u32, u32)>::new(), Instant::now());
            for (len, give_back) in lens {
                now += GRACE;
                if give_back && !had.is_empty() {
                    let (start, len) = had.swap_remove(had.len() / 2);
                    extents.give_back(start, len, now);
                } else if let Some(start) = extents.take(len, now) {
                    prop_assert!(start + len <= 128);
                    prop_assert!(had.iter().all(|&(s, l)| start + len <= s || s + l <= start));
                    had.push((start, len));
                }
            }
            for (start, len) in had {
                extents.give_back(start, len, now);
            }
            prop_assert_eq!(extents.take(128, now + GRACE), Some(0));
        }
    }
}
