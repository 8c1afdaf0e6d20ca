//! Tells the peers what this node sees of backends, and hears what they see: at each interval, and at once where something has changed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use tokio::{
    net::UdpSocket,
    time::{Instant, MissedTickBehavior},
};

use super::{
    datagram::{Channel, Key, MAX_PAYLOAD, Opener, Refusal, Sealer},
    ledger::link::Line,
};
use crate::{
    config::Peers,
    health::{MonitorHandle, PeerDesk, Word},
};

/// Changes of a moment are told together.
const BURST: Duration = Duration::from_millis(2);
/// Datagrams to each peer at a time: where more backends are in doubt than these hold, the rest are told with later intervals.
const MOST: usize = 256;

/// What the peers' part tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Refused>);

#[derive(Debug, Default)]
struct Refused {
    forged: AtomicU64,
    other: AtomicU64,
}

impl Counts {
    /// Datagrams with a wrong authentication, and others that were not taken.
    pub fn refused(&self) -> (u64, u64) {
        (self.0.forged.load(Ordering::Relaxed), self.0.other.load(Ordering::Relaxed))
    }

    fn count(&self, refusal: Refusal) {
        let counter = if matches!(refusal, Refusal::Forged(_)) { &self.0.forged } else { &self.0.other };
        // The first one is worth a line; a flood of them is not.
        if counter.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!("a datagram for the peers' port is not taken: {refusal}");
        }
    }
}

/// A node among its peers; ends with the monitor.
#[derive(Debug)]
pub struct Gossip {
    socket: UdpSocket,
    sealer: Arc<Mutex<Sealer>>,
    /// For what is said of flows.
    flows: Flows,
    opener: Opener,
    peers: Vec<SocketAddr>,
    interval: Duration,
    desk: PeerDesk,
    counts: Counts,
    /// Where the next telling begins, if not all could be told.
    told: usize,
}

/// Takes what others say of flows.
type Flows = mpsc::SyncSender<(SocketAddr, Vec<u8>)>;

/// Datagrams about flows that wait to be heard; more are lost, and said again.
const WAITING: usize = 8192;

/// Binds the socket, and counts the peers' votes from then on. The line is for what is said of flows.
pub fn open(peers: &Peers, monitor: &MonitorHandle) -> io::Result<(Counts, Line)> {
    let socket = std::net::UdpSocket::bind(peers.listen)?;
    socket.set_nonblocking(true)?;
    let counts = Counts::default();
    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
    let sealer = Arc::new(Mutex::new(Sealer::new(Key::new(peers.key.as_bytes()), peers.listen, start)));
    let (flows, heard) = mpsc::sync_channel(WAITING);
    let line = Line { socket: socket.try_clone()?, sealer: Arc::clone(&sealer), heard, start };
    let (peers, desk, kept) = (peers.clone(), monitor.desk(), counts.clone());
    monitor.set_peers(peers.quorum, peers.interval, &peers.nodes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("mesh-peers".into()).spawn(move || {
        let _ = crate::priority::prompt();
        runtime.block_on(async move {
            match Gossip::new(socket, &peers, (sealer, flows), desk, counts) {
                Ok(gossip) => gossip.run().await,
                Err(error) => log::error!("no votes are exchanged with the peers: {error}"),
            }
        });
    })?;
    Ok((kept, line))
}

impl Gossip {
    fn new(
        socket: std::net::UdpSocket,
        peers: &Peers,
        (sealer, flows): (Arc<Mutex<Sealer>>, Flows),
        desk: PeerDesk,
        counts: Counts,
    ) -> io::Result<Self> {
        let key = Key::new(peers.key.as_bytes());
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            sealer,
            flows,
            opener: Opener::new(key, peers.listen, peers.nodes.iter().copied()),
            peers: peers.nodes.clone(),
            interval: peers.interval,
            desk,
            counts,
            told: 0,
        })
    }

    async fn run(mut self) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bytes = vec![0; 2048];
        let told = self.desk.word_changed();
        let mut again: Option<Instant> = None;
        while !self.desk.is_closed() {
            // Cancel safe: a datagram is received or stays in the socket, a notification is kept, timers are instants.
            tokio::select! {
                received = self.socket.recv(&mut bytes) => match received {
                    Ok(length) => self.hear(bytes.get(..length).unwrap_or_default()),
                    // An earlier datagram found nobody: that is no trouble of ours.
                    Err(_) => tokio::time::sleep(BURST).await,
                },
                _ = tick.tick() => self.tell().await,
                () = told.notified() => again = again.or(Some(Instant::now() + BURST)),
                () = at(again) => {
                    again = None;
                    self.tell().await;
                }
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        match self.opener.open(bytes) {
            Ok(opened) => match opened.channel {
                Channel::Votes => match serde_json::from_slice::<Vec<Word>>(opened.payload) {
                    Ok(words) => self.desk.peer_said(opened.from, words),
                    Err(error) => log::debug!("{} is not understood: {error}", opened.from),
                },
                // Where nobody listens yet, or too much is said, it is said again.
                Channel::Flows => drop(self.flows.try_send((opened.from, opened.payload.to_vec()))),
            },
            Err(refusal) => self.counts.count(refusal),
        }
    }

    async fn tell(&mut self) {
        let mut words = self.desk.words();
        if !words.is_empty() {
            let first = self.told % words.len();
            words.rotate_left(first);
        }
        let (payloads, fitted) = parts(&words);
        self.told = if fitted < words.len() { self.told.wrapping_add(fitted) } else { 0 };
        for peer in &self.peers {
            for payload in &payloads {
                // Who can't be reached is not heard either, and that is told.
                let datagram = self.sealer.lock().unwrap_or_else(PoisonError::into_inner).seal(*peer, Channel::Votes, payload);
                let _ = self.socket.send_to(&datagram, peer).await;
            }
        }
    }
}

/// The words as payloads, one at least, and how many of the words they hold.
fn parts(words: &[Word]) -> (Vec<Vec<u8>>, usize) {
    let (mut parts, mut part, mut fitted) = (Vec::new(), b"[".to_vec(), 0);
    for word in words {
        let Ok(text) = serde_json::to_vec(word) else { continue };
        if part.len() + text.len() + 2 > MAX_PAYLOAD {
            if parts.len() + 1 == MOST {
                break;
            }
            part.push(b']');
            parts.push(std::mem::replace(&mut part, b"[".to_vec()));
        }
        if part.len() > 1 {
            part.push(b',');
        }
        part.extend(text);
        fitted += 1;
    }
    part.push(b']');
    parts.push(part);
    (parts, fitted)
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Verdict;

    #[test]
    fn words_are_cut_into_datagrams_and_none_is_lost() {
        let word = |n: u16| Word {
            service: "web".parse().unwrap(),
            backend: crate::model::BackendId(([10, 0, 0, 1], n).into()),
            verdict: Verdict::Down,
        };
        for count in [0, 1, 2, 500] {
            let words: Vec<_> = (1..=count).map(word).collect();
            let (payloads, fitted) = parts(&words);
            assert!(payloads.iter().all(|p| p.len() <= MAX_PAYLOAD) && !payloads.is_empty());
            let back: Vec<Word> = payloads.iter().flat_map(|p| serde_json::from_slice::<Vec<Word>>(p).unwrap()).collect();
            assert_eq!((back, fitted), (words, usize::from(count)));
        }
        let many: Vec<_> = (1..=20_000).map(word).collect();
        let (payloads, fitted) = parts(&many);
        assert!(payloads.len() == MOST && fitted < many.len() && fitted > 1000);
    }
}
