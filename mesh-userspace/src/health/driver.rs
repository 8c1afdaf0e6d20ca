//! Asks every target on time: one thread with one task, however many targets there are.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    future::LocalBoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;

use super::{
    Check, HealthEvent, MonitorHandle, Outcome, ProbeError, PulseSockets, Sample, alarm, probe, pulse,
    stall::{Circumstances, Lost, Stall},
    watch::{Board, TargetId},
};
use crate::priority;

/// Events that may wait for the daemon. It needs no more: while the channel is full, the board keeps the latest event of each target.
const EVENTS: usize = 64;

/// How many checks run at once at most.
const IN_FLIGHT: usize = 4096;

/// Limits of a monitor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Checks that run at once, each with a socket, and a timer if its timeout is short; the others wait their turn, and their waiting is no failure.
    pub in_flight: usize,
}

impl Default for Options {
    /// Raises the limit of open files as far as it goes, and uses two thirds of it at most: a check with a short timeout has a timer besides its socket.
    fn default() -> Self {
        Self { in_flight: usize::try_from(open_files() / 3).unwrap_or(IN_FLIGHT).clamp(16, IN_FLIGHT) }
    }
}

impl Options {
    /// With so many checks at once, if that many can be.
    pub fn of(checks: Option<u32>) -> Self {
        let most = Self::default().in_flight;
        Self { in_flight: checks.and_then(|n| usize::try_from(n).ok()).map_or(most, |n| n.clamp(1, most)) }
    }
}

fn open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let wanted = hard.min(4 * IN_FLIGHT as u64).max(soft);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft }
}

/// Starts monitors.
#[derive(Debug)]
pub struct Monitor;

impl Monitor {
    /// A monitor without targets, in a thread of its own: a daemon that is busy with a table doesn't make its checks late.
    /// It asks from the network namespace of the calling thread, and ends with the last handle or with the receiver.
    pub fn spawn() -> io::Result<(MonitorHandle, mpsc::Receiver<HealthEvent>)> {
        Self::spawn_with(Options::default())
    }

    pub fn spawn_with(options: Options) -> io::Result<(MonitorHandle, mpsc::Receiver<HealthEvent>)> {
        Self::spawn_from(options, PulseSockets::open())
    }

    /// The same with sockets for pulses that were opened elsewhere; without them there are no pulses, and the log says so.
    pub fn spawn_from(options: Options, pulses: io::Result<PulseSockets>) -> io::Result<(MonitorHandle, mpsc::Receiver<HealthEvent>)> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let board = Arc::new(Board::default());
        let handle = MonitorHandle::new(Arc::clone(&board));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("mesh-health".into()).spawn({
            let board = Arc::clone(&board);
            move || {
                // As far as it is allowed: late checks are excused, but late.
                let _ = priority::prompt();
                runtime.block_on(Driver::new(board, events, options).run());
            }
        })?;
        match pulses {
            Ok(sockets) => pulse::spawn(board, sockets)?,
            Err(error) => {
                log::warn!(
                    "no pulses are sent ({error}): dead backends are found by checks and traffic alone; the daemon needs CAP_NET_RAW"
                )
            }
        }
        Ok((handle, receiver))
    }
}

/// A check that is to be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Turn {
    due: Instant,
    id: TargetId,
    occasion: Occasion,
}

/// Why a check is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Occasion {
    /// The target is new, or its check is.
    First,
    Regular,
    /// Something else speaks against the target. It is nobody's regular turn.
    Doubt,
}

/// What may come of what is in flight.
enum Done {
    Check(Finished),
    /// A moment that was waited for among the checks, to see how late they are.
    Tick,
}

/// A check that was made.
struct Finished {
    turn: Turn,
    check: Arc<Check>,
    outcome: Outcome,
    /// What had been lost when the check began.
    lost: Lost,
}

struct Driver {
    board: Arc<Board>,
    events: mpsc::Sender<HealthEvent>,
    options: Options,
    timers: BinaryHeap<Reverse<Turn>>,
    /// Due, and waiting for one of those in flight to end.
    ready: VecDeque<Turn>,
    /// Checks, and the next tick.
    in_flight: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    checks: usize,
    /// Those among them that are made because of a doubt.
    trials: usize,
    stall: Stall,
    /// From one tick to the next while checks are in flight.
    tick: Duration,
    jitter: Jitter,
}

