//! A server that takes its time.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Result;

use crate::{netns::Namespace, sim::random::Random};

/// Ends with this value.
pub struct Backend {
    at: SocketAddr,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    ns: Namespace,
}

impl Backend {
    /// `workers` that each take exponential times of this mean.
    pub fn start(ns: &Namespace, at: SocketAddr, workers: usize, mean: Duration) -> Result<Self> {
        let listener = Arc::new(ns.enter(|| TcpListener::bind(at))??);
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let worker = |seed: usize| {
            let (listener, answered, stop) = (listener.clone(), answered.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut random = Random::new(seed as u64 + 1);
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Who has gone by now is none of ours.
                    if let Ok(Served::Request) = serve(stream, mean, random.exponential()) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let workers = (0..workers).map(worker).collect();
        Ok(Self { at, answered, stop, workers, ns: ns.alias()? })
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Served {
    Request,
    Check,
}

/// A check takes always the same: this part of the mean.
const CHECK: u32 = 20;

/// A request takes `share` of the mean time.
fn serve(mut stream: TcpStream, mean: Duration, share: f64) -> std::io::Result<Served> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = [0; 1024];
    let length = stream.read(&mut request)?;
    if length == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let check = request[..length].starts_with(b"GET /check ");
    std::thread::sleep(if check { mean / CHECK } else { mean.mul_f64(share) });
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")?;
    Ok(if check { Served::Check } else { Served::Request })
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let at = self.at;
        // Each connection wakes one worker; the backlog before it is worked off.
        for worker in self.workers.drain(..) {
            while !worker.is_finished() {
                let _ = self.ns.enter(|| TcpStream::connect_timeout(&at, Duration::from_millis(200)));
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = worker.join();
        }
    }
}
