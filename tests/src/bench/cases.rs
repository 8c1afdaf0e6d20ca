//! What is measured, by name: `MODE_FAMILY_PROTO_FLOWS`, with the number of services behind where it is not one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::abi::{Mode, Proto};

use super::{Floor, Run, TEMPLATE};
use crate::fixture::{Frame, tcp};

/// What the packet is to the balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Service(Mode),
    /// To another port than any service's: it passes.
    NonVip,
}

/// What the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// TCP, amidst a connection.
    Tcp,
    Syn,
    Udp,
}

/// How many flows take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flows {
    /// 2 to this power.
    Log2(u32),
    /// Every packet is another flow's first.
    AllNew,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub kind: Kind,
    pub v6: bool,
    pub packet: Packet,
    pub flows: Flows,
    pub services: u32,
}

/// Port of every service.
pub const PORT: u16 = 80;

/// All cases, in the order of what they need of the maps.
pub fn cases() -> Vec<Case> {
    let [dsr, nat, dnat, tunnel] = [Mode::Dsr, Mode::Nat, Mode::Dnat, Mode::Tunnel].map(Kind::Service);
    let case = |kind, v6, packet, flows| Case { kind, v6, packet, flows, services: 1 };
    let mut all = vec![case(Kind::NonVip, false, Packet::Tcp, Flows::Log2(0)), case(Kind::NonVip, true, Packet::Tcp, Flows::Log2(0))];
    for kind in [dsr, nat, dnat, tunnel] {
        for v6 in [false, true] {
            all.extend([Packet::Tcp, Packet::Udp].map(|packet| case(kind, v6, packet, Flows::Log2(0))));
        }
        all.extend([10, 14, 17, 20].map(|log2| case(kind, false, Packet::Tcp, Flows::Log2(log2))));
        all.push(case(kind, true, Packet::Tcp, Flows::Log2(20)));
        all.push(case(kind, false, Packet::Udp, Flows::Log2(17)));
        all.push(case(kind, false, Packet::Syn, Flows::AllNew));
    }
    for services in [100, 10_000] {
        all.push(Case { services, ..case(Kind::NonVip, false, Packet::Tcp, Flows::Log2(0)) });
        for (kind, log2) in [(nat, 0), (nat, 14), (dsr, 0), (dsr, 14), (tunnel, 0), (tunnel, 14)] {
            all.push(Case { services, ..case(kind, false, Packet::Tcp, Flows::Log2(log2)) });
        }
    }
    all
}

impl Case {
    pub fn name(&self) -> String {
        let family = if self.v6 { "v6" } else { "v4" };
        let services = match self.services {
            1 => String::new(),
            n if n >= 1000 => format!("_{}ksvc", n / 1000),
            n => format!("_{n}svc"),
        };
        let Kind::Service(mode) = self.kind else { return format!("nonvip_{family}{services}") };
        let mode = if mode == Mode::Tunnel { "ipip" } else { mode.name() };
        let packet = match self.packet {
            Packet::Tcp => "tcp",
            Packet::Syn => "syn",
            Packet::Udp => "udp",
        };
        let flows = match self.flows {
            Flows::AllNew => "allnew".to_owned(),
            Flows::Log2(0) => "1flow".to_owned(),
            Flows::Log2(n) if n >= 20 => format!("{}m", 1 << (n - 20)),
            Flows::Log2(n) => format!("{}k", 1 << (n - 10)),
        };
        format!("{mode}_{family}_{packet}_{flows}{services}")
    }

    /// The least that this kind of work takes.
    pub fn floor(&self) -> Floor {
        match self.kind {
            Kind::NonVip => Floor::Tx,
            Kind::Service(Mode::Tunnel) if self.v6 => Floor::Encap6,
            Kind::Service(Mode::Tunnel) => Floor::Encap,
            Kind::Service(_) => Floor::Swap,
        }
    }

    /// Bytes of the outer header.
    fn grows(&self) -> u32 {
        match (self.kind, self.v6) {
            (Kind::Service(Mode::Tunnel), false) => 20,
            (Kind::Service(Mode::Tunnel), true) => 40,
            _ => 0,
        }
    }

    /// The mode of the services that are published.
    pub fn mode(&self) -> Mode {
        match self.kind {
            Kind::Service(mode) => mode,
            Kind::NonVip => Mode::Nat,
        }
    }

    pub fn proto(&self) -> Proto {
        if self.packet == Packet::Udp { Proto::Udp } else { Proto::Tcp }
    }

    /// What the maps have to hold, but for translated flows.
    pub fn published(&self) -> (u32, Mode, bool, Proto) {
        (self.services, self.mode(), self.v6, self.proto())
    }

    /// The flows have to be known before they are measured.
    pub fn remembers(&self) -> bool {
        self.kind == Kind::Service(Mode::Nat) && self.flows != Flows::AllNew
    }

    /// Every packet takes up room for good.
    pub fn fills(&self) -> bool {
        self.kind == Kind::Service(Mode::Nat) && self.flows == Flows::AllNew
    }

    /// Number of flows; `None` = without end.
    pub fn flow_count(&self) -> Option<u64> {
        match self.flows {
            Flows::Log2(log2) => Some(1 << log2),
            Flows::AllNew => None,
        }
    }

    /// Packets of one slice: milliseconds.
    pub fn packets(&self) -> u64 {
        match self.flows {
            Flows::Log2(log2) if log2 >= 17 => 131_072,
            Flows::AllNew => 65_536,
            Flows::Log2(_) => 32_768,
        }
    }

    /// A slice of `count` packets.
    pub fn run(&self, count: u64) -> Run {
        let flags = if self.packet == Packet::Syn { tcp::SYN } else { tcp::ACK };
        self.run_with(flags, count)
    }

    /// The same with SYNs, which open the flows.
    pub fn opening_run(&self, count: u64) -> Run {
        self.run_with(tcp::SYN, count)
    }

    fn run_with(&self, flags: u8, count: u64) -> Run {
        let port = if self.kind == Kind::NonVip { PORT + 1 } else { PORT };
        let (from, to) = ((self.client(), 1024), (self.vip(0), port));
        let mut frame = if self.packet == Packet::Udp { Frame::udp(from, to) } else { Frame::tcp(from, to, flags) };
        frame.payload = vec![0; 32];
        let bytes = frame.bytes();
        let mut template = [0; TEMPLATE];
        template[..bytes.len()].copy_from_slice(&bytes);
        Run {
            template,
            len: bytes.len() as u32,
            len_out: bytes.len() as u32 + self.grows(),
            family: if self.v6 { 6 } else { 4 },
            services: self.services,
            flow_mask: self.flow_count().map_or(u64::from(u32::MAX), |n| n - 1),
            flow: 0,
            count,
            seen: 0,
            start_ns: 0,
            end_ns: 0,
            bad: 0,
        }
    }

    /// Address of a service, as the driver stamps it.
    pub fn vip(&self, service: u32) -> IpAddr {
        let v6 = || Ipv6Addr::from((0x2001_0db8_0060_u128 << 80) + 1 + u128::from(service));
        if self.v6 { v6().into() } else { Ipv4Addr::from(0x0a60_0001 + service).into() }
    }

    fn client(&self) -> IpAddr {
        if self.v6 { Ipv6Addr::from((0x2001_0db8_00c0_u128 << 80) + 1).into() } else { Ipv4Addr::from(0xac10_0001_u32).into() }
    }
}