impl Driver {
    fn new(board: Arc<Board>, events: mpsc::Sender<HealthEvent>, options: Options) -> Self {
        Self {
            board,
            events,
            options,
            timers: BinaryHeap::new(),
            ready: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            checks: 0,
            trials: 0,
            stall: Stall::default(),
            tick: Duration::from_millis(10),
            jitter: Jitter(RandomState::new().hash_one(0)),
        }
    }

    async fn run(mut self) {
        let board = Arc::clone(&self.board);
        let events = self.events.clone();
        while !board.lock().closed && !events.is_closed() {
            let now = Instant::now();
            self.admit(now);
            self.start_trials(now);
            self.start_due(now);
            self.keep_time();
            let wake = self.next_wake();
            let has_news = board.lock().has_news();
            // Nothing is lost when a branch loses: checks stay in the set, events stay on the board until there is room for them,
            // and the notification is kept.
            tokio::select! {
                Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => match done {
                    Done::Check(finished) => self.finish(finished),
                    Done::Tick => self.stall.awake(Instant::now()),
                },
                () = sleep_until(wake) => {}
                () = board.changed.notified() => {}
                permit = events.reserve(), if has_news => {
                    if let (Ok(permit), Some(event)) = (permit, board.lock().take_news()) {
                        permit.send(event);
                    }
                }
                () = events.closed() => {}
            }
        }
    }

    /// New targets are due at once.
    fn admit(&mut self, now: Instant) {
        let mut board = self.board.lock();
        let arrivals = board.take_arrivals();
        if arrivals.is_empty() {
            return;
        }
        let shortest = board.shortest_timeout().unwrap_or(Duration::from_secs(1));
        self.tick = (shortest / 8).clamp(Duration::from_millis(1), Duration::from_millis(10));
        self.timers.extend(arrivals.into_iter().map(|id| Reverse(Turn { due: now, id, occasion: Occasion::First })));
    }

    fn start_due(&mut self, now: Instant) {
        while let Some(Reverse(turn)) = self.timers.peek().copied().filter(|Reverse(t)| t.due <= now) {
            self.timers.pop();
            self.ready.push_back(turn);
        }
        while self.room() > 0 {
            let Some(turn) = self.ready.pop_front() else { break };
            self.start(turn);
        }
    }

    /// So many checks may begin now.
    fn room(&self) -> usize {
        self.options.in_flight.saturating_sub(self.checks)
    }

    fn room_for_trials(&self) -> usize {
        self.room().min(self.options.in_flight.div_ceil(2).saturating_sub(self.trials))
    }

    /// A target that is not wanted any more simply has no further turn.
    fn start(&mut self, turn: Turn) {
        let Some(check) = self.board.lock().check(turn.id) else { return };
        self.make(turn, check);
    }

    /// Trials go before the others, for they are urgent, but leave half of the room to them.
    fn start_trials(&mut self, now: Instant) {
        let doubted = self.board.lock().take_doubted(now, self.room_for_trials());
        self.trials += doubted.len();
        for (id, check) in doubted {
            self.make(Turn { due: now, id, occasion: Occasion::Doubt }, check);
        }
    }

    fn make(&mut self, turn: Turn, check: Arc<Check>) {
        let lost = self.stall.lost(Instant::now());
        self.checks += 1;
        self.in_flight.push(Box::pin(async move {
            let outcome = probe(&check).await;
            Done::Check(Finished { turn, check, outcome, lost })
        }));
    }

