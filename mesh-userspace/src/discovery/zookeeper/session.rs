//! A connection to one ZooKeeper server: frames in, requests out, and pings so that both ends know that the other lives.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use super::wire;
use crate::discovery::{Failure, web::keep_alive};

/// Longer frames are no ZooKeeper's: its own limit is 1 MiB.
const FRAME_LIMIT: usize = 16 << 20;

pub(super) struct Session {
    stream: TcpStream,
    server: String,
    buffer: Vec<u8>,
    /// As the server granted it.
    timeout: Duration,
    heard: Instant,
    ping_at: Instant,
    xid: i32,
}

impl Session {
    /// A new session, granted within `limit`.
    pub async fn open(server: &str, wanted: Duration, limit: Duration) -> Result<Self, Failure> {
        let opening = async {
            let mut stream = TcpStream::connect(server).await.map_err(|e| broken(server, &e))?;
            keep_alive(&stream).map_err(|e| broken(server, &e.into()))?;
            stream.set_nodelay(true).map_err(|e| broken(server, &e))?;
            let ms = i32::try_from(wanted.as_millis()).unwrap_or(i32::MAX);
            stream.write_all(&wire::connect(ms)).await.map_err(|e| broken(server, &e))?;
            let now = Instant::now();
            let mut session =
                Self { stream, server: server.to_owned(), buffer: Vec::new(), timeout: wanted, heard: now, ping_at: now + wanted, xid: 0 };
            let granted = wire::granted(&session.frame().await?)?;
            session.timeout = Duration::from_millis(granted.unsigned_abs().into());
            session.ping_at = Instant::now() + session.timeout / 3;
            Ok(session)
        };
        let late = || Failure::Unreachable(format!("{server} granted no session within {limit:?}"));
        timeout(limit, opening).await.unwrap_or_else(|_| Err(late()))
    }

    /// A number for the next request.
    pub fn next_xid(&mut self) -> i32 {
        self.xid = self.xid.checked_add(1).unwrap_or(1);
        self.xid
    }

    pub async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        let sent = timeout(self.timeout, self.stream.write_all(request)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|e| broken(&self.server, &e))
    }

    /// The next frame without its length; pings meanwhile. The server answers pings, so silence means that it is gone.
    pub async fn frame(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            let silent_at = self.heard + self.timeout * 2 / 3;
            tokio::select! {
                // Cancel safe: what was read is in the buffer, or was not read.
                read = self.stream.read_buf(&mut self.buffer) => match read.map_err(|e| broken(&self.server, &e))? {
                    0 => return Err(Failure::Unreachable(format!("{} has closed the connection", self.server))),
                    _ => self.heard = Instant::now(),
                },
                () = sleep_until(self.ping_at) => {
                    self.ping_at = Instant::now() + self.timeout / 3;
                    self.send(&wire::ping()).await?;
                }
                () = sleep_until(silent_at) => {
                    return Err(Failure::Unreachable(format!("{} has said nothing for {:?}", self.server, self.timeout * 2 / 3)));
                }
            }
        }
    }

    /// A whole frame is there already.
    pub fn has_more(&self) -> bool {
        self.length().is_some_and(|length| self.buffer.len() >= 4 + length)
    }

    fn buffered(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(length) = self.length() else { return Ok(None) };
        if length > FRAME_LIMIT {
            return Err(Failure::Bad(format!("{} announces a frame of {length} bytes: is it a ZooKeeper server?", self.server)));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(4 + length);
        let frame = std::mem::replace(&mut self.buffer, rest);
        Ok(Some(frame[4..].to_vec()))
    }

    /// Of the next frame, by its first four bytes; one below zero counts as one that is too long.
    fn length(&self) -> Option<usize> {
        let first: [u8; 4] = self.buffer.get(..4)?.try_into().ok()?;
        Some(usize::try_from(i32::from_be_bytes(first)).unwrap_or(usize::MAX))
    }
}

fn broken(server: &str, error: &io::Error) -> Failure {
    Failure::Unreachable(format!("{server}: {error}"))
}
