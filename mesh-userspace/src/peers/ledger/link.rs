//! The machine at work: a thread that hears and tells, and what the daemon's loop has to do with it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use mesh_common::abi::{LedgerEntry, LedgerWord};
use tokio::sync::Notify;

use super::{Entry, Kind, Machine, Options, Report, View, awaited::Awaited};
use crate::{
    dataplane::replica::{Found, Replica},
    events::millis,
    model::{BackendId, VipAddr},
    peers::datagram::{Channel, Sealer},
};

/// While slots are on their way the ledger is looked through this often; a very large one less often, ...
const LOOK: Duration = Duration::from_millis(4);
/// ... but at least so often.
const SELDOM: Duration = Duration::from_millis(40);
/// What is not acknowledged is looked after this often.
const SOON: Duration = Duration::from_millis(10);

/// A service whose slots are on their way, here or on another node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The lower 16 bits of its id.
    pub service: u16,
    /// By local index.
    pub backends: Vec<Option<BackendId>>,
}

/// What the daemon's loop and the thread share.
#[derive(Debug)]
pub struct Link {
    state: Mutex<State>,
    began: Instant,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    directory: HashMap<VipAddr, Place>,
    /// Entries were told of services that are not in the directory.
    missing: HashSet<VipAddr>,
    /// Those of them that this node does not serve.
    foreign: HashSet<VipAddr>,
    awaited: Awaited,
    /// How often there was no room for an entry.
    no_room: u64,
}

/// What is needed to speak to others.
#[derive(Debug)]
pub struct Line {
    pub socket: UdpSocket,
    pub sealer: Arc<Mutex<Sealer>>,
    pub heard: Receiver<(SocketAddr, Vec<u8>)>,
    pub start: u64,
}

impl Link {
    /// Speaks to `peers` from now on. `tag`: what nodes have in common that find the same slot for a flow.
    pub fn start(line: Line, peers: &crate::config::Peers, tag: u64, replica: Replica) -> std::io::Result<Arc<Self>> {
        let options = Options { start: line.start, tag, lost: millis(peers.lost), interval: millis(peers.interval) };
        let machine = Machine::new(options, peers.nodes.iter().copied(), 0);
        let (directory, missing, foreign) = (HashMap::new(), HashSet::new(), HashSet::new());
        let state = State { machine, directory, missing, foreign, awaited: Awaited::default(), no_room: 0 };
        let link = Arc::new(Self { state: Mutex::new(state), began: Instant::now(), changed: Notify::new() });
        let (shared, interval) = (Arc::clone(&link), peers.interval);
        std::thread::Builder::new().name("mesh-flows".into()).spawn(move || {
            let _ = crate::priority::prompt();
            shared.run(&line, replica, interval);
        })?;
        Ok(link)
    }

    /// Waits until what others say is something else.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All peers.
    pub fn peers(&self) -> Vec<(SocketAddr, View)> {
        let now = self.now();
        self.lock().machine.peers(now)
    }

    /// All peers, to take what they say into account before this node says what it does.
    pub fn look(&self) -> Vec<(SocketAddr, View)> {
        let now = self.now();
        self.lock().machine.look(now)
    }

    /// Services that others tell of and that the directory does not hold.
    pub fn missing(&self) -> Vec<VipAddr> {
        self.lock().missing.iter().copied().collect()
    }

    /// What is said of slots from now on, and where entries of which services are; the report's version.
    pub fn say(&self, report: &Report, directory: HashMap<VipAddr, Place>, foreign: HashSet<VipAddr>) -> u64 {
        let mut state = self.lock();
        state.missing.retain(|vip| !directory.contains_key(vip) && !foreign.contains(vip));
        (state.directory, state.foreign) = (directory, foreign);
        state.machine.say(report)
    }

    pub fn wants_full(&self) -> bool {
        self.lock().machine.wants_full()
    }

    pub fn say_full(&self, report: &Report) {
        self.lock().machine.say_full(report);
    }

    pub fn is_joining(&self) -> bool {
        self.lock().machine.is_joining()
    }

    pub fn may_join(&self) -> bool {
        let now = self.now();
        self.lock().machine.may_join(now)
    }

