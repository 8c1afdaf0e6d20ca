//! Short connections from inside a namespace: one request each.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::unspecified;
use crate::netns::Namespace;

/// One finished request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When the request began.
    pub at: Instant,
    pub took: Duration,
    /// Body of the answer, which names the backend, or what went wrong.
    pub from: Result<String, String>,
}

/// Workers that ask one address again and again, each request on a connection of its own, until stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    answers: Receiver<Answer>,
}

impl Load {
    /// `workers` threads in `ns`, each pausing for `pause` between requests; a request that takes longer than `timeout` has failed.
    pub fn start(ns: &Namespace, to: SocketAddr, workers: usize, pause: Duration, timeout: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tx, answers) = mpsc::channel();
        let workers = (0..workers)
            .map(|_| {
                let (stop, tx) = (stop.clone(), tx.clone());
                ns.spawn(move || work(to, pause, timeout, &stop, &tx))
            })
            .collect::<Result<_>>()?;
        Ok(Self { stop, workers, answers })
    }

    /// What has been answered since the last call.
    pub fn drain(&self) -> Vec<Answer> {
        self.answers.try_iter().collect()
    }

    /// Ends the workers and returns what had not been drained.
    pub fn finish(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        self.answers.try_iter().collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(to: SocketAddr, pause: Duration, timeout: Duration, stop: &AtomicBool, answers: &Sender<Answer>) {
    while !stop.load(Ordering::Relaxed) {
        let at = Instant::now();
        let from = get(to, "/", timeout).map_err(|e| e.to_string());
        if answers.send(Answer { at, took: at.elapsed(), from }).is_err() {
            return;
        }
        std::thread::sleep(pause);
    }
}

/// Sends a datagram `times` times from one port, each of which has to come back behind the name of who answers; that name. `timeout` is for each.
pub fn ask_udp(to: SocketAddr, question: &str, times: usize, timeout: Duration) -> Result<String> {
    let socket = UdpSocket::bind((unspecified(to), 0))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(to)?;
    let (mut answer, mut len) = ([0; 128], 0);
    for _ in 0..times {
        socket.send(question.as_bytes())?;
        len = socket.recv(&mut answer).with_context(|| format!("no answer to {question:?} from {to}"))?;
        ensure!(answer[..len].ends_with(question.as_bytes()), "a garbled answer");
    }
    Ok(String::from_utf8_lossy(&answer[..len]).split(' ').next().unwrap_or_default().to_owned())
}

/// One `GET path` on a connection of its own from the current namespace; the body. `timeout` covers connecting, and each read.
///
/// The request is one segment. Where a server's kernel answers by SYN cookies, and the handshake's ACK and the first segment are both lost, a second segment
/// that is probed with before the first is sent again (RFC 8985 section 7.3) has numbers that no cookie fits, and is answered by a RST.
pub fn get(to: SocketAddr, path: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = connect(to, timeout)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    body_of(&answer).map(str::to_owned)
}

/// A connection that the server's kernel has surely taken in whole. `timeout` is for connecting, and then for each read and write.
///
/// A first segment that comes at the same moment as what ends the handshake Linux may answer by a RST, though the connection is open from then on: seen
/// of 13 of 1.4 million with nothing but an Ethernet between client and server (Linux 6.18, two CPUs), and of none of 1.9 million that waited. It looks as
/// if the segment's socket was looked up on one CPU while another put the open one in the place of the half-open one.
pub(super) fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    std::thread::sleep(Duration::from_micros(100));
    Ok(stream)
}

/// The body of a whole answer with status 200.
pub(super) fn body_of(answer: &str) -> io::Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no end of headers in the answer"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("answered `{}`", head.lines().next().unwrap_or_default())));
    }
    Ok(body)
}
