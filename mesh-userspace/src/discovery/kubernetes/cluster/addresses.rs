//! Who has which address of the pool. Pure, and the same on every node, for it depends only on what the cluster says.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Addresses that may be given away: `192.0.2.0/24`, `192.0.2.1-192.0.2.9` or one alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    v4: bool,
    first: u128,
    last: u128,
}

/// One who wants an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Unique; who is older goes first, then who comes first by this name.
    pub name: String,
    /// RFC 3339, as the API server writes it.
    pub created: String,
    pub v4: bool,
    /// By its owner's wish.
    pub wanted: Option<IpAddr>,
    /// As its status says.
    pub held: Vec<IpAddr>,
}

/// Address by name and family, or why there is none.
pub type Given = BTreeMap<(String, bool), Result<IpAddr, String>>;

/// Gives each claim an address. What somebody holds already stays, so that adding one moves no other.
pub fn give(claims: &[Claim], pool: &[Range]) -> Given {
    let mut order: Vec<&Claim> = claims.iter().collect();
    order.sort_by_key(|c| (&c.created, &c.name));
    let mut taken: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let mut given = Given::new();
    for claim in &order {
        let key = (claim.name.clone(), claim.v4);
        if let Some(wanted) = claim.wanted {
            let result = match taken.get(&wanted) {
                _ if !pool.iter().any(|range| range.has(wanted)) => Err(format!("{wanted} is not in the pool `addresses`")),
                Some(other) if *other != claim.name => Err(format!("{wanted} is the address of {other}")),
                _ => Ok(wanted),
            };
            if result.is_ok() {
                taken.insert(wanted, &claim.name);
            }
            given.insert(key, result);
        } else if let Some(held) =
            claim.held.iter().find(|a| a.is_ipv4() == claim.v4 && pool.iter().any(|r| r.has(**a)) && !taken.contains_key(a))
        {
            taken.insert(*held, &claim.name);
            given.insert(key, Ok(*held));
        }
    }
    for claim in order {
        let key = (claim.name.clone(), claim.v4);
        if given.contains_key(&key) {
            continue;
        }
        let free = pool.iter().filter(|r| r.v4 == claim.v4).find_map(|range| range.free(&taken));
        if let Some(free) = free {
            taken.insert(free, &claim.name);
        }
        let family = if claim.v4 { "IPv4" } else { "IPv6" };
        given.insert(key, free.ok_or_else(|| format!("the pool `addresses` has no {family} address left")));
    }
    given
}

impl Range {
    pub fn has(&self, addr: IpAddr) -> bool {
        let (v4, number) = number(addr);
        v4 == self.v4 && (self.first..=self.last).contains(&number)
    }

    /// The lowest address that nobody has.
    fn free(&self, taken: &BTreeMap<IpAddr, &str>) -> Option<IpAddr> {
        (self.first..=self.last).map(|n| self.address(n)).find(|addr| !taken.contains_key(addr))
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.v4 { Ipv4Addr::from_bits(number as u32).into() } else { Ipv6Addr::from_bits(number).into() }
    }
}

fn number(addr: IpAddr) -> (bool, u128) {
    match addr {
        IpAddr::V4(v4) => (true, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (false, v6.to_bits()),
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no range of addresses");
        let address = |part: &str| part.trim().parse::<IpAddr>().map(number).map_err(|_| bad());
        if let Some((address_text, length)) = text.split_once('/') {
            let (v4, number) = address(address_text)?;
            let bits = if v4 { 32 } else { 128 };
            let length: u32 = length.trim().parse().ok().filter(|length| *length <= bits).ok_or_else(bad)?;
            let rest = if length == 0 && !v4 { u128::MAX } else { (1_u128 << (bits - length)) - 1 };
            if number & rest != 0 {
                return Err(format!("`{text}` has bits beyond its length"));
            }
            return Ok(Self { v4, first: number, last: number | rest });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ((v4, first), (same, last)) = (address(first)?, address(last)?);
        if v4 == same && first <= last { Ok(Self { v4, first, last }) } else { Err(bad()) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.address(self.first), self.address(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn claim(name: &str, created: u32, wanted: Option<&str>, held: &[&str]) -> Claim {
        Claim {
            name: name.into(),
            created: format!("2026-01-01T00:00:{created:02}Z"),
            v4: true,
            wanted: wanted.map(|w| w.parse().unwrap()),
            held: held.iter().map(|h| h.parse().unwrap()).collect(),
        }
    }

    fn shown(claims: &[Claim], texts: &[&str]) -> Vec<String> {
        let one = |((name, _), given): (&(String, bool), &Result<IpAddr, String>)| match given {
            Ok(addr) => format!("{name} {addr}"),
            Err(why) => format!("{name}: {why}"),
        };
        give(claims, &pool(texts)).iter().map(one).collect()
    }

    #[test]
    fn ranges() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0-192.0.2.255"),
            ("192.0.2.7", "192.0.2.7-192.0.2.7"),
            ("192.0.2.1 - 192.0.2.9", "192.0.2.1-192.0.2.9"),
            ("2001:db8::/126", "2001:db8::-2001:db8::3"),
            ("0.0.0.0/0", "0.0.0.0-255.255.255.255"),
        ] {
            assert_eq!(text.parse::<Range>().map(|r| r.to_string()), Ok(shown.to_owned()));
        }
        for bad in ["", "a", "192.0.2.0/33", "192.0.2.1/24", "192.0.2.9-192.0.2.1", "192.0.2.1-::1", "1.2.3.4/", "::/129", "::1/0"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
        assert!("::/0".parse::<Range>().is_ok());
    }

    #[test]
    fn who_is_older_goes_first_and_nobody_moves() {
        let two = &["192.0.2.1-192.0.2.2"];
        let (a, b) = (claim("a", 2, None, &[]), claim("b", 1, None, &[]));
        assert_eq!(shown(&[a.clone(), b], two), ["a 192.0.2.2", "b 192.0.2.1"]);
        let held = claim("b", 9, None, &["192.0.2.1"]);
        assert_eq!(shown(&[a.clone(), held.clone()], two), ["a 192.0.2.2", "b 192.0.2.1"]);
        assert_eq!(shown(&[a, held, claim("c", 3, None, &[])], two)[2], "c: the pool `addresses` has no IPv4 address left");
        // Two nodes gave it away at once: the older one keeps it.
        let (old, new) = (claim("old", 1, None, &["192.0.2.1"]), claim("new", 2, None, &["192.0.2.1"]));
        assert_eq!(shown(&[new, old], two), ["new 192.0.2.2", "old 192.0.2.1"]);
    }

    #[test]
    fn wishes_are_granted_within_the_pool() {
        let range = &["192.0.2.0/30"];
        let claims = [
            claim("a", 1, Some("192.0.2.2"), &[]),
            claim("b", 2, Some("192.0.2.2"), &[]),
            claim("c", 3, Some("10.0.0.1"), &[]),
            claim("d", 0, None, &[]),
        ];
        assert_eq!(
            shown(&claims, range),
            ["a 192.0.2.2", "b: 192.0.2.2 is the address of a", "c: 10.0.0.1 is not in the pool `addresses`", "d 192.0.2.0"]
        );
        let six = Claim { v4: false, ..claim("e", 1, None, &[]) };
        assert_eq!(shown(&[six], range), ["e: the pool `addresses` has no IPv6 address left"]);
    }
}
