//! Long connections, and flows of datagrams: opened once, asked again and again, so that one that breaks is seen.

use std::{
    fmt::Display,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    load::{body_of, connect},
    unspecified,
};
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

impl HeldReport {
    /// One whose first request was answered.
    pub(super) fn begun(owner: String) -> Self {
        Self { owner, requests: 1, broken: None }
    }

    /// Takes in who has answered the next request.
    pub(super) fn note(&mut self, answer: Result<String, impl Display>) {
        match answer {
            Ok(who) if who == self.owner => self.requests += 1,
            Ok(who) => self.broken = Some(format!("answered by {who}")),
            Err(e) => self.broken = Some(format!("{e:#}")),
        }
    }
}

impl Held {
    /// Opens `count` connections from `ns`; a request that takes longer than `timeout` has broken its connection.
    pub fn open(ns: &Namespace, to: SocketAddr, count: usize, pause: Duration, timeout: Duration) -> Result<Self> {
        Self::with(ns, to, count, pause, || Connection::open(to, timeout))
    }

    /// The same with flows of UDP: a question is sent again each second, and one without an answer for `timeout` has broken its flow.
    pub fn open_udp(ns: &Namespace, to: SocketAddr, count: usize, pause: Duration, timeout: Duration) -> Result<Self> {
        Self::with(ns, to, count, pause, || Connection::open_udp(to, timeout))
    }

    fn with(
        ns: &Namespace,
        to: SocketAddr,
        count: usize,
        pause: Duration,
        open: impl Fn() -> io::Result<Connection> + Send + Sync,
    ) -> Result<Self> {
        let mut connections = ns
            .enter(|| (0..count).map(|_| open()).collect::<io::Result<Vec<_>>>())?
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
    line: Line,
    report: HeldReport,
}

enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket, Duration),
}

impl Connection {
    fn open(to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::on(Line::Tcp(connect(to, timeout)?))
    }

    fn open_udp(to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let end = Instant::now() + timeout;
        loop {
            let socket = UdpSocket::bind((unspecified(to), 0))?;
            socket.set_read_timeout(Some(timeout.min(AGAIN)))?;
            socket.connect(to)?;
            match Self::on(Line::Udp(socket, timeout)) {
                // Nobody listens there any more, and that was not found out yet: another flow may be luckier.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < end => std::thread::sleep(AGAIN / 10),
                opened => return opened,
            }
        }
    }

    fn on(mut line: Line) -> io::Result<Self> {
        let owner = line.ask(0)?;
        Ok(Self { line, report: HeldReport::begun(owner) })
    }

    fn ask_again(&mut self) {
        if self.report.broken.is_some() {
            return;
        }
        let answer = self.line.ask(self.report.requests);
        self.report.note(answer);
    }
}

impl Line {
    fn ask(&mut self, number: u64) -> io::Result<String> {
        match self {
            Self::Tcp(stream) => ask(stream),
            Self::Udp(socket, timeout) => ask_datagram(socket, number, *timeout),
        }
    }
}

/// A datagram that was lost is sent again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// One question on a flow; its number tells its answer from those of questions before it.
fn ask_datagram(socket: &UdpSocket, number: u64, timeout: Duration) -> io::Result<String> {
    let question = format!("question {number}");
    let (mut answer, end) = ([0; 128], Instant::now() + timeout);
    loop {
        socket.send(question.as_bytes())?;
        let again = Instant::now() + AGAIN;
        while Instant::now() < again {
            match socket.recv(&mut answer) {
                Ok(len) => {
                    let text = String::from_utf8_lossy(&answer[..len]);
                    if let Some((who, asked)) = text.split_once(' ')
                        && asked == question
                    {
                        return Ok(who.to_owned());
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) => return Err(e),
            }
        }
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
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
