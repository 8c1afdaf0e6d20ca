//! Who may use a service, as written and as meant.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, resolve::Findings};
use crate::model::{self, Proto, SourceRule, VipAddr};

/// Who may use a service. What is left out costs nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// Packets are dropped whose source can't be where they come from: a VIP, a loopback, multicast or unspecified address.
    #[serde(default)]
    pub spoofed: bool,
    /// Who may use the service, and nobody else but where a longer prefix is here: prefixes and addresses, such as `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Placed<String>>,
    /// Who may not, but where a longer prefix is in `allow`. Packets of those who may not are dropped, those of connections that stand as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Placed<String>>,
    /// TCP: new connections of one source (of IPv6, of a network of 64 bits), such as `50/s`, `300/m` or `10/h`. What one second allows, and one
    /// connection at least, may come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_rate: Option<Placed<String>>,
    /// TCP: the same of all sources together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Placed<String>>,
}

/// Errors go to `findings`.
pub fn resolve_protect(written: Option<&Protect>, vip: VipAddr, findings: &mut Findings<'_>) -> model::Protect {
    let Some(written) = written else { return model::Protect::default() };
    let mut limit = |text: &Option<Placed<String>>| {
        let text = text.as_ref()?;
        if vip.proto != Proto::Tcp {
            let why = "a datagram does not tell whether it begins something: limit connections of TCP services, and remove this";
            findings.error(text, "rates are of new connections, which UDP has none of", why);
        }
        let each = time_for_each(&text.value).ok_or_else(|| format!("`{text}` is no rate of new connections"));
        findings.ok(text, each, "write a number and `/s`, `/m` or `/h`, such as 50/s; from 1/h to 500000/s")
    };
    let (source, all) = (limit(&written.source_rate), limit(&written.rate));
    let sources = resolve_sources(written, vip, findings);
    model::Protect { spoofed: written.spoofed, source_limit: source.unwrap_or(0), service_limit: all.unwrap_or(0), sources }
}

/// Both lists as one, in which the longest prefix says.
fn resolve_sources(written: &Protect, vip: VipAddr, findings: &mut Findings<'_>) -> Vec<SourceRule> {
    let mut rules: BTreeMap<(IpAddr, u8), bool> = BTreeMap::new();
    for (text, allowed) in written.allow.iter().map(|t| (t, true)).chain(written.deny.iter().map(|t| (t, false))) {
        let family = |prefix: (IpAddr, u8)| match prefix.0.is_ipv4() == vip.addr.is_ipv4() {
            true => Ok(prefix),
            false => Err(format!("`{text}` is not of the VIP's family ({})", vip.addr)),
        };
        let remedy = "write a prefix of the VIP's family by its first address, such as 10.0.0.0/8 or fd00::/8, or an address";
        let Some(prefix) = findings.ok(text, prefix(&text.value).and_then(family), remedy) else { continue };
        if rules.insert(prefix, allowed).is_some_and(|before| before != allowed) {
            findings.error(text, format!("`{text}` is in `allow` and in `deny`"), "write it in one of them");
        }
    }
    if !written.allow.is_empty() {
        let all: IpAddr = if vip.addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        rules.entry((all, 0)).or_insert(false);
    }
    rules.into_iter().map(|((addr, bits), allowed)| SourceRule { addr, bits, allowed }).collect()
}

/// `ADDRESS` or `ADDRESS/BITS`, where nothing of the address is beyond the bits.
pub(crate) fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let nothing = || format!("`{text}` is no prefix");
    let (addr, bits) = text.split_once('/').map_or((text, None), |(addr, bits)| (addr, Some(bits)));
    let addr: IpAddr = addr.trim().parse().map_err(|_| nothing())?;
    let whole = if addr.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(whole), |bits| bits.trim().parse::<u8>().map_err(|_| nothing()))?;
    let beyond = match addr {
        _ if bits > whole => return Err(nothing()),
        IpAddr::V4(a) => a.to_bits() & u32::MAX.checked_shr(bits.into()).unwrap_or(0) != 0,
        IpAddr::V6(a) => a.to_bits() & u128::MAX.checked_shr(bits.into()).unwrap_or(0) != 0,
    };
    if beyond { Err(format!("`{text}` has more bits than its prefix")) } else { Ok((addr, bits)) }
}

/// Time for each of a rate's connections in the unit of the kernel half, 1024 ns; never 0, which stands for no limit.
fn time_for_each(rate: &str) -> Option<u32> {
    const MOST: u64 = 500_000;
    let (count, unit) = rate.split_once('/')?;
    let count: u64 = count.trim().parse().ok()?;
    let seconds: u64 = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    if count == 0 || count > MOST * seconds {
        return None;
    }
    u32::try_from(seconds * 1_000_000_000 / 1024 / count).ok().map(|each| each.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (text, addr, bits) in [
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("192.0.2.7", "192.0.2.7", 32),
            ("0.0.0.0/0", "0.0.0.0", 0),
            ("fd00::/8", "fd00::", 8),
            ("::1", "::1", 128),
        ] {
            assert_eq!(prefix(text), Ok((addr.parse().unwrap(), bits)), "{text}");
        }
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "/8", "10.0.0/8", "fd00::1/64", "fd00::/129", "a/8", "10.0.0.0/-1"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, each) in [("1/s", 976_562), ("50/s", 19_531), (" 300 / m ", 195_312), ("1/h", 3_515_625_000), ("500000/s", 1)] {
            assert_eq!(time_for_each(text), Some(each), "{text}");
        }
        for text in ["", "5", "/s", "0/s", "500001/s", "-1/s", "1.5/s", "5/d", "5/s/s", "99999999999999999999/h"] {
            assert_eq!(time_for_each(text), None, "{text}");
        }
    }
}
