//! The bytes of ZooKeeper's client protocol, as far as a reader needs them: numbers are big-endian, texts and lists have their length before them.

use crate::discovery::Failure;

/// Answers that belong to no request, and those to a ping.
pub(super) const EVENT: i32 = -1;
pub(super) const PING: i32 = -2;

/// Codes of requests.
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const PING_REQUEST: i32 = 11;
const ADD_WATCH: i32 = 106;
/// A watch of a node and all below it, that stays after an event.
const PERSISTENT_RECURSIVE: i32 = 1;

/// Codes of errors.
pub(super) const OK: i32 = 0;
pub(super) const NO_NODE: i32 = -101;
pub(super) const UNIMPLEMENTED: i32 = -6;

/// What happened to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Created,
    Deleted,
    Changed,
    Other(i32),
}

/// A frame from the server after the first one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Frame<'a> {
    Pong,
    Event { kind: Kind, path: &'a str },
    Reply { xid: i32, error: i32, body: &'a [u8] },
}

/// The first request: a new session of `timeout_ms`.
pub(super) fn connect(timeout_ms: i32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(0i32.to_be_bytes()); // version of the protocol
    body.extend(0i64.to_be_bytes()); // last transaction seen
    body.extend(timeout_ms.to_be_bytes());
    body.extend(0i64.to_be_bytes()); // session
    text(&mut body, &[0; 16]); // its password
    body.push(0); // a server that only reads won't do
    framed(&body)
}

pub(super) fn get_children(xid: i32, path: &str) -> Vec<u8> {
    let mut body = header(xid, GET_CHILDREN);
    text(&mut body, path.as_bytes());
    body.push(0); // no watch of its own
    framed(&body)
}

pub(super) fn get_data(xid: i32, path: &str) -> Vec<u8> {
    let mut body = header(xid, GET_DATA);
    text(&mut body, path.as_bytes());
    body.push(0);
    framed(&body)
}

pub(super) fn add_watch(xid: i32, path: &str) -> Vec<u8> {
    let mut body = header(xid, ADD_WATCH);
    text(&mut body, path.as_bytes());
    body.extend(PERSISTENT_RECURSIVE.to_be_bytes());
    framed(&body)
}

pub(super) fn ping() -> Vec<u8> {
    framed(&header(PING, PING_REQUEST))
}

/// The session's time-out in milliseconds that the server grants.
pub(super) fn granted(frame: &[u8]) -> Result<i32, Failure> {
    let mut reader = Reader(frame);
    reader.i32()?;
    match reader.i32()? {
        ms if ms > 0 => Ok(ms),
        _ => Err(Failure::Unreachable("the server grants no session".to_owned())),
    }
}

pub(super) fn frame(bytes: &[u8]) -> Result<Frame<'_>, Failure> {
    let mut reader = Reader(bytes);
    let xid = reader.i32()?;
    reader.take(8)?; // transaction
    let error = reader.i32()?;
    match xid {
        PING => Ok(Frame::Pong),
        EVENT => {
            let kind = match reader.i32()? {
                1 => Kind::Created,
                2 => Kind::Deleted,
                3 => Kind::Changed,
                other => Kind::Other(other),
            };
            reader.i32()?; // state of the session
            Ok(Frame::Event { kind, path: reader.str()? })
        }
        _ => Ok(Frame::Reply { xid, error, body: reader.0 }),
    }
}

/// The content of a node; a node without any has an empty one.
pub(super) fn data(body: &[u8]) -> Result<&[u8], Failure> {
    Reader(body).bytes()
}

pub(super) fn children(body: &[u8]) -> Result<Vec<String>, Failure> {
    let mut reader = Reader(body);
    let count = reader.i32()?.max(0);
    // Not reserved at once: the count may be anything.
    (0..count).map(|_| reader.str().map(str::to_owned)).collect()
}

fn header(xid: i32, request: i32) -> Vec<u8> {
    [xid.to_be_bytes(), request.to_be_bytes()].concat()
}

fn text(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend((bytes.len() as i32).to_be_bytes());
    body.extend(bytes);
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let short = || Failure::Bad("a frame of the server ends too early".to_owned());
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(short)?;
        self.0 = rest;
        Ok(head)
    }

    fn i32(&mut self) -> Result<i32, Failure> {
        Ok(self.take(4)?.iter().fold(0, |n: i32, byte| n << 8 | i32::from(*byte)))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Failure> {
        // -1 stands for nothing.
        let length = usize::try_from(self.i32()?).unwrap_or(0);
        self.take(length)
    }

    fn str(&mut self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Failure::Bad("a name of the server's is no text".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart() {
        let reply = |xid: i32, error: i32, body: &[u8]| [&xid.to_be_bytes()[..], &[0; 8], &error.to_be_bytes(), body].concat();
        assert_eq!(frame(&reply(PING, 0, b"")), Ok(Frame::Pong));
        assert_eq!(frame(&reply(5, NO_NODE, b"x")), Ok(Frame::Reply { xid: 5, error: NO_NODE, body: b"x" }));
        let event = [&1i32.to_be_bytes()[..], &3i32.to_be_bytes(), &2i32.to_be_bytes(), b"/a"].concat();
        assert_eq!(frame(&reply(EVENT, 0, &event)), Ok(Frame::Event { kind: Kind::Created, path: "/a" }));
        assert_eq!(
            children(&[&2i32.to_be_bytes()[..], &1i32.to_be_bytes(), b"a", &0i32.to_be_bytes()].concat()),
            Ok(vec!["a".into(), String::new()])
        );
        assert_eq!(data(&(-1i32).to_be_bytes()), Ok(&[][..]));
    }

    #[test]
    fn no_bytes_are_too_odd() {
        let odd = [&i32::MAX.to_be_bytes()[..], &[0xff; 40]].concat();
        for length in 0..odd.len() {
            let _ = (frame(&odd[..length]), children(&odd[..length]), data(&odd[..length]), granted(&odd[..length]));
        }
        assert!(children(&odd).is_err() && data(&odd).is_err());
        assert_eq!(
            get_data(1, "/a"),
            [&15i32.to_be_bytes()[..], &1i32.to_be_bytes(), &4i32.to_be_bytes(), &2i32.to_be_bytes(), b"/a", &[0]].concat()
        );
    }
}
