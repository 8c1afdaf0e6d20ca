//! What is measured, by name: `MODE_FAMILY_PROTO_FLOWS`, with the number of services behind where it is not one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::abi::{Mode, Proto, ServiceFlags};

use super::{Floor, Run, TEMPLATE};
use crate::fixture::{Frame, Service, tcp};

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

/// What a service asks about who comes; see `protect` in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Hundreds of prefixes, and one of the clients.
    Allow,
    /// Hundreds of prefixes of others.
    Deny,
    Spoofed,
    /// More connections than ever come: of all, and of one source.
    Rate,
    SourceRate,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub kind: Kind,
    pub v6: bool,
    pub packet: Packet,
    pub flows: Flows,
    pub services: u32,
    pub guard: Option<Guard>,
    pub outer: Outer,
}

/// The outer header of `tunnel`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outer {
    /// Of the packet's family.
    #[default]
    Same,
    /// Of the other family.
    Other,
    /// UDP (GUE) of the packet's family.
    Gue,
}

/// What is in the maps for a case.
pub type Published = (u32, Mode, bool, Proto, Option<Guard>, Outer);

/// Port of every service.
pub const PORT: u16 = 80;

/// Prefixes of a list beside those of the clients: up to 512 IPv4 networks of 256 addresses lie where nobody lives (RFC 2544).
const PREFIXES: u32 = 512;

