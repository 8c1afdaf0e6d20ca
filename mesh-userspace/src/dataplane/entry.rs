//! Values of the maps, made from what is wanted: a backend's entry, a slot, a VIP.

use std::net::IpAddr;

use mesh_common::{
    abi::{Addr, Backend, BackendState, Family, Mode, ServiceFlags, ServiceInfo, SlotWord, TableRef, Vip, VipKey, VipKind},
    checksum,
    flow::{Address, V4},
    rewrite::{constant_sum, outer_protocol},
};

use super::layout::{Service, addr_of, vip_seed};
use crate::{
    model::{BackendId, WhenEmpty},
    plan::ServicePlan,
    table::Table,
};

/// How frames get to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    pub ifindex: u32,
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    /// Bytes of an IP packet that fit the way there.
    pub mtu: u16,
    /// The node's own address towards the backend.
    pub source: IpAddr,
}

/// Next hops of a backend's entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways<'a> {
    pub forth: Option<&'a Hop>,
    /// `dnat`: to the router that answers go to, where one is named.
    pub back: Option<&'a Hop>,
}

/// The entry of a backend; `forth` is `None` while its next hop is not resolved.
pub fn backend(service: &ServicePlan, id: BackendId, state: BackendState, hops: Ways<'_>, nat_source: u16, stats: u32) -> Backend {
    let hop = hops.forth;
    let vip = &service.vip;
    let (addr, _) = addr_of(id.0.ip());
    let addr_delta = addr_sum(vip.addr, true) + addr_sum(id.0.ip(), false);
    let port_delta = checksum::replaced(u32::from(native(vip.port)), u32::from(native(id.0.port())));
    let entry = Backend {
        addr,
        port: id.0.port().to_be_bytes(),
        // A place that is told by its state must never look free.
        state: if state == BackendState::Absent { BackendState::Down } else { state } as u8,
        flags: if id.0.is_ipv6() { Backend::V6 } else { 0 },
        nat_source,
        stats,
        dnat_csum: checksum::fold(addr_delta + port_delta),
        addr_csum: checksum::fold(addr_delta),
        ..Backend::default()
    };
    let entry = match service.mode {
        Mode::Tunnel => tunnelled(entry, service, id, hop),
        Mode::Dnat if service.ways.reply_via.is_some() => answering(entry, hops.back),
        _ => entry,
    };
    match hop {
        Some(hop) => Backend {
            dst_mac: hop.dst_mac,
            src_mac: hop.src_mac,
            mtu: hop.mtu,
            ifindex: hop.ifindex,
            flags: entry.flags | Backend::READY,
            ..entry
        },
        None => entry,
    }
}

/// What the outer header needs.
fn tunnelled(entry: Backend, service: &ServicePlan, id: BackendId, hop: Option<&Hop>) -> Backend {
    let gue = service.ways.gue;
    let inner = if service.vip.addr.is_ipv4() { Family::V4 } else { Family::V6 };
    let configured = service.ways.source.filter(|source| source.is_ipv4() == id.0.is_ipv4());
    let source = configured.or_else(|| hop.map(|hop| hop.source)).map(|source| addr_of(source).0).unwrap_or_default();
    let sum = constant_sum(V4::from_addr(source), V4::from_addr(entry.addr), outer_protocol(gue, inner));
    Backend {
        flags: entry.flags | if gue { Backend::GUE } else { 0 },
        dnat_csum: 0,
        addr_csum: if id.0.is_ipv4() { sum } else { 0 },
        source,
        ..entry
    }
}

/// Where the backend's answers go; nowhere while `hop` is `None`.
fn answering(entry: Backend, hop: Option<&Hop>) -> Backend {
    let mut way = [0; 16];
    if let Some(hop) = hop {
        way[..6].copy_from_slice(&hop.dst_mac);
        way[6..12].copy_from_slice(&hop.src_mac);
        way[12..].copy_from_slice(&hop.ifindex.to_ne_bytes());
    }
    Backend { flags: entry.flags | Backend::REPLY_HOP, source: Addr(way), ..entry }
}

