//! What ten thousand backends cost a scrape of the metrics.

use std::{
    fmt,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{GROUP, clean};
use crate::{
    bench::{quantile, tenth},
    daemon::Daemon,
    netns::Fabric,
    registry::Ground,
};

const SCRAPES: usize = 20;
const SERVICES: usize = 10;
const LISTEN: &str = "127.0.0.1:9470";
const TARGET_MS: f64 = 200.0;

/// Times are milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Scrape {
    pub backends: usize,
    pub p50_ms: f64,
    pub max_ms: f64,
    pub bytes: usize,
    pub met: bool,
}

/// Scrapes a daemon with so many backends.
pub fn scrape(backends: usize) -> Result<Scrape> {
    clean()?;
    let fabric = Fabric::new(GROUP)?;
    let host = fabric.host("balancer", 2)?;
    host.ns.ip("route add 10.80.0.0/12 via 10.77.0.254")?;
    let ground = Ground::within(&host.ns)?;
    let mut config = format!("interfaces: [{{name: eth0, hook: xdp}}]\nmetrics: {{listen: '{LISTEN}'}}\nservices:\n");
    let each = backends.div_ceil(SERVICES);
    for service in 0..SERVICES {
        let list: Vec<String> = (0..each).map(|i| format!("\"10.{}.{}.{}:80\"", 80 + service, i / 200, i % 200 + 1)).collect();
        let file = ground.write(&format!("{service}.json"), &format!("[{}]", list.join(",")))?;
        config += &format!("- {{name: s{service}, vip: '10.77.1.{service}:80', health: none, backends_file: '{}'}}\n", file.display());
    }
    let _daemon = Daemon::start(&host.ns, &config)?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..SCRAPES {
        let begin = Instant::now();
        let text = host.ns.enter(get)??;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        let lines = text.lines().filter(|l| l.starts_with("mesh_backend_info{")).count();
        ensure!(lines == each * SERVICES, "the metrics have {lines} backends");
        bytes = text.len();
        std::thread::sleep(Duration::from_millis(100));
    }
    let max_ms = tenth(quantile(&mut times, 1.0));
    Ok(Scrape { backends: each * SERVICES, p50_ms: tenth(quantile(&mut times, 0.5)), max_ms, bytes, met: max_ms < TARGET_MS })
}

fn get() -> Result<String> {
    let mut stream = TcpStream::connect(LISTEN)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {LISTEN}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{}", answer.lines().next().unwrap_or_default());
    Ok(answer)
}

impl fmt::Display for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backends, p50_ms, max_ms, bytes, met } = self;
        write!(f, "scrape of {backends} backends: p50 {p50_ms} ms, max {max_ms} ms, {bytes} bytes{}", if *met { "" } else { "  MISSED" })
    }
}
