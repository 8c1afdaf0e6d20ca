//! When a target was last told something: the time that it had for an answer begins there.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

#[derive(Debug)]
pub(super) struct Told(Cell<Instant>);

impl Told {
    pub fn at(when: Instant) -> Self {
        Self(Cell::new(when))
    }

    /// Something was sent just now.
    pub fn now(&self) {
        self.0.set(Instant::now());
    }

    pub fn when(&self) -> Instant {
        self.0.get()
    }
}

/// A connection whose writes are noted.
#[derive(Debug)]
pub(super) struct Noted<'a> {
    pub stream: TcpStream,
    pub told: &'a Told,
}

impl AsyncRead for Noted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.told.now();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
