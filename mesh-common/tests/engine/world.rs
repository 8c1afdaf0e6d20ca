//! One service with two backends, in tables of the host's, and the frames that go through them.

use std::net::IpAddr;

use etherparse::{LaxPacketHeaders, NetHeaders, PacketBuilder, TransportHeader};
use mesh_common::{
    abi::{Addr, Backend, BackendState, Family, Mode, NatPorts, NatSource, Proto, Reason, SlotWord, TableRef, Vip},
    account::Exit,
    forward::Verdict,
    host::{Frame, HostTables},
};

pub const SERVICE: u32 = 1;
pub const PORT: u16 = 80;
pub const BACKEND_PORT: u16 = 8080;
pub const INGRESS: u32 = 7;
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const FIRST_PORT: u16 = 40_000;

/// TCP flags that a test sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

pub struct World {
    pub tables: HostTables,
    family: Family,
    proto: Proto,
}

/// What a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub ttl: u8,
}

impl World {
    pub fn new(mode: Mode, family: Family, proto: Proto, flows: usize) -> Self {
        let mut tables = HostTables::new(1, 2, 2, flows);
        let vip = Vip {
            addr: bytes(address(family, 1)),
            port: PORT.to_be_bytes(),
            proto: proto as u8,
            family: family as u8,
            service: SERVICE,
            table: TableRef::new(0, 1),
            backend_base: 0,
            mode: mode as u8,
            ..Vip::default()
        };
        assert!(tables.publish(&[vip]));
        tables.configure(|config| {
            config.hash_key = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
            (config.nat.reply_first, config.nat.reply_count) = (FIRST_PORT, 10_000);
            config.nat.ports = NatPorts { first: FIRST_PORT, count: 10_000, ..NatPorts::default() };
            config.nat.half_open_limit = 1000;
            (config.nat.half_open_ticks, config.nat.established_ticks, config.nat.udp_ticks) = (40, 1000, 200);
            (config.nat.closing_ticks, config.nat.closed_ticks) = (100, 20);
            config.sources[3] = NatSource { addr: bytes(address(family, 2)), family: family as u32, reserved: 0 };
        });
        for index in 0..2 {
            tables.backends[index].set(Backend {
                addr: bytes(address(family, 100 + index as u8)),
                dst_mac: [2, 0, 0, 0, 1, index as u8],
                port: BACKEND_PORT.to_be_bytes(),
                src_mac: OWN_MAC,
                state: BackendState::Active as u8,
                flags: Backend::READY,
                nat_source: 3,
                stats: index as u32,
                ..Backend::default()
            });
            tables.slots[index].set(SlotWord::steady(index as u16, 1 - index as u16));
        }
        Self { tables, family, proto }
    }

    pub fn client(&self) -> IpAddr {
        address(self.family, 9)
    }

    pub fn vip(&self) -> IpAddr {
        address(self.family, 1)
    }

    /// A client's frame; for UDP the segment means nothing.
    pub fn request(&self, port: u16, segment: Segment) -> Vec<u8> {
        self.frame((self.client(), port), (self.vip(), PORT), segment)
    }

    /// The answer of the backend that got `forwarded`.
    pub fn answer(&self, forwarded: &[u8], segment: Segment) -> Vec<u8> {
        let said = said(forwarded);
        self.frame(said.dst, said.src, segment)
    }

    pub fn frame(&self, src: (IpAddr, u16), dst: (IpAddr, u16), segment: Segment) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
        let ip = match (src.0, dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
            _ => panic!("two families"),
        };
        let mut bytes = Vec::new();
        match self.proto {
            Proto::Udp => ip.udp(src.1, dst.1).write(&mut bytes, b"hello"),
            Proto::Tcp => {
                let tcp = ip.tcp(src.1, dst.1, 1000, 500);
                match segment {
                    Segment::Syn => tcp.syn(),
                    Segment::SynAck => tcp.syn().ack(1),
                    Segment::Ack => tcp.ack(1),
                    Segment::Fin => tcp.fin().ack(1),
                    Segment::Rst => tcp.rst(),
                }
                .write(&mut bytes, b"hello")
            }
        }
        .unwrap();
        bytes
    }

    /// Sends a frame through; what came out, if it was sent on.
    pub fn send(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, Reason> {
        let (verdict, exit) = self.tables.run(&mut Frame::new(&mut bytes, INGRESS));
        match verdict {
            Verdict::Send(_) => {
                assert_eq!(exit, Exit::Transmit);
                assert_checksums(&bytes);
                Ok(bytes)
            }
            Verdict::End { reason, .. } => Err(reason),
        }
    }

    pub fn pass(&self, ticks: u32) {
        self.tables.now.set(self.tables.now.get() + ticks);
    }

    pub fn set_state(&self, backend: usize, state: BackendState) {
        let cell = &self.tables.backends[backend];
        cell.set(Backend { state: state as u8, ..cell.get() });
    }

    pub fn flows(&self) -> usize {
        self.tables.nat_flows.iter().filter(|flow| flow.get().claim != 0).count()
    }

    pub fn half_open(&self) -> i64 {
        self.tables.nat_gauges.get().half_open
    }

    /// received = forwarded + ended.
    pub fn assert_counts_add_up(&self) {
        let received = self.tables.received.get();
        let sent = self.tables.backend_stats.iter().map(|stats| stats.get());
        let ended = self.tables.reason_stats.iter().map(|stats| stats.get());
        let (mut packets, mut bytes) = (0, 0);
        for stats in sent {
            packets += stats.tx + stats.redirect + stats.reply_tx + stats.reply_redirect;
            bytes += stats.bytes + stats.reply_bytes;
        }
        for stats in ended {
            packets += stats.packets;
            bytes += stats.bytes;
        }
        assert_eq!((received.packets, received.bytes), (packets, bytes));
    }
}

pub fn address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, host]),
        Family::V6 => IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]),
    }
}

fn bytes(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(addr) => Addr::v4(addr.octets()),
        IpAddr::V6(addr) => Addr::v6(addr.octets()),
    }
}

pub fn said(frame: &[u8]) -> Said {
    let headers = LaxPacketHeaders::from_ethernet(frame).unwrap();
    let (src, dst, ttl) = match headers.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.time_to_live),
        NetHeaders::Ipv6(ip, _) => (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.hop_limit),
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    let (from, to) = match headers.transport.unwrap() {
        TransportHeader::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
        TransportHeader::Udp(udp) => (udp.source_port, udp.destination_port),
        other => panic!("{other:?}"),
    };
    Said { src: (src, from), dst: (dst, to), ttl }
}

/// All checksums of a frame are what they are when computed from scratch.
fn assert_checksums(frame: &[u8]) {
    let headers = LaxPacketHeaders::from_ethernet(frame).unwrap();
    let payload = headers.payload.slice();
    let (Some(net), Some(transport)) = (headers.net, headers.transport) else { panic!("not whole: {frame:02x?}") };
    let (found, right) = match (&net, &transport) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload)),
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => (udp.checksum, udp.calc_checksum_ipv4(ip, payload)),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload)),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => (udp.checksum, udp.calc_checksum_ipv6(ip, payload)),
        _ => panic!("neither TCP nor UDP"),
    };
    assert_eq!(found, right.unwrap());
    if let NetHeaders::Ipv4(ip, _) = &net {
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    }
}
