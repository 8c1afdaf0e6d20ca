//! One service as written -> as meant; the API and the state file come this way too.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{
    balance::{Balance, resolve_balance, resolve_choosing, resolve_fields},
    check::resolve_check,
    forms::AnnounceForm,
    guard::{Guard, resolve_backup, resolve_guard, resolve_limits},
    health::resolve_heartbeat,
    placed::Placed,
    protect::resolve_protect,
    quic::{check_ids, resolve_quic},
    resolve::Findings,
    resolved::{Check, Service},
    source::resolve_sources,
    words::EncapWord,
    written,
};
use crate::{
    health::CheckKind,
    model::{BackendId, Endpoint, Mode, ServiceName, VipAddr, Ways, Weight},
};

/// `None` only with an error in `findings`. Relative paths are relative to `base`.
pub fn resolve_service(written: &written::Service, base: &Path, findings: &mut Findings<'_>) -> Option<Service> {
    let errors = findings.errors.len();
    let name = findings.ok(&written.name, written.name.value.parse::<ServiceName>(), "");
    let vip = vip(written, findings);
    let announce = announce(written, findings);
    let (name, vip) = (name?, vip?);
    let mode: Mode = written.mode.value.into();
    let ways = ways(written, vip, mode, findings);
    let check = resolve_check(written, vip, base, findings);
    let heartbeat = written.heartbeat.as_ref().map(|h| resolve_heartbeat(&h.value, findings));
    if let (Some(ports), Some(check)) = (&written.ports, &check)
        && check.port.is_none()
        && !matches!(check.kind, CheckKind::Icmp | CheckKind::Exec(_) | CheckKind::All(_) | CheckKind::Any(_))
    {
        findings.error(
            ports,
            "a service of several ports has none that is probed by default",
            "add `health: {type: tcp, port: PORT}`, `icmp` or `none`",
        );
    }
    let backends = backends(written, vip, mode, ways.quic, findings);
    if let Some(check) = &check {
        warn_of_other_families(written, check, vip, &backends, findings);
    }
    let sources = resolve_sources(&written.sources, vip, mode, base, findings);
    let registers = heartbeat.is_some_and(|h| h.register);
    if !registers && backends.is_empty() && written.backends_file.is_none() && written.sources.is_empty() {
        findings.warn(
            &written.name,
            format!("service `{name}` has no backends"),
            "until one is added its packets go the way of `when_empty` (default: they are dropped)",
        );
    }
    let backends_file = written.backends_file.as_ref().map(|f| base.join(&f.value));
    let reporting = heartbeat.is_some() || check.as_ref().is_some_and(|c| reports_load(&c.kind));
    let Balance { scheduler, log2_slots, weights, locality } = resolve_balance(written, check.is_some(), reporting, findings);
    let Guard { breaker, limits, backup_below } = resolve_guard(written, vip, mode, check.is_some(), findings);
    let service = Service {
        name,
        vip,
        mode,
        ways,
        when_empty: written.when_empty.as_ref().map(|w| w.value).unwrap_or_default(),
        announce,
        scheduler,
        log2_slots,
        weights,
        locality,
        breaker,
        limits,
        backup_below,
        check,
        heartbeat,
        backends,
        backends_file,
        sources,
    };
    (findings.errors.len() == errors).then_some(service)
}

/// Probes don't change the family of their packets, as the outer header does.
fn warn_of_other_families(written: &written::Service, check: &Check, vip: VipAddr, backends: &[Endpoint], findings: &mut Findings<'_>) {
    let asked = written.health.as_ref().and_then(|h| h.value.0.through.as_ref()).filter(|_| check.through_vip);
    let other = backends.iter().find(|b| b.id.0.is_ipv4() != vip.addr.is_ipv4());
    if let (Some(asked), Some(other)) = (asked, other) {
        findings.warn(
            asked,
            format!("backend {} is not of the VIP's family ({}), so it is probed directly", other.id, vip.addr),
            "give it an address of the VIP's family, or write `through: direct`",
        );
    }
}

/// Its answers say how loaded the backend is.
fn reports_load(kind: &CheckKind) -> bool {
    match kind {
        CheckKind::Http(check) => check.load().is_some(),
        CheckKind::All(parts) | CheckKind::Any(parts) => parts.iter().any(|part| reports_load(&part.kind)),
        _ => false,
    }
}

