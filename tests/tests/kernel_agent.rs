//! The agent's programs are ones that this kernel takes, and no list of who else may have a flow, however malformed, does more than have its packet
//! dropped and counted.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh::dataplane::AgentPlane;
use mesh_common::{
    abi::{AgentStats, Family, GUE_PORT},
    gue::{self, Head, Hop},
};
use mesh_tests::{fixture::Frame, netns::Namespace};

const OWN: &str = "10.79.0.1";
const VIP: &str = "10.79.0.100";
const ACK: u8 = 0x10;
const MTU: u32 = 1500;

/// What has to become of datagrams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    refused: u64,
    packets: u64,
    foreign: u64,
    used_up: u64,
    not_peer: u64,
}

impl From<AgentStats> for Counts {
    fn from(AgentStats { refused, packets, foreign, used_up, not_peer, .. }: AgentStats) -> Self {
        Self { refused, packets, foreign, used_up, not_peer }
    }
}

impl Counts {
    fn count(&mut self, datagram: &[u8]) -> Result<()> {
        let Some(Head { len, protocol, hop }) = gue::read(&datagram, 0, false) else {
            self.refused += 1;
            return Ok(());
        };
        let inner = datagram.get(len as usize..).unwrap_or_default();
        let v4 = inner.len() >= 20 && inner[0] >> 4 == 4 && protocol != 41;
        let v6 = inner.len() >= 40 && inner[0] >> 4 == 6 && protocol != 4;
        let for_vip = v4 && inner[16..20] == VIP.parse::<std::net::Ipv4Addr>()?.octets();
        match hop {
            _ if !v4 && !v6 => self.refused += 1,
            _ if !for_vip => self.foreign += 1,
            _ => {
                self.packets += 1;
                let tcp = usize::from(inner[0] & 0xf) * 4;
                let segment = inner[9] == 6 && inner[6] & 0x3f == 0 && inner[7] == 0 && inner.len() >= tcp + 20 && inner[tcp + 13] & 2 == 0;
                self.used_up += u64::from(segment && hop == Hop::UsedUp);
                self.not_peer += u64::from(segment && matches!(hop, Hop::Next { .. }));
            }
        }
        Ok(())
    }
}

/// A packet in the midst of a connection that nobody has, with a list of one; then each of its first bytes another one, and each of its lengths.
fn datagrams() -> Result<Vec<Vec<u8>>> {
    let client: IpAddr = "10.79.0.2".parse()?;
    let packet = Frame::tcp((client, 40_000), (VIP.parse()?, 80), ACK).ip_packet();
    let list = [&gue::head(Family::V4, false).to_ne_bytes()[..], &[10, 79, 0, 3]].concat();
    let whole = [list, packet].concat();
    let mut all: Vec<Vec<u8>> = (0..=whole.len()).map(|len| whole[..len].to_vec()).collect();
    for at in 0..gue::room(false) {
        for value in [0, 1, 2, 3, 4, 6, 0x1f, 0x20, 0x23, 0x40, 0x45, 0x60, 0x80, 0xff] {
            let mut other = whole.clone();
            other[at] = value;
            all.push(other);
        }
    }
    Ok(all)
}

#[test]
fn malformed_lists_are_dropped_and_counted() -> Result<()> {
    let ns = Namespace::new("mesh-agent", "one")?;
    ns.ip("link set lo up")?;
    ns.ip(&format!("address add {OWN}/32 dev lo"))?;
    ns.enter(|| {
        let mut agent = AgentPlane::open(&["lo".to_owned()]).map_err(anyhow::Error::new).context("the agent's programs")?;
        agent.set_own(&BTreeSet::from([OWN.parse()?]))?;
        agent.set_vip(VIP.parse()?, false)?;
        agent.set_link(1, MTU, None)?;
        let socket = UdpSocket::bind((OWN, 0))?;
        let (all, mut expected) = (datagrams()?, Counts::default());
        for datagram in &all {
            expected.count(datagram)?;
            // Where nobody listens, one that is for no VIP is answered by an error, which is told at the next call.
            let sent = socket.send_to(datagram, (OWN, u16::from_be_bytes(GUE_PORT)));
            if sent.is_err() {
                socket.send_to(datagram, (OWN, u16::from_be_bytes(GUE_PORT)))?;
            }
        }
        let end = Instant::now() + Duration::from_secs(20);
        while Counts::from(agent.stats()?) != expected {
            ensure!(Instant::now() < end, "{:?}, expected {expected:?} of {}", agent.stats()?, all.len());
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(expected.refused > 50 && expected.not_peer > 0 && expected.used_up > 0, "{expected:?}");
        Ok(())
    })?
}
