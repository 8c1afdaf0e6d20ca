//! SYNs from forged sources, from a raw socket in a namespace.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket},
};

use crate::{fixture::Frame, netns::Namespace};

const SYN: u8 = 0x02;
/// A flood ends by itself after this time.
const MOST: Duration = Duration::from_secs(60);

/// A flood that ends with this value.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<u64>>>,
}

impl Flood {
    /// Sends about `rate` SYNs a second to `to`, each of which begins another flow.
    pub fn start(ns: &Namespace, to: SocketAddr, rate: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = ns.spawn(move || send(to, rate, &stopped))?;
        Ok(Self { stop, sender: Some(sender) })
    }

    /// Ends it; how many were sent.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().context("the flood has been ended already")?;
        sender.join().map_err(|_| anyhow::anyhow!("the flood's thread has panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(to: SocketAddr, rate: u32, stop: &AtomicBool) -> Result<u64> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).context("failed to make a raw socket")?;
    // The port of a raw socket's target is a protocol's number, or 0.
    let target = SockaddrStorage::from(match to {
        SocketAddr::V4(to) => SocketAddr::V4(to),
        SocketAddr::V6(to) => SocketAddr::V6(SocketAddrV6::new(*to.ip(), 0, 0, 0)),
    });
    let begin = Instant::now();
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < MOST {
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            match sendto(raw.as_raw_fd(), &syn(sent as u32, to), &target, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => sent += 1,
                Err(e) => return Err(e).context("failed to send a forged SYN"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

/// The `n`-th SYN: sources of 198.18.0.0/15 and 2001:2::/48, which nobody has (RFC 2544, RFC 5180).
fn syn(n: u32, to: SocketAddr) -> Vec<u8> {
    let host = n.wrapping_mul(0x9e37_79b1) >> 15;
    let source: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::from(0xc612_0000 | host).into(),
        SocketAddr::V6(_) => Ipv6Addr::from(0x2001_0002_0000_0000_0000_0000_0000_0000 | u128::from(host)).into(),
    };
    Frame::tcp((source, 1024 + (n % 60_000) as u16), (to.ip(), to.port()), SYN).ip_packet()
}
