//! Datagrams that are known to come from a node of ours: authenticated, for one receiver, and taken once. What is in them can be read by anyone.
//!
//! A datagram is a header of 40 bytes, the payload, and an HMAC-SHA256 (RFC 2104) of both and of the receiver's address. The header names version, channel,
//! sender, the sender's start (later starts have larger numbers) and the number of the datagram since then. Of each sender the last start and a window of 64
//! numbers are remembered, so that a datagram is taken once and may come out of order. A receiver that has just started knows no numbers yet: until a
//! sender's first datagram reaches it, what that sender said in an earlier life could be said again.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ring::hmac;

const MAGIC: [u8; 4] = *b"mesh";
const VERSION: u8 = 1;
const HEADER: usize = 40;
const TAG: usize = 32;
/// A datagram of this payload fits the smallest way that IPv6 allows (1280 bytes).
pub const MAX_PAYLOAD: usize = 1280 - 40 - 8 - HEADER - TAG;

/// The secret that all nodes share.
#[derive(Clone)]
pub struct Key(hmac::Key);

/// What a datagram is about; each use of this layer has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Channel {
    /// Verdicts about backends.
    Votes = 1,
    /// Slots on their way, and their flows.
    Flows = 2,
}

/// Makes datagrams.
#[derive(Debug)]
pub struct Sealer {
    key: Key,
    own: SocketAddr,
    start: u64,
    number: u64,
}

/// Takes datagrams of certain senders.
#[derive(Debug)]
pub struct Opener {
    key: Key,
    own: SocketAddr,
    senders: BTreeMap<SocketAddr, Window>,
}

/// A datagram that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened<'a> {
    pub from: SocketAddr,
    pub channel: Channel,
    pub payload: &'a [u8],
}

/// Why a datagram is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it is no datagram of a mesh node, or of another version")]
    Malformed,
    #[error("{0} is no peer of this node")]
    Stranger(SocketAddr),
    #[error("{0} has another key, or somebody has changed what it said")]
    Forged(SocketAddr),
    #[error("{0} has said it before")]
    Replayed(SocketAddr),
}

/// Which numbers of a sender were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Window {
    start: u64,
    last: u64,
    /// Bit n: `last - n` was taken.
    taken: u64,
}

impl Key {
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn sign(&self, signed: &[u8], receiver: SocketAddr) -> hmac::Tag {
        hmac::sign(&self.0, &[signed, &place(receiver)].concat())
    }

    /// Takes as long whatever is wrong with the tag.
    fn verifies(&self, signed: &[u8], receiver: SocketAddr, tag: &[u8]) -> bool {
        hmac::verify(&self.0, &[signed, &place(receiver)].concat(), tag).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Channel {
    fn of(byte: u8) -> Option<Self> {
        [Self::Votes, Self::Flows].into_iter().find(|channel| *channel as u8 == byte)
    }
}

impl Sealer {
    /// `start`: larger at each start of this node, such as the time.
    pub fn new(key: Key, own: SocketAddr, start: u64) -> Self {
        Self { key, own, start, number: 0 }
    }

    /// A datagram for `to`. What is longer than [`MAX_PAYLOAD`] may be cut into fragments on its way.
    pub fn seal(&mut self, to: SocketAddr, channel: Channel, payload: &[u8]) -> Vec<u8> {
        self.number += 1;
        let mut bytes = Vec::with_capacity(HEADER + payload.len() + TAG);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, channel as u8]);
        bytes.extend(place(self.own));
        bytes.extend(self.start.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(payload);
        let tag = self.key.sign(&bytes, to);
        bytes.extend(tag.as_ref());
        bytes
    }
}

impl Opener {
    /// Takes what these send to `own`.
    pub fn new(key: Key, own: SocketAddr, senders: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { key, own, senders: senders.into_iter().map(|s| (s, Window::default())).collect() }
    }

    /// Takes a datagram, once.
    pub fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<Opened<'a>, Refusal> {
        let (signed, tag) = bytes.split_at_checked(bytes.len().saturating_sub(TAG)).ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_first_chunk::<HEADER>().ok_or(Refusal::Malformed)?;
        if header[..4] != MAGIC || header[4] != VERSION {
            return Err(Refusal::Malformed);
        }
        let from = placed(header);
        let window = self.senders.get_mut(&from).ok_or(Refusal::Stranger(from))?;
        if !self.key.verifies(signed, self.own, tag) {
            return Err(Refusal::Forged(from));
        }
        let channel = Channel::of(header[5]).ok_or(Refusal::Malformed)?;
        if !window.take(number(header, 24), number(header, 32)) {
            return Err(Refusal::Replayed(from));
        }
        Ok(Opened { from, channel, payload })
    }
}