/// What slot `slot` of `table` says at rest; `locals` are the local indices of the table's members.
pub fn slot(table: &Table, slot: usize, locals: &[u16]) -> SlotWord {
    let local = |owners: &[u16]| {
        let member = owners.get(slot).copied().unwrap_or(SlotWord::NONE);
        locals.get(usize::from(member)).copied().unwrap_or(SlotWord::NONE)
    };
    SlotWord::steady(local(&table.owner), local(&table.secondary))
}

/// The entry of a service in the VIP map.
pub fn vip(service: &Service) -> Vip {
    Vip {
        addr: service.key.addr,
        port: service.key.port,
        proto: service.key.proto,
        family: service.key.family,
        service: service.id,
        table: service.table.unwrap_or_default(),
        backend_base: service.base,
        mode: service.mode as u8,
        kind: VipKind::Service as u8,
        flags: service.flags,
        seed: vip_seed(&service.key),
        ports: service.ports.into(),
        source_limit: service.limits.0,
        service_limit: service.limits.1,
        list: service.list,
    }
}

/// What the kernel half is to do for a service beside balancing.
pub fn flags(wanted: &ServicePlan) -> u16 {
    let reset = if wanted.mode == Mode::Nat { ServiceFlags::RESET } else { 0 };
    let protect = &wanted.ways.protect;
    let strict = if protect.spoofed { ServiceFlags::STRICT } else { 0 };
    let rates = if protect.source_limit != 0 || protect.service_limit != 0 { ServiceFlags::RATES } else { 0 };
    let several = if wanted.ways.ports.is_some() { ServiceFlags::SEVERAL } else { 0 };
    let quic = wanted.ways.quic.map_or(0, |bytes| (u16::from(bytes) << ServiceFlags::QUIC_SHIFT) & ServiceFlags::QUIC);
    let fields = wanted.ways.hash.flags();
    let lists = if protect.sources.is_empty() { 0 } else { ServiceFlags::LISTS };
    let chooses = if wanted.ways.choosing.is_any() { ServiceFlags::CHOOSES } else { 0 };
    reset
        | chooses
        | several
        | quic
        | lists
        | strict
        | rates
        | fields
        | match wanted.when_empty {
            WhenEmpty::Drop | WhenEmpty::FailStatic => 0,
            WhenEmpty::Reject => ServiceFlags::REJECT,
            WhenEmpty::Pass => ServiceFlags::PASS,
        }
}

/// The entry by which an address is known to be a VIP's, whatever the port.
pub fn vip_address(key: &VipKey) -> Vip {
    Vip { addr: key.addr, family: key.family, kind: VipKind::Address as u8, ..Vip::default() }
}

/// The entry by which an answer of a `dnat` service's backend `local` is known.
pub fn reverse(service: &Service, id: BackendId, local: u16) -> Vip {
    Vip {
        addr: addr_of(id.0.ip()).0,
        port: id.0.port().to_be_bytes(),
        proto: VipKind::REVERSE_PROTO | service.key.proto,
        family: service.key.family,
        service: service.id,
        table: TableRef(local.into()),
        kind: VipKind::Reverse as u8,
        ..Vip::default()
    }
}

/// The entry by which answers of `dnat` services of several ports are known that come from `id`'s address: of each, the service and the backend's index.
pub fn reverse_ranges(id: BackendId, of: &[(&Service, u16)]) -> Option<Vip> {
    let (first, local) = of.first()?;
    let mut words = [0; Vip::RANGES.len()];
    for (word, (service, local)) in words.iter_mut().zip(of) {
        *word = Vip::range(service.ports, *local, u16::try_from(service.id).ok()?);
    }
    let proto = VipKind::REVERSE_RANGES_PROTO | first.key.proto;
    Some(Vip { port: [0; 2], proto, service: 0, ..reverse(first, id, *local) }.with_ranges(words))
}