/// A backend of a service with this VIP and mode. `None` only with an error in `findings`, at `at`.
pub fn resolve_backend<T>(
    written: &written::Backend,
    at: &Placed<T>,
    vip: VipAddr,
    mode: Mode,
    findings: &mut Findings<'_>,
) -> Option<Endpoint> {
    let errors = findings.errors.len();
    let address = &written.address;
    let place = if address.place.is_some() { address.place.clone() } else { at.place.clone() };
    let here = Placed { value: (), place };
    let (addr, port) = endpoint(&address.value, written.port.as_ref(), &here, Some(vip.port), findings)?;
    check_address(addr, &here, findings);
    if mode != Mode::Tunnel && addr.is_ipv4() != vip.addr.is_ipv4() {
        let why = match mode {
            Mode::Nat | Mode::Dnat | Mode::Tunnel => "translation does not change the family of addresses",
            Mode::Dsr => "the backend must own the VIP itself",
        };
        findings.error(
            &here,
            format!("backend {addr} is not of the VIP's family ({})", vip.addr),
            format!("{why}: use an address of the same family"),
        );
    }
    if vip.port == 0 && port != 0 {
        findings.error(
            &here,
            format!("backend {addr} can't have port {port}"),
            "a service of several `ports` leaves each packet its own: write no port",
        );
    } else if matches!(mode, Mode::Dsr | Mode::Tunnel) && port != vip.port {
        findings.error(
            &here,
            format!("backend port {port} differs from the VIP's port {}", vip.port),
            format!("`{}` does not change packets, so both ports must be the same; `nat` can change the port", mode.name()),
        );
    }
    if addr == vip.addr {
        findings.error(&here, format!("backend {addr} is the VIP itself"), "write the backend's own address");
    }
    let weight = match &written.weight {
        None => Weight::ONE,
        Some(w) => {
            let weight = u16::try_from(w.value).map_err(|_| format!("weight {w} is out of range"));
            Weight(findings.ok(w, weight, "write a whole number from 0 to 65535")?)
        }
    };
    let endpoint = Endpoint {
        name: written.name.clone(),
        zone: written.zone.clone(),
        capacity: written.capacity.as_ref().map(|c| c.value),
        backup: resolve_backup(written.backup.as_ref(), findings),
        quic_server_id: written.quic_server_id.as_ref().map(|id| id.value),
        limits: resolve_limits(written.max_connections.as_ref(), written.max_connection_rate.as_ref(), vip.proto, mode, findings),
        ..Endpoint::new(BackendId(SocketAddr::new(addr, port)), weight)
    };
    (findings.errors.len() == errors).then_some(endpoint)
}

fn vip(written: &written::Service, findings: &mut Findings<'_>) -> Option<VipAddr> {
    let here = Placed { value: (), place: written.vip.place.clone() };
    let several = written.ports.as_ref().map(|_| 0);
    let (addr, port) = endpoint(&written.vip.value, written.port.as_ref(), &here, several, findings)?;
    check_address(addr, &here, findings);
    if let Some(ports) = written.ports.as_ref().filter(|_| port != 0) {
        findings.error(ports, format!("the service has port {port} already"), "write one of `port` and `ports`");
    }
    Some(VipAddr { addr, port, proto: written.protocol.into() })
}

/// Address and port from `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT` and the key `port`.
fn endpoint(
    text: &str,
    port: Option<&Placed<u16>>,
    at: &Placed<()>,
    default_port: Option<u16>,
    findings: &mut Findings<'_>,
) -> Option<(IpAddr, u16)> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let (addr, inner) = if let Ok(both) = text.parse::<SocketAddr>() {
        (both.ip(), Some(both.port()))
    } else if let Ok(addr) = bare.parse::<IpAddr>() {
        (addr, None)
    } else {
        findings.error(at, format!("`{text}` is no address"), "write 192.0.2.10:80 or \"[2001:db8::10]:80\"; names are not looked up");
        return None;
    };
    let port = match (inner, port) {
        (Some(_), Some(key)) => {
            findings.error(key, format!("the port is given twice: in `{text}` and here"), "remove one of the two");
            return None;
        }
        (Some(port), None) => port,
        (None, Some(key)) => key.value,
        (None, None) => {
            let Some(port) = default_port else {
                findings.error(at, format!("`{text}` has no port"), format!("write {}, or add the key `port`", SocketAddr::new(addr, 80)));
                return None;
            };
            port
        }
    };
    if port == 0 && default_port != Some(0) {
        findings.error(at, "port 0 can't be used", "write a port from 1 to 65535");
        return None;
    }
    Some((addr, port))
}

/// Addresses that packets are never sent to.
fn check_address(addr: IpAddr, at: &Placed<()>, findings: &mut Findings<'_>) {
    let kind = match addr {
        _ if addr.is_unspecified() => "the unspecified address",
        _ if addr.is_multicast() => "a multicast address",
        _ if addr.is_loopback() => "a loopback address, which never comes in by an interface",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 notation",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address, which says no interface",
        _ => return,
    };
    findings.error(at, format!("{addr} is {kind}"), "write a unicast address that can be routed");
}

