//! Heartbeats over loopback on the machine as it is: how late its own scheduling makes answers look.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::bench::Undisturbed;

/// From one send to the next.
pub const BEAT: Duration = Duration::from_millis(1);

/// One heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// Seconds from the begin.
    pub sent: f64,
    /// `None` = never answered.
    pub answered: Option<f64>,
}

/// Sends a heartbeat every [`BEAT`] for `length` to a thread that echoes it. `real_time`: all that take part go before whatever else runs; fails
/// where that is not allowed.
pub fn beats(length: Duration, real_time: bool) -> Result<Vec<Beat>> {
    // A thread begins with the priority of the one that makes it.
    let _first = if real_time { Some(Undisturbed::begin()?) } else { None };
    let (server, client) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    client.connect(server.local_addr()?)?;
    let over = Arc::new(AtomicBool::new(false));
    let (echo, ears) = (patient(&server)?, patient(&client)?);
    let (echo_over, ears_over) = (Arc::clone(&over), Arc::clone(&over));
    let begin = Instant::now();
    let echoing = thread::spawn(move || {
        let mut buf = [0; 8];
        while !echo_over.load(Ordering::Relaxed) {
            if let Ok((n, from)) = echo.recv_from(&mut buf) {
                // An answer that can't be sent is one that does not come.
                let _ = echo.send_to(&buf[..n], from);
            }
        }
    });
    let hearing = thread::spawn(move || {
        let (mut heard, mut buf) = (Vec::new(), [0; 8]);
        while !ears_over.load(Ordering::Relaxed) {
            if let Ok(8) = ears.recv(&mut buf) {
                heard.push((u64::from_le_bytes(buf), begin.elapsed().as_secs_f64()));
            }
        }
        heard
    });
    let mut beats = Vec::new();
    let mut due = begin;
    while begin.elapsed() < length {
        beats.push(Beat { sent: begin.elapsed().as_secs_f64(), answered: None });
        client.send(&(beats.len() as u64 - 1).to_le_bytes())?;
        // Late sends are not made up for: the next is due one beat after this one was.
        due = (due + BEAT).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    thread::sleep(Duration::from_millis(200));
    over.store(true, Ordering::Relaxed);
    echoing.join().ok().context("the echo failed")?;
    for (number, at) in hearing.join().ok().context("the listener failed")? {
        if let Some(beat) = usize::try_from(number).ok().and_then(|n| beats.get_mut(n)) {
            beat.answered = Some(at);
        }
    }
    Ok(beats)
}

/// Reads that look up now and then, so that a thread can end.
fn patient(socket: &UdpSocket) -> Result<UdpSocket> {
    let socket = socket.try_clone()?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}