impl Window {
    /// Whether a number is new; from then on it is not.
    fn take(&mut self, start: u64, number: u64) -> bool {
        if start < self.start {
            return false;
        }
        if start > self.start {
            *self = Self { start, last: number, taken: 1 };
            return true;
        }
        if number > self.last {
            let ahead = number - self.last;
            self.taken = if ahead < 64 { self.taken << ahead | 1 } else { 1 };
            self.last = number;
            return true;
        }
        let behind = self.last - number;
        let new = behind < 64 && self.taken & 1 << behind == 0;
        if new {
            self.taken |= 1 << behind;
        }
        new
    }
}

/// Address and port in 18 bytes; IPv4 as RFC 4291 section 2.5.5.2 maps it.
fn place(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

fn placed(header: &[u8; HEADER]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[6..22]);
    let ip = Ipv6Addr::from(octets);
    SocketAddr::new(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4), u16::from_be_bytes([header[22], header[23]]))
}

fn number(header: &[u8; HEADER], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> SocketAddr {
        ([10, 0, 0, n], 7946).into()
    }

    fn key() -> Key {
        Key::new(b"a secret that all nodes share")
    }

    fn opener() -> Opener {
        Opener::new(key(), node(2), [node(1), "[2001:db8::1]:7946".parse().unwrap()])
    }

    #[test]
    fn what_is_sealed_is_opened_once_and_as_it_was() {
        for from in [node(1), "[2001:db8::1]:7946".parse().unwrap()] {
            let (mut sealer, mut opener) = (Sealer::new(key(), from, 5), opener());
            for payload in [&b""[..], b"hello", &[7; MAX_PAYLOAD]] {
                let bytes = sealer.seal(node(2), Channel::Votes, payload);
                assert!(bytes.len() <= 1280 - 48);
                assert_eq!(opener.open(&bytes), Ok(Opened { from, channel: Channel::Votes, payload }));
                assert_eq!(opener.open(&bytes), Err(Refusal::Replayed(from)));
            }
        }
    }

    #[test]
    fn no_byte_can_be_changed_and_no_length() {
        let bytes = Sealer::new(key(), node(1), 5).seal(node(2), Channel::Votes, b"hello");
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(opener().open(&changed).is_err(), "byte {i}");
            assert!(opener().open(&bytes[..i]).is_err(), "{i} bytes");
        }
        assert!(opener().open(&[bytes.clone(), vec![0]].concat()).is_err());
        assert!(opener().open(&bytes).is_ok());
    }

    #[test]
    fn others_are_not_heard() {
        let seal = |key: Key, from, to| Sealer::new(key, from, 5).seal(to, Channel::Votes, b"x");
        assert_eq!(opener().open(&seal(key(), node(3), node(2))), Err(Refusal::Stranger(node(3))));
        assert_eq!(opener().open(&seal(Key::new(b"another"), node(1), node(2))), Err(Refusal::Forged(node(1))));
        assert_eq!(opener().open(&seal(key(), node(1), node(3))), Err(Refusal::Forged(node(1))), "it was for somebody else");
        assert_eq!(opener().open(&seal(key(), node(2), node(1))), Err(Refusal::Stranger(node(2))), "our own word comes back");
    }

    #[test]
    fn numbers_count_once_within_a_life_and_earlier_lives_are_over() {
        let mut w = Window::default();
        #[rustfmt::skip]
        let rows = [
            (5, 10, true), (5, 10, false), (5, 12, true), (5, 11, true), (5, 11, false), (5, 1, true), (5, 100, true), (5, 36, false), (5, 37, true),
            (4, 1000, false), (6, 1, true), (5, 101, false), (6, 1, false), (6, u64::MAX, true), (6, u64::MAX - 63, true), (6, u64::MAX - 64, false),
        ];
        for (i, (start, number, new)) in rows.into_iter().enumerate() {
            assert_eq!(w.take(start, number), new, "row {i}");
        }
    }
}
