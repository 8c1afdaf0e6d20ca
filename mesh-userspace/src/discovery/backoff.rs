//! How long to wait before a source is tried again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(15);

/// Doubles from a quarter of a second to 15 s, each taken between half and whole by chance: nodes that lost a server together come back apart.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next wait; `chance` is any number.
    pub fn next(&mut self, chance: u64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LAST);
        let half = whole / 2;
        half + half.mul_f64((chance >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// A random number; each call its own.
pub fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let whole: Vec<u128> = (0..8).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(whole, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(backoff.next(0), LAST / 2);
        backoff.reset();
        assert_eq!(backoff.next(0), FIRST / 2);
        assert_ne!(chance(), chance());
    }
}