/// Keys that only one mode has.
fn ways(written: &written::Service, vip: VipAddr, mode: Mode, findings: &mut Findings<'_>) -> Ways {
    let other = |key: &str| format!("`{key}` means nothing in mode `{}`", mode.name());
    if let Some(encap) = written.encap.as_ref().filter(|_| mode != Mode::Tunnel) {
        findings.error(encap, other("encap"), "remove it, or write `mode: tunnel`");
    }
    if let Some(source) = written.outer_source.as_ref().filter(|_| mode != Mode::Tunnel) {
        findings.error(source, other("outer_source"), "remove it, or write `mode: tunnel`");
    }
    if let Some(via) = written.reply_via.as_ref().filter(|_| mode != Mode::Dnat) {
        findings.error(via, other("reply_via"), "remove it, or write `mode: dnat`");
    }
    let mut address = |text: &Option<Placed<String>>| {
        let text = text.as_ref()?;
        let parsed = text.value.parse::<IpAddr>().map_err(|_| format!("`{text}` is no address"));
        let addr = findings.ok(text, parsed, "write an address without a port")?;
        check_address(addr, &Placed { value: (), place: text.place.clone() }, findings);
        Some(addr)
    };
    let (source, reply_via) = (address(&written.outer_source), address(&written.reply_via));
    if let (Some(via), Some(at)) = (reply_via.filter(|via| via.is_ipv4() != vip.addr.is_ipv4()), &written.reply_via) {
        findings.error(at, format!("{via} is not of the VIP's family ({})", vip.addr), "write the router's address of the same family");
    }
    let ports = written.ports.as_ref().and_then(|text| ports(text, findings));
    let hash = written.hash.as_ref().map(|hash| resolve_fields(hash, written.ports.is_some(), findings)).unwrap_or_default();
    let choosing = resolve_choosing(written, vip.proto, findings);
    let protect = resolve_protect(written.protect.as_ref(), vip, findings);
    let gue = written.encap.as_ref().is_some_and(|encap| encap.value == EncapWord::Gue);
    Ways { ports, hash, protect, choosing, gue, source, reply_via, quic: resolve_quic(written, vip, findings) }
}

/// `any` or `FIRST-LAST`.
fn ports(text: &Placed<String>, findings: &mut Findings<'_>) -> Option<(u16, u16)> {
    let range = match text.value.split_once('-') {
        None if text.value == "any" => Some((1, u16::MAX)),
        None => None,
        Some((first, last)) => first.trim().parse().ok().zip(last.trim().parse().ok()),
    };
    let range = range.filter(|(first, last)| (1..=*last).contains(first)).ok_or_else(|| format!("`{text}` is no range of ports"));
    findings.ok(text, range, "write `any`, or FIRST-LAST such as 8000-8100")
}

fn announce(written: &written::Service, findings: &mut Findings<'_>) -> Option<String> {
    match (&written.announce, &written.interface) {
        (None, Some(interface)) => {
            findings.error(
                interface,
                "`interface` means something only with `announce: address`",
                "add `announce: address`, or remove `interface`",
            );
            None
        }
        (Some(a), interface) => match (&a.value, interface) {
            (AnnounceForm::None, _) => None,
            (AnnounceForm::Address(Some(name)), None) => Some(name.clone()),
            (AnnounceForm::Address(None), Some(name)) => Some(name.value.clone()),
            (AnnounceForm::Address(Some(_)), Some(again)) => {
                findings.error(again, "the interface of `announce` is given twice", "remove one of the two");
                None
            }
            (AnnounceForm::Address(None), None) => {
                findings.error(a, "`announce: address` does not say where", "write `announce: {address: INTERFACE}`");
                None
            }
        },
        (None, None) => None,
    }
}

fn backends(written: &written::Service, vip: VipAddr, mode: Mode, quic: Option<u8>, findings: &mut Findings<'_>) -> Vec<Endpoint> {
    let (mut all, mut ids) = (Vec::new(), HashSet::new());
    for placed in &written.backends {
        let Some(endpoint) = resolve_backend(&placed.value.0, placed, vip, mode, findings) else { continue };
        if !ids.insert(endpoint.id) {
            findings.error(
                placed,
                format!("backend {} is listed twice", endpoint.id),
                "remove one of the two; `weight` gives it a larger share",
            );
        }
        all.push((placed, endpoint));
    }
    check_ids(quic, &all, findings);
    all.into_iter().map(|(_, endpoint)| endpoint).collect()
}
