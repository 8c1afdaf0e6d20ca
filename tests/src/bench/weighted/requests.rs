//! Requests at times that were drawn before.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{netns::Namespace, sim::random::Random};

/// Requests under way at once, at most: a request that finds none free is late, and that counts.
const AT_ONCE: usize = 256;
/// Who has not answered by then does not.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub to: SocketAddr,
    /// Requests a second.
    pub rate: f64,
    pub seed: u64,
}

/// What became of a request, from when it was due.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub latency: Duration,
    pub answered: bool,
}

impl Load {
    /// Sends for so long, and waits for what is under way then.
    pub fn run(&self, ns: &Namespace, length: Duration) -> Result<Vec<Answer>> {
        let mut random = Random::new(self.seed);
        let mut due = Vec::new();
        let mut at = 0.0;
        while at < length.as_secs_f64() {
            due.push(Duration::from_secs_f64(at));
            at += random.exponential() / self.rate;
        }
        let (next, begun, to) = (AtomicUsize::new(0), Instant::now(), self.to);
        let one = || -> Vec<Answer> {
            let mut answers = Vec::new();
            while let Some(due) = due.get(next.fetch_add(1, Ordering::Relaxed)) {
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                let answered = ask(to).is_ok();
                let latency = begun.elapsed().saturating_sub(*due);
                answers.push(Answer { latency: if answered { latency } else { latency.max(PATIENCE) }, answered });
            }
            answers
        };
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| ns.enter(one))).collect();
            threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a client has died"))?).collect::<Result<Vec<_>>>()
        })?;
        Ok(all.into_iter().flatten().collect())
    }
}

fn ask(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
