//! Instructions that a packet takes by way of mesh and of IPVS: `cargo xtask bench ipvs`.
//!
//! This is the half that runs in a virtual machine whose clock counts instructions: one a nanosecond. A client sends to a balancer over a veth and drops what
//! comes back, all of it on one CPU and without a pause, so the time that a slice takes is what it executes. What sending and dropping take
//! by themselves is measured with a balancer that drops at once, and taken off. The daemon of mesh has ended by then: what it loaded stays.

mod ground;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use serde::Serialize;

use self::ground::{CLIENT, Ground, PORT, VIP};
use super::quantile;
use crate::{
    fixture::{Frame, tcp},
    netns::{Namespace, remove_stale},
};

const GROUP: &str = "mesh-ipvs";
/// Connections that take turns, and packets of a slice.
const FLOWS: usize = 1024;
const PACKETS: usize = 8192;

/// How packets reach backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Both addresses translated; IPVS translates one ("masquerading").
    Nat,
    /// "Direct routing" of IPVS.
    Dsr,
    /// IP in IP.
    Tunnel,
}

/// Who balances.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Nobody: the balancer drops at once.
    Floor,
    MeshXdp,
    /// In the place that IPVS has, behind the kernel's own packet buffers.
    MeshTc,
    Ipvs,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub who: Who,
    /// Absent for the floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// Instructions of one packet of an open connection from its sender until it is dropped, and less those of the floor.
    pub packet: f64,
    pub net_packet: f64,
    /// The same of a packet that opens a connection.
    pub syn: f64,
    pub net_syn: f64,
    /// What slices differ by, in percent of the median.
    pub spread_percent: f64,
    pub rounds: usize,
}

/// Measures all of it. Runs in a machine of its own: it loads programs and rules by name.
pub fn measure(rounds: usize, mut tell: impl FnMut(&Figure)) -> Result<()> {
    remove_stale(GROUP)?;
    let (mut packet_floor, mut syn_floor) = (0.0, 0.0);
    let mut arms = vec![(Who::Floor, None)];
    for way in [Way::Nat, Way::Dsr, Way::Tunnel] {
        arms.extend([Who::MeshXdp, Who::MeshTc, Who::Ipvs].map(|who| (who, Some(way))));
    }
    for (who, way) in arms {
        let ground = Ground::build(GROUP, who, way).with_context(|| format!("failed to set up {who:?} {way:?}"))?;
        let (packet, syn, spread) = slices(&ground, who, rounds).with_context(|| format!("{who:?} {way:?}"))?;
        if who == Who::Floor {
            (packet_floor, syn_floor) = (packet, syn);
        }
        tell(&Figure {
            who,
            way,
            packet: packet.round(),
            net_packet: (packet - packet_floor).round(),
            syn: syn.round(),
            net_syn: (syn - syn_floor).round(),
            spread_percent: (spread * 10_000.0).round() / 100.0,
            rounds,
        });
    }
    Ok(())
}

/// Medians for packets of open connections and for those that open one, and how much the former differ.
fn slices(ground: &Ground, who: Who, rounds: usize) -> Result<(f64, f64, f64)> {
    let known: Vec<Vec<u8>> = (0..FLOWS).map(|i| packet(10_000 + i as u16, tcp::ACK)).collect();
    let opening: Vec<Vec<u8>> = (0..FLOWS).map(|i| packet(10_000 + i as u16, tcp::SYN)).collect();
    let sender = Sender::new(&ground.client)?;
    let arrived = ground.arrived()?;
    sender.send(&opening, FLOWS)?;
    sender.send(&known, 2 * FLOWS)?;
    let mut packets: Vec<f64> = (0..rounds).map(|_| sender.send(&known, PACKETS)).collect::<Result<_>>()?;
    let new: Vec<Vec<Vec<u8>>> =
        (0..rounds).map(|round| (0..FLOWS).map(|i| packet((12_000 + round * FLOWS + i) as u16, tcp::SYN)).collect()).collect();
    let mut syns: Vec<f64> = new.iter().map(|new| sender.send(new, FLOWS)).collect::<Result<_>>()?;
    let (sent, came) = (3 * FLOWS + rounds * (PACKETS + FLOWS), ground.arrived()? - arrived);
    // Whatever else a host says by itself comes beside it, in a few packets.
    let lost = who != Who::Floor && came + (sent as u64) / 1000 < sent as u64;
    ensure!(!lost, "of {sent} packets {came} came out");
    let (low, middle, high) = (quantile(&mut packets, 0.0), quantile(&mut packets, 0.5), quantile(&mut packets, 1.0));
    Ok((middle, quantile(&mut syns, 0.5), (high - low) / middle))
}

/// An IP packet from the client to the VIP. The kernel puts the header's checksum in.
fn packet(port: u16, flags: u8) -> Vec<u8> {
    let mut frame = Frame::tcp((CLIENT.into(), port), (VIP.into(), PORT), flags);
    frame.payload = vec![0; 32];
    frame.ip_packet()
}

/// Sends IP packets as they are.
struct Sender {
    socket: std::os::fd::OwnedFd,
}

impl Sender {
    fn new(ns: &Namespace) -> Result<Self> {
        let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        Ok(Self { socket: ns.enter(open)?.context("failed to open a raw socket")? })
    }

    /// Sends `count` packets, these in turns; nanoseconds of each, which are instructions.
    fn send(&self, packets: &[Vec<u8>], count: usize) -> Result<f64> {
        use std::os::fd::AsRawFd;
        let [a, b, c, d] = Ipv4Addr::octets(&VIP);
        let to = SockaddrIn::new(a, b, c, d, 0);
        let begun = Instant::now();
        for i in 0..count {
            sendto(self.socket.as_raw_fd(), &packets[i % packets.len()], &to, MsgFlags::empty())?;
        }
        // What is still on its way has the only CPU now.
        for _ in 0..64 {
            std::thread::yield_now();
        }
        Ok(begun.elapsed().as_nanos() as f64 / count as f64)
    }
}

/// Where the service is.
fn service() -> SocketAddr {
    (VIP, PORT).into()
}
