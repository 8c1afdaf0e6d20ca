//! Backends that others have flows with and that this node's own discovery has not found: it may be about to.

use std::collections::HashMap;

use crate::model::{BackendId, VipAddr};

/// What discovery has not found after this time it does not find, in milliseconds.
const PATIENCE: u64 = 10_000;
/// A backend that nobody has named for so long, in milliseconds, is another one when it is named again.
const FORGOTTEN: u64 = 60_000;
/// More than this are not waited for.
const MOST: usize = 4096;

/// When each of them was named first and last.
#[derive(Debug, Default)]
pub(super) struct Awaited(HashMap<(VipAddr, BackendId), (u64, u64)>);

impl Awaited {
    /// An entry names a backend that is not known. Whether it may be soon, so that the entry is better not taken for heard.
    pub fn may_come(&mut self, vip: VipAddr, backend: BackendId, now: u64) -> bool {
        if self.0.len() >= MOST {
            self.0.retain(|_, (_, last)| now < *last + FORGOTTEN);
        }
        if self.0.len() >= MOST && !self.0.contains_key(&(vip, backend)) {
            return false;
        }
        let (first, last) = self.0.entry((vip, backend)).or_insert((now, now));
        if now >= *last + FORGOTTEN {
            *first = now;
        }
        *last = now;
        now < *first + PATIENCE
    }

    /// The backend is known.
    pub fn has_come(&mut self, vip: VipAddr, backend: BackendId) {
        if !self.0.is_empty() {
            self.0.remove(&(vip, backend));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proto;

    fn nouns(backend: &str) -> (VipAddr, BackendId) {
        let backend = BackendId(backend.parse().expect("an address"));
        (VipAddr { addr: backend.0.ip(), port: 80, proto: Proto::Tcp }, backend)
    }

    #[test]
    fn a_backend_is_waited_for_until_it_is_known_or_for_a_while() {
        let (vip, backend) = nouns("10.0.0.1:80");
        let mut awaited = Awaited::default();
        let asked = [100, 5_000, PATIENCE + 99, PATIENCE + 100, PATIENCE + 50_000, PATIENCE + 200_000];
        let told = asked.map(|now| awaited.may_come(vip, backend, now));
        assert_eq!(told, [true, true, true, false, false, true], "the last after it was long forgotten");
        awaited.has_come(vip, backend);
        assert!(awaited.may_come(vip, backend, 2 * PATIENCE + 300_000), "it has gone since");
    }

    #[test]
    fn no_more_are_waited_for_than_there_is_room_for() {
        let mut awaited = Awaited::default();
        for n in 0..MOST {
            let (vip, backend) = nouns(&format!("10.0.{}.{}:80", n >> 8, n & 0xff));
            assert!(awaited.may_come(vip, backend, 0));
        }
        let (vip, backend) = nouns("10.1.0.0:80");
        assert!(!awaited.may_come(vip, backend, FORGOTTEN - 1));
        assert!(awaited.may_come(vip, backend, FORGOTTEN), "the others are forgotten");
    }
}