    fn finish(&mut self, finished: Finished) {
        let now = Instant::now();
        self.checks = self.checks.saturating_sub(1);
        let Finished { turn, check, outcome, lost } = finished;
        let board = Arc::clone(&self.board);
        let mut board = board.lock();
        let circumstances = Circumstances {
            timeout: check.timeout,
            elapsed: outcome.elapsed,
            // A command runs here: whenever we were late, so may it have been.
            waited: if check.kind.starts_processes() { Duration::ZERO } else { outcome.waited },
            lost: self.stall.lost(now).since(lost),
            excused: board.excused_in_row(turn.id, turn.occasion == Occasion::Doubt),
            silent: board.is_silent(turn.id),
        };
        let refused = matches!(&outcome.result, Err(e) if is_refusal(e));
        if matches!(&outcome.result, Err(e) if is_answer(e)) {
            board.heard(now);
        }
        let waited = matches!(&outcome.result, Ok(_) | Err(ProbeError::Timeout(_))).then_some(outcome.elapsed);
        board.spoke(turn.id, matches!(&outcome.result, Err(e) if is_answer(e)));
        let load = outcome.result.as_ref().ok().cloned().flatten();
        let sample = sample(outcome, circumstances);
        let of_target = !matches!(sample, Sample::Excused { .. }) && turn.occasion != Occasion::Doubt;
        if let Some(waited) = waited.filter(|_| of_target) {
            board.waited(turn.id, waited, load);
        }
        if turn.occasion == Occasion::Doubt {
            self.trials = self.trials.saturating_sub(1);
            board.tried(turn.id, sample, refused, now);
        } else if board.record(turn.id, sample, refused, now) {
            let due = self.next_due(turn, &check, now);
            self.timers.push(Reverse(Turn { due, occasion: Occasion::Regular, ..turn }));
        }
    }

    /// After a target's first check the next one comes somewhere within an interval, so that targets that came together don't stay together: neither
    /// do those whose first check had to wait for so long that its turn is over, so it is counted from its end.
    fn next_due(&mut self, turn: Turn, check: &Check, now: Instant) -> Instant {
        let interval = check.interval.max(Check::MIN_INTERVAL);
        match turn.occasion {
            Occasion::First => now + self.jitter.below(interval),
            Occasion::Regular | Occasion::Doubt => (turn.due + self.jitter.around(interval, check.jitter)).max(now),
        }
    }

    /// Waits for a moment among the checks in flight, in the same queues: when it comes late, so do their answers.
    fn keep_time(&mut self) {
        if self.checks == 0 || self.stall.expects() {
            return;
        }
        let due = Instant::now() + self.tick;
        self.stall.expect(due);
        self.in_flight.push(Box::pin(async move {
            alarm::sleep_until(due).await;
            Done::Tick
        }));
    }

    fn next_wake(&self) -> Option<Instant> {
        // Where there is no room, the end of a check is what is waited for.
        let trial = if self.room_for_trials() > 0 { self.board.lock().next_trial() } else { None };
        self.timers.peek().map(|Reverse(turn)| turn.due).into_iter().chain(trial).min()
    }
}

fn sample(outcome: Outcome, circumstances: Circumstances) -> Sample {
    match outcome.result {
        Ok(_) => Sample::Passed { rtt: outcome.elapsed },
        Err(e) if circumstances.excuse(e.fault()) => Sample::Excused { error: e.to_string() },
        Err(e) => Sample::Failed { error: e.to_string() },
    }
}

/// The target said something, if not what it should.
fn is_answer(error: &ProbeError) -> bool {
    match error {
        ProbeError::Connect(_) | ProbeError::Timeout(_) | ProbeError::Local(_) => false,
        ProbeError::Part { error, .. } => is_answer(error),
        _ => true,
    }
}

/// The target itself said that nobody listens.
fn is_refusal(error: &ProbeError) -> bool {
    match error {
        ProbeError::Connect(e) => e.kind() == io::ErrorKind::ConnectionRefused,
        ProbeError::Part { error, .. } => is_refusal(error),
        _ => false,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// Spreads checks; nothing depends on how good its numbers are (splitmix64).
struct Jitter(u64);

impl Jitter {
    /// As much as `percent` less or more.
    fn around(&mut self, span: Duration, percent: u8) -> Duration {
        let width = span.mul_f64(f64::from(percent.min(100)) / 100.0);
        span - width + self.below(2 * width)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        limit.mul_f64(part)
    }
}

#[cfg(test)]
mod tests;
