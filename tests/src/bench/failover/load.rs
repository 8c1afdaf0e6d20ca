//! Real requests at a steady rate, whatever becomes of those before: each is one HTTP exchange on a connection of its own.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::netns::Namespace;

/// A request that takes longer has failed. A lost SYN is sent again after one second, so one that was lost with its backend can still succeed.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// One that takes longer was noticed by whoever asked.
pub const SLOW: Duration = Duration::from_millis(500);
/// Requests under way at most: beyond, new ones wait.
const MOST: usize = 16_384;

/// What became of the requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub done: u64,
    pub failed: u64,
    /// Succeeded, but late.
    pub slow: u64,
}

impl Tally {
    pub fn and(self, other: Self) -> Self {
        Self { done: self.done + other.done, failed: self.failed + other.failed, slow: self.slow + other.slow }
    }
}

/// Asks until it is dropped.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    worker: Option<JoinHandle<()>>,
}

impl Load {
    /// `rate` requests a second from `ns`, at least one.
    pub fn start(ns: &Namespace, to: SocketAddr, rate: u32) -> Result<Self> {
        ns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let (over, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let (stop, sink) = (Arc::clone(&over), Arc::clone(&tally));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to make a runtime for requests")?;
        let worker = ns.spawn(move || runtime.block_on(LocalSet::new().run_until(ask_on(to, rate.max(1), stop, sink))))?;
        Ok(Self { over, tally, worker: Some(worker) })
    }

    /// What became of the requests since the last call.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

async fn ask_on(to: SocketAddr, rate: u32, over: Arc<AtomicBool>, tally: Arc<Mutex<Tally>>) {
    let room = Arc::new(tokio::sync::Semaphore::new(MOST));
    let mut tick = interval(Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !over.load(Ordering::Relaxed) {
        tick.tick().await;
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let tally = Arc::clone(&tally);
        tokio::task::spawn_local(async move {
            let start = Instant::now();
            let answered = matches!(timeout(PATIENCE, ask(to)).await, Ok(Ok(())));
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.done += 1;
            tally.failed += u64::from(!answered);
            tally.slow += u64::from(answered && start.elapsed() > SLOW);
            drop(place);
        });
    }
}

/// One request; the server closes, and so keeps what has to be kept of a closed connection.
async fn ask(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
