//! Pulses: cheap questions that the target's kernel answers, many a second, from a thread that does nothing else.
//!
//! A SYN is sent by a raw socket from a port that is bound but never used: the answer finds no connection, so our own kernel resets what the
//! target's kernel has begun, and no process of the target ever hears of it.

mod filter;
mod rounds;
mod sockets;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rounds::Rounds;
pub use sockets::PulseSockets;
use sockets::Sockets;

use super::{
    detector::Pulse,
    watch::{Board, TargetId},
};

/// All pulses together take no more than one in this time: beyond so many targets each waits longer for its turn.
const SPACING: Duration = Duration::from_micros(400);

/// Starts the thread, which ends when the board is closed.
pub fn spawn(board: Arc<Board>, sockets: PulseSockets) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sockets = {
        let _inside = runtime.enter();
        Sockets::new(sockets)?
    };
    std::thread::Builder::new().name("mesh-pulse".into()).spawn(move || {
        // A pulse is of use only in time, and costs little: as far as it is allowed, nothing ordinary is let in before it.
        let _ = crate::priority::urgent();
        runtime.block_on(run(&board, sockets));
    })?;
    Ok(())
}

async fn run(board: &Board, mut sockets: Sockets) {
    let mut rounds = Rounds::default();
    loop {
        let wanted = {
            let register = board.lock();
            if register.closed {
                return;
            }
            by_pulse(register.pulses())
        };
        let idle = wanted.is_empty();
        rounds.set(wanted, Instant::now());
        if idle {
            board.pulses.notified().await;
        } else {
            send_and_hear(board, &mut sockets, &mut rounds).await;
        }
    }
}

/// Until the targets change.
async fn send_and_hear(board: &Board, sockets: &mut Sockets, rounds: &mut Rounds) {
    loop {
        let wake = rounds.next_wake();
        tokio::select! {
            biased;
            () = board.pulses.notified() => return,
            () = sockets.readable() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(wake);
        // What has come is heard before anything is given up on, however late we are.
        for answer in sockets.hear() {
            rounds.heard(&answer, now);
        }
        let asked = rounds.turn(now, SPACING);
        for question in asked {
            // What can't be sent is our own trouble and no silence of the target.
            if let Err(error) = sockets.send(&question) {
                rounds.unsent(&question, has_no_way(&error));
            }
        }
        let results = rounds.take_results();
        board.with(|register, now| {
            // A timer of the runtime is up to a millisecond late by itself.
            register.woke(now, late.saturating_sub(Duration::from_millis(1)));
            for (id, beat, rtt) in results {
                register.pulsed(id, beat, rtt, now);
            }
        });
    }
}

/// Whether a link, a route or an address of ours is gone, and not just room in a queue.
fn has_no_way(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::NetworkDown | Kind::NetworkUnreachable | Kind::AddrNotAvailable)
}

fn by_pulse(pulses: Vec<(TargetId, Pulse)>) -> BTreeMap<Pulse, Vec<TargetId>> {
    let mut by_pulse: BTreeMap<Pulse, Vec<TargetId>> = BTreeMap::new();
    for (id, pulse) in pulses {
        by_pulse.entry(pulse).or_default().push(id);
    }
    by_pulse
}
