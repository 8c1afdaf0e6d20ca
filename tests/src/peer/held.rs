//! Long connections: opened once, asked again and again, so that one that breaks is seen.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};

use super::load::body_of;
use crate::netns::Namespace;

/// Connections that are held open and asked in turn until stopped.
#[derive(Debug)]
pub struct Held {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

/// What the asking thread and whoever looks at it know of each other.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    turns: AtomicU64,
    reports: Mutex<Vec<HeldReport>>,
}

/// The life of one held connection.
#[derive(Clone, Debug)]
pub struct HeldReport {
    /// Who answered first.
    pub owner: String,
    pub requests: u64,
    /// What broke it: an error, or an answer by somebody else.
    pub broken: Option<String>,
}

impl Held {
    /// Opens `count` connections from `ns`; a request that takes longer than `timeout` has broken its connection.
    pub fn open(ns: &Namespace, to: SocketAddr, count: usize, pause: Duration, timeout: Duration) -> Result<Self> {
        let mut connections = ns
            .enter(|| (0..count).map(|_| Connection::open(to, timeout)).collect::<io::Result<Vec<_>>>())?
            .with_context(|| format!("failed to open long connections to {to}"))?;
        let shared = Arc::new(Shared::default());
        shared.note(&connections);
        let seen = shared.clone();
        let worker = std::thread::spawn(move || {
            while !seen.stop.load(Ordering::Relaxed) {
                connections.iter_mut().for_each(Connection::ask_again);
                seen.note(&connections);
                seen.turns.fetch_add(1, Ordering::Release);
                std::thread::sleep(pause);
            }
        });
        Ok(Self { shared, worker: Some(worker) })
    }

    /// How often all of them have been asked since they were opened.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Acquire)
    }

    /// How each has fared until the last turn.
    pub fn so_far(&self) -> Vec<HeldReport> {
        self.shared.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes them and says how each fared.
    pub fn finish(mut self) -> Vec<HeldReport> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        self.so_far()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn note(&self, connections: &[Connection]) {
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = connections.iter().map(|c| c.report.clone()).collect();
    }
}

struct Connection {
    stream: TcpStream,
    report: HeldReport,
}

impl Connection {
    fn open(to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let owner = ask(&mut stream)?;
        Ok(Self { stream, report: HeldReport { owner, requests: 1, broken: None } })
    }

    fn ask_again(&mut self) {
        if self.report.broken.is_some() {
            return;
        }
        match ask(&mut self.stream) {
            Ok(who) if who == self.report.owner => self.report.requests += 1,
            Ok(who) => self.report.broken = Some(format!("answered by {who}")),
            Err(e) => self.report.broken = Some(e.to_string()),
        }
    }
}

/// One request on an open connection; the answer has a Content-Length and fits a few kilobytes.
fn ask(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side"));
        }
        answer.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= content_length(head)
        {
            return body_of(&text).map(str::to_owned);
        }
    }
}

fn content_length(head: &str) -> usize {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}
