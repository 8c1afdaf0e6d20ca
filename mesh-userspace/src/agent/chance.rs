//! Whom packets of unknown connections may be passed on to: `--second-chance`.

use std::{collections::BTreeSet, net::IpAddr, str::FromStr};

use crate::{config::protect, dataplane::net::Address};

/// One word of `--second-chance`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecondChance {
    /// Nothing is passed on.
    Off,
    /// To the networks that the agent's interfaces are on.
    Link,
    /// To these addresses.
    Within(Network),
}

/// A prefix: its first address, and how many of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Network {
    pub addr: IpAddr,
    pub bits: u8,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}: write `link`, `off`, or a prefix by its first address, such as 10.0.0.0/8")]
pub struct WordError(String);

impl FromStr for SecondChance {
    type Err = WordError;

    fn from_str(word: &str) -> Result<Self, WordError> {
        match word {
            "off" => Ok(Self::Off),
            "link" => Ok(Self::Link),
            other => protect::prefix(other).map(|(addr, bits)| Self::Within(Network { addr, bits })).map_err(WordError),
        }
    }
}

/// The networks that the words allow, where the interfaces with these numbers have these addresses. No word at all is `link`.
pub fn networks(words: &[SecondChance], interfaces: &BTreeSet<u32>, addresses: &[Address]) -> BTreeSet<Network> {
    let words = if words.is_empty() { &[SecondChance::Link] } else { words };
    if words.contains(&SecondChance::Off) {
        return BTreeSet::new();
    }
    let named = words.iter().filter_map(|word| if let SecondChance::Within(network) = word { Some(*network) } else { None });
    let on_link = addresses.iter().filter(|a| words.contains(&SecondChance::Link) && !a.ours && interfaces.contains(&a.ifindex));
    named.chain(on_link.map(|a| Network::of(a.addr, a.bits))).collect()
}

impl Network {
    /// The one that an address with so many bits is in.
    fn of(addr: IpAddr, bits: u8) -> Self {
        let addr = match addr {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() & !u32::MAX.checked_shr(bits.into()).unwrap_or(0)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() & !u128::MAX.checked_shr(bits.into()).unwrap_or(0)).into()),
        };
        Self { addr, bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(addr: &str, bits: u8) -> Network {
        Network { addr: addr.parse().unwrap(), bits }
    }

    #[test]
    fn words() {
        assert_eq!("off".parse(), Ok(SecondChance::Off));
        assert_eq!("link".parse(), Ok(SecondChance::Link));
        assert_eq!("10.0.0.0/8".parse(), Ok(SecondChance::Within(network("10.0.0.0", 8))));
        assert_eq!("fd00::1".parse(), Ok(SecondChance::Within(network("fd00::1", 128))));
        for wrong in ["", "on", "10.0.0.1/8", "10.0.0.0/33"] {
            assert!(wrong.parse::<SecondChance>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_networks_of_the_interfaces_are_allowed_unless_others_are_named() {
        let address = |ifindex, addr: &str, bits, ours| Address { ifindex, addr: addr.parse().unwrap(), bits, ours };
        let all = [
            address(2, "10.1.2.3", 24, false),
            address(2, "fd00::7", 64, false),
            address(2, "192.0.2.1", 32, true),
            address(3, "10.9.0.1", 16, false),
        ];
        let interfaces = BTreeSet::from([2]);
        let on_link = BTreeSet::from([network("10.1.2.0", 24), network("fd00::", 64)]);
        let within = SecondChance::Within(network("10.0.0.0", 8));
        assert_eq!(networks(&[], &interfaces, &all), on_link);
        assert_eq!(networks(&[SecondChance::Link], &interfaces, &all), on_link);
        assert_eq!(networks(&[within], &interfaces, &all), BTreeSet::from([network("10.0.0.0", 8)]));
        assert_eq!(networks(&[within, SecondChance::Link], &interfaces, &all).len(), 3);
        assert_eq!(networks(&[within, SecondChance::Off], &interfaces, &all), BTreeSet::new());
    }
}
