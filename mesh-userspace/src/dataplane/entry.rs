//! Values of the maps, made from what is wanted: a backend's entry, a slot, a VIP.

use std::net::IpAddr;

use mesh_common::{
    abi::{Backend, BackendState, ServiceInfo, SlotWord, Vip, VipKey, VipKind},
    checksum,
};

use super::layout::{Service, addr_of, vip_seed};
use crate::{
    model::{BackendId, VipAddr},
    table::Table,
};

/// How frames get to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    pub ifindex: u32,
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    /// The node's own address towards the backend.
    pub source: IpAddr,
}

/// The entry of a backend; `hop` is `None` while its next hop is not resolved.
pub fn backend(vip: &VipAddr, id: BackendId, state: BackendState, hop: Option<&Hop>, nat_source: u16, stats: u32) -> Backend {
    let (addr, _) = addr_of(id.0.ip());
    let addr_delta = addr_sum(vip.addr, true) + addr_sum(id.0.ip(), false);
    let port_delta = checksum::replaced(u32::from(native(vip.port)), u32::from(native(id.0.port())));
    let entry = Backend {
        addr,
        port: id.0.port().to_be_bytes(),
        // A place that is told by its state must never look free.
        state: if state == BackendState::Absent { BackendState::Down } else { state } as u8,
        nat_source,
        stats,
        dnat_csum: checksum::fold(addr_delta + port_delta),
        addr_csum: checksum::fold(addr_delta),
        ..Backend::default()
    };
    match hop {
        Some(hop) => Backend { dst_mac: hop.dst_mac, src_mac: hop.src_mac, ifindex: hop.ifindex, flags: Backend::READY, ..entry },
        None => entry,
    }
}

/// What slot `slot` of `table` is to say when it says `now`; `locals` are the local indices of the table's members.
///
/// The one place that decides how a slot changes: at once, for nothing remembers the flows of a slot yet.
pub fn slot(_now: SlotWord, table: &Table, slot: usize, locals: &[u16]) -> SlotWord {
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
        seed: vip_seed(&service.key),
        ..Vip::default()
    }
}

/// The entry by which an address is known to be a VIP's, whatever the port.
pub fn vip_address(key: &VipKey) -> Vip {
    Vip { addr: key.addr, family: key.family, kind: VipKind::Address as u8, ..Vip::default() }
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
        flags: 0,
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
    use mesh_common::abi::Proto;

    use super::*;

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
            let entry = backend(&vip, id, BackendState::Active, None, 0, 0);
            let rest = 0x1234_5678;
            let before = !checksum::fold(rest + header_sum(vip.addr, vip.port));
            let after = !checksum::fold(rest + header_sum(id.0.ip(), id.0.port()));
            assert_eq!(checksum::apply(before, u64::from(entry.dnat_csum)), after);
            let same_port = !checksum::fold(rest + header_sum(id.0.ip(), vip.port));
            assert_eq!(checksum::apply(before, u64::from(entry.addr_csum)), same_port);
        }
    }
}