    /// Others speak of these backends of a service, which are not known here. Whether one of them may be soon: each is waited for from when it was named
    /// first, whatever becomes of the others.
    pub fn await_all(&self, vip: VipAddr, backends: &BTreeSet<BackendId>) -> bool {
        let now = self.now();
        let mut state = self.lock();
        backends.iter().filter(|backend| state.awaited.may_come(vip, **backend, now)).count() > 0
    }

    pub fn join(&self) {
        self.lock().machine.join();
    }

    /// Version of our report, and entries of others that there was no room for.
    pub fn own(&self) -> (u64, u64) {
        let state = self.lock();
        (state.machine.version(), state.no_room)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done that is worse than a message too few.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn run(&self, line: &Line, mut replica: Replica, interval: Duration) {
        let (mut look_at, mut pause) = (Instant::now(), LOOK);
        loop {
            let wait = match self.lock() {
                state if !state.directory.is_empty() => look_at.saturating_duration_since(Instant::now()),
                state if state.machine.is_busy() => SOON,
                _ => interval,
            };
            let first = match line.heard.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut state = self.lock();
            let mut changed = false;
            for (from, message) in first.into_iter().chain(line.heard.try_iter().take(1024)) {
                changed |= state.hear(from, &message, self.now(), &mut replica);
            }
            if Instant::now() >= look_at {
                let began = Instant::now();
                state.look(&mut replica);
                pause = (10 * began.elapsed()).clamp(LOOK, SELDOM);
                look_at = Instant::now() + pause;
            }
            let wants_full = state.machine.wants_full();
            let messages = state.machine.due(self.now());
            drop(state);
            if changed || wants_full {
                self.changed.notify_one();
            }
            for (to, message) in messages {
                let datagram = line.sealer.lock().unwrap_or_else(PoisonError::into_inner).seal(to, Channel::Flows, &message);
                // Who can't be reached does not answer, and that is told.
                let _ = line.socket.send_to(&datagram, to);
            }
            look_at = look_at.min(Instant::now() + pause);
        }
    }
}

impl State {
    fn hear(&mut self, from: SocketAddr, message: &[u8], now: u64, replica: &mut Replica) -> bool {
        let tick = Replica::now();
        let Self { machine, directory, missing, foreign, awaited, no_room } = self;
        let known = missing.len();
        let changed = machine.hear(from, message, now, |entry| match directory.get(&entry.vip) {
            Some(place) => match place.backends.iter().position(|id| *id == Some(entry.backend)) {
                Some(backend) => {
                    awaited.has_come(entry.vip, entry.backend);
                    let room = replica.take(entry.hash, u32::from(place.service), word(entry, backend as u16, tick), tick);
                    *no_room += u64::from(!room);
                    room
                }
                None => !awaited.may_come(entry.vip, entry.backend, now),
            },
            None if foreign.contains(&entry.vip) => true,
            None => {
                missing.insert(entry.vip);
                false
            }
        });
        changed || missing.len() > known
    }

    /// Tells what the kernel half has remembered since.
    fn look(&mut self, replica: &mut Replica) {
        let tick = Replica::now();
        let vips: HashMap<u16, (&VipAddr, &Place)> = self.directory.iter().map(|(vip, place)| (place.service, (vip, place))).collect();
        let entry = |found: Found| {
            let (vip, place) = vips.get(&LedgerEntry::service(found.claim))?;
            let backend = place.backends.get(usize::from(found.word.backend())).copied().flatten()?;
            let kind = if found.word.is_flow() { Kind::Flow } else { Kind::Pending { isn: found.word.isn() } };
            Some(Entry { vip: **vip, hash: found.claim & (u64::MAX >> 16), backend, kind, age: found.age as u16 })
        };
        if self.machine.wants_all() {
            let all: Vec<Entry> = replica.all(tick).into_iter().filter_map(entry).collect();
            self.machine.offer_all(&all);
        }
        if !vips.is_empty() {
            let news: Vec<Entry> = replica.news(tick, |service| vips.contains_key(&service)).into_iter().filter_map(entry).collect();
            self.machine.offer(&news);
        }
    }
}

fn word(entry: &Entry, backend: u16, now: u32) -> LedgerWord {
    let used = now.wrapping_sub(u32::from(entry.age));
    match entry.kind {
        Kind::Flow => LedgerWord::flow(backend, used),
        Kind::Pending { isn } => LedgerWord::pending(backend, isn, used),
    }
}
