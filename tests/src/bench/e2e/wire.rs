//! A client and a server that do next to nothing themselves, so that what lies between them is seen.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    task::LocalSet,
};

use crate::netns::Namespace;

/// Bytes of a request, as of a small one of HTTP, and of its answer.
const REQUEST: usize = 96;
const ANSWER: usize = 256;
/// First byte of a request: the connection goes on, or ends with the answer.
const GO_ON: u8 = b'k';
const END: u8 = b'c';
/// Who waits for longer has found that something is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request costs: a connection of its own, or its share of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Connections,
    Requests,
}

/// Answers at `port` of all addresses of a namespace, on a thread of its own, as long as the program runs.
pub fn serve(ns: &Namespace, port: u16) -> Result<()> {
    let listener = ns.enter(|| std::net::TcpListener::bind(("0.0.0.0", port)))?.context("failed to listen")?;
    listener.set_nonblocking(true)?;
    ns.spawn(move || {
        let Ok(runtime) = runtime() else { return };
        LocalSet::new().block_on(&runtime, async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(answer(stream));
            }
        });
    })?;
    Ok(())
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(&[0x2a; ANSWER]).await?;
        if request[0] == END {
            // The server ends it, so that it is the one who remembers the connection for a while.
            stream.shutdown().await?;
            return stream.read(&mut request).await.map(drop);
        }
    }
}

/// A place to ask from: its runtime, in its namespace.
#[derive(Debug)]
pub struct Client<'a> {
    pub ns: &'a Namespace,
    pub at_once: usize,
}

impl Client<'_> {
    /// Asks `targets` in turns for so long; how many requests were answered, and how long that took.
    pub fn ask(&self, kind: Kind, targets: &[SocketAddr], from: SocketAddr, time: Duration) -> Result<(u64, Duration)> {
        let done = Cell::new(0);
        let begun = Instant::now();
        let end = begun + time;
        self.ns
            .enter(|| {
                // Cells do not cross threads; this one is counted on the thread that asks.
                let count = Cell::new(0);
                let runtime = runtime()?;
                let result = LocalSet::new().block_on(&runtime, async {
                    let asked = (0..self.at_once).map(|i| worker(kind, targets[i % targets.len()], from, end, &count));
                    futures_util::future::try_join_all(asked).await
                });
                result.map(|_| count.get())
            })?
            .map(|count| done.set(count))?;
        ensure!(done.get() > 0, "nothing was answered");
        Ok((done.get(), begun.elapsed()))
    }
}

async fn worker(kind: Kind, to: SocketAddr, from: SocketAddr, end: Instant, count: &Cell<u64>) -> Result<()> {
    let first = match kind {
        Kind::Connections => END,
        Kind::Requests => GO_ON,
    };
    let mut kept = None;
    while Instant::now() < end {
        let asked = async {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => connect(to, from).await?,
            };
            let mut request = [b' '; REQUEST];
            request[0] = first;
            stream.write_all(&request).await?;
            let mut answer = [0; ANSWER];
            stream.read_exact(&mut answer).await?;
            if kind == Kind::Connections {
                let more = stream.read(&mut answer).await?;
                return if more == 0 { io::Result::Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
            }
            Ok(Some(stream))
        };
        kept = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| anyhow::anyhow!("{to} did not answer within {PATIENCE:?}"))??;
        count.set(count.get() + 1);
    }
    Ok(())
}

async fn connect(to: SocketAddr, from: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    // The port is chosen when the destination is known, and so may be that of another destination's connection.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(from)?;
    socket.connect(to).await
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("failed to make a runtime")
}