/// The entry by which an address is known to be the node's own.
pub fn own(addr: IpAddr) -> Vip {
    let (addr, family) = addr_of(addr);
    Vip { addr, family: family as u8, proto: VipKind::OWN_PROTO, kind: VipKind::Own as u8, ..Vip::default() }
}

/// What replies need of a service.
pub fn service_info(service: &Service) -> ServiceInfo {
    ServiceInfo {
        addr: service.key.addr,
        port: service.key.port,
        proto: service.key.proto,
        family: service.key.family,
        backend_base: service.base,
        backend_capacity: service.capacity,
        flags: service.flags.into(),
    }
}

/// A port as it lies in a packet.
fn native(port: u16) -> u16 {
    u16::from_ne_bytes(port.to_be_bytes())
}

/// Sum of an address's 32-bit words as they lie in a packet, or of their complements.
fn addr_sum(addr: IpAddr, invert: bool) -> u64 {
    let word = |b: &[u8]| {
        let word = u32::from_ne_bytes(b.try_into().unwrap_or_default());
        u64::from(if invert { !word } else { word })
    };
    match addr {
        IpAddr::V4(a) => word(&a.octets()),
        IpAddr::V6(a) => a.octets().chunks_exact(4).map(word).sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_common::abi::Proto;

    use super::*;
    use crate::model::{VipAddr, Ways as Keys};

    fn service(vip: VipAddr, mode: Mode, ways: Keys) -> ServicePlan {
        ServicePlan {
            name: "web".parse().unwrap(),
            vip,
            mode,
            ways,
            when_empty: Default::default(),
            announce: None,
            members: Vec::new(),
            table: Arc::new(Table::vacant(0)),
            no_backends: true,
            problem: None,
        }
    }

    /// RFC 791: the sum of a good header is all ones.
    #[test]
    fn the_sum_of_an_outer_header_is_that_of_its_words() {
        let (source, at) = ([10, 9, 0, 1], "10.1.0.7:80");
        for (vip, gue, protocol) in [("192.0.2.10", false, 4), ("192.0.2.10", true, 17), ("2001:db8::10", false, 41)] {
            let vip = VipAddr { addr: vip.parse().unwrap(), port: 80, proto: Proto::Tcp };
            let plan = service(vip, Mode::Tunnel, Keys { gue, source: Some(source.into()), reply_via: None, ..Keys::default() });
            let entry = backend(&plan, BackendId(at.parse().unwrap()), BackendState::Active, Ways::default(), 0, 0);
            let header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 1, 0, 7];
            let sum: u64 = header.chunks_exact(2).map(|b| u64::from(u16::from_ne_bytes([b[0], b[1]]))).sum();
            assert_eq!((entry.addr_csum, entry.source), (checksum::fold(sum), Addr::v4(source)));
        }
    }

    fn header_sum(addr: IpAddr, port: u16) -> u64 {
        let bytes = match addr {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        bytes.chunks_exact(2).map(|b| u64::from(u16::from_ne_bytes([b[0], b[1]]))).sum::<u64>() + u64::from(native(port))
    }

    #[test]
    fn the_deltas_take_a_checksum_from_the_vip_to_the_backend() {
        for (vip, backend_at) in [("192.0.2.10", "10.0.0.1:8080"), ("2001:db8::10", "[2001:db8:1::7]:8080")] {
            let vip = VipAddr { addr: vip.parse().unwrap(), port: 80, proto: Proto::Tcp };
            let id = BackendId(backend_at.parse().unwrap());
            let entry = backend(&service(vip, Mode::Nat, Keys::default()), id, BackendState::Active, Ways::default(), 0, 0);
            let rest = 0x1234_5678;
            let before = !checksum::fold(rest + header_sum(vip.addr, vip.port));
            let after = !checksum::fold(rest + header_sum(id.0.ip(), id.0.port()));
            assert_eq!(checksum::apply(before, u64::from(entry.dnat_csum)), after);
            let same_port = !checksum::fold(rest + header_sum(id.0.ip(), vip.port));
            assert_eq!(checksum::apply(before, u64::from(entry.addr_csum)), same_port);
        }
    }
}