/// All cases, in the order of what they need of the maps.
pub fn cases() -> Vec<Case> {
    let [dsr, nat, dnat, tunnel] = [Mode::Dsr, Mode::Nat, Mode::Dnat, Mode::Tunnel].map(Kind::Service);
    let case = |kind, v6, packet, flows| Case { kind, v6, packet, flows, services: 1, guard: None, outer: Outer::Same };
    let mut all = vec![case(Kind::NonVip, false, Packet::Tcp, Flows::Log2(0)), case(Kind::NonVip, true, Packet::Tcp, Flows::Log2(0))];
    for kind in [dsr, nat, dnat, tunnel] {
        for v6 in [false, true] {
            all.extend([Packet::Tcp, Packet::Udp].map(|packet| case(kind, v6, packet, Flows::Log2(0))));
        }
        all.extend([10, 14, 17, 20].map(|log2| case(kind, false, Packet::Tcp, Flows::Log2(log2))));
        all.extend([17, 20].map(|log2| case(kind, true, Packet::Tcp, Flows::Log2(log2))));
        all.extend([17, 20].map(|log2| case(kind, false, Packet::Udp, Flows::Log2(log2))));
        all.extend([false, true].map(|v6| case(kind, v6, Packet::Syn, Flows::AllNew)));
    }
    for outer in [Outer::Other, Outer::Gue] {
        for v6 in [false, true] {
            all.extend([Packet::Tcp, Packet::Udp].map(|packet| Case { outer, ..case(tunnel, v6, packet, Flows::Log2(0)) }));
            all.push(Case { outer, ..case(tunnel, v6, Packet::Tcp, Flows::Log2(20)) });
        }
    }
    for guard in [Guard::Allow, Guard::Deny, Guard::Spoofed] {
        for (kind, v6, log2) in [(dsr, false, 0), (dsr, false, 20), (dsr, true, 0), (nat, false, 0)] {
            all.push(Case { guard: Some(guard), ..case(kind, v6, Packet::Tcp, Flows::Log2(log2)) });
        }
    }
    for guard in [Guard::Rate, Guard::SourceRate] {
        all.push(Case { guard: Some(guard), ..case(dsr, false, Packet::Tcp, Flows::Log2(0)) });
        all.push(Case { guard: Some(guard), ..case(dsr, false, Packet::Syn, Flows::AllNew) });
    }
    for services in [100, 10_000] {
        all.push(Case { services, ..case(Kind::NonVip, false, Packet::Tcp, Flows::Log2(0)) });
        for (kind, log2) in [nat, dsr, dnat, tunnel].into_iter().flat_map(|kind| [(kind, 0), (kind, 14)]) {
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
        let guard = match self.guard {
            None => "",
            Some(Guard::Allow) => "_allow",
            Some(Guard::Deny) => "_deny",
            Some(Guard::Spoofed) => "_spoofed",
            Some(Guard::Rate) => "_rate",
            Some(Guard::SourceRate) => "_sourcerate",
        };
        let Kind::Service(mode) = self.kind else { return format!("nonvip_{family}{services}") };
        let mode = match (mode, self.outer) {
            (Mode::Tunnel, Outer::Same) => "ipip",
            (Mode::Tunnel, Outer::Gue) => "gue",
            (Mode::Tunnel, Outer::Other) if self.v6 => "ip6in4",
            (Mode::Tunnel, Outer::Other) => "ip4in6",
            _ => mode.name(),
        };
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
        format!("{mode}_{family}_{packet}_{flows}{services}{guard}")
    }

    /// The least that this kind of work takes.
    pub fn floor(&self) -> Floor {
        match self.kind {
            Kind::NonVip => Floor::Tx,
            Kind::Service(Mode::Tunnel) if self.outer_v6() => Floor::Encap6,
            Kind::Service(Mode::Tunnel) => Floor::Encap,
            Kind::Service(_) => Floor::Swap,
        }
    }

    /// Bytes of the outer header.
    fn grows(&self) -> u32 {
        let udp = if self.outer == Outer::Gue { 8 } else { 0 };
        match (self.kind, self.outer_v6()) {
            (Kind::Service(Mode::Tunnel), false) => 20 + udp,
            (Kind::Service(Mode::Tunnel), true) => 40 + udp,
            _ => 0,
        }
    }

    /// Family of the outer header, and so of backends.
    pub fn outer_v6(&self) -> bool {
        self.v6 != (self.outer == Outer::Other)
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
    pub fn published(&self) -> Published {
        (self.services, self.mode(), self.v6, self.proto(), self.guard, self.outer)
    }

    /// The flows have to be known before they are measured.
    pub fn remembers(&self) -> bool {
        self.kind == Kind::Service(Mode::Nat) && self.flows != Flows::AllNew
    }

    /// Every packet takes up room for good.
    pub fn fills(&self) -> bool {
        self.kind == Kind::Service(Mode::Nat) && self.flows == Flows::AllNew
    }

    /// What its service has of a list and of limits.
    pub fn protect(&self, service: &mut Service) {
        // Far more than come, but paid for one by one: the least time for each.
        const LEAST: u32 = 1;
        match self.guard {
            None => {}
            Some(Guard::Spoofed) => service.flags |= ServiceFlags::STRICT,
            Some(Guard::Rate) => (service.flags, service.limits) = (service.flags | ServiceFlags::RATES, (0, LEAST)),
            Some(Guard::SourceRate) => (service.flags, service.limits) = (service.flags | ServiceFlags::RATES, (LEAST, 0)),
            Some(guard @ (Guard::Allow | Guard::Deny)) => {
                service.flags |= ServiceFlags::LISTS;
                let allowed = guard == Guard::Allow;
                service.prefixes = (0..PREFIXES).map(|n| (self.other(n), if self.v6 { 64 } else { 24 }, allowed)).collect();
                if allowed {
                    let (all, client) = if self.v6 { (Ipv6Addr::UNSPECIFIED.into(), 64) } else { (Ipv4Addr::UNSPECIFIED.into(), 12) };
                    service.prefixes.extend([(all, 0, false), (self.network(), client, true)]);
                }
            }
        }
    }

    /// A network that no client is in.
    fn other(&self, n: u32) -> IpAddr {
        if self.v6 {
            Ipv6Addr::from((0x2001_0db8_1000_u128 << 80) + (u128::from(n) << 64)).into()
        } else {
            Ipv4Addr::from(0xc612_0000 + (n << 8)).into()
        }
    }

    /// The one that they are in.
    fn network(&self) -> IpAddr {
        if self.v6 { Ipv6Addr::from(0x2001_0db8_00c0_u128 << 80).into() } else { Ipv4Addr::from(0xac10_0000_u32).into() }
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
