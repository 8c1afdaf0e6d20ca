//! Who may use a service, as written and as meant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{placed::Placed, resolve::Findings};
use crate::model::{self, Proto, VipAddr};

/// Who may use a service. What is left out costs nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// Packets are dropped whose source can't be where they come from: a VIP, a loopback, multicast or unspecified address.
    #[serde(default)]
    pub spoofed: bool,
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
    model::Protect { spoofed: written.spoofed, source_limit: source.unwrap_or(0), service_limit: all.unwrap_or(0) }
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
    fn rates() {
        for (text, each) in [("1/s", 976_562), ("50/s", 19_531), (" 300 / m ", 195_312), ("1/h", 3_515_625_000), ("500000/s", 1)] {
            assert_eq!(time_for_each(text), Some(each), "{text}");
        }
        for text in ["", "5", "/s", "0/s", "500001/s", "-1/s", "1.5/s", "5/d", "5/s/s", "99999999999999999999/h"] {
            assert_eq!(time_for_each(text), None, "{text}");
        }
    }
}
