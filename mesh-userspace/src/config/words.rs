//! The words of the configuration, the API and the CLI: what a person writes for a value.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::placed::Placed;
use crate::model::{Mode, Proto};

/// `tcp` or `udp`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProtoWord {
    #[default]
    Tcp,
    Udp,
}

impl From<ProtoWord> for Proto {
    fn from(w: ProtoWord) -> Self {
        match w {
            ProtoWord::Tcp => Self::Tcp,
            ProtoWord::Udp => Self::Udp,
        }
    }
}

impl From<Proto> for ProtoWord {
    fn from(p: Proto) -> Self {
        match p {
            Proto::Tcp => Self::Tcp,
            Proto::Udp => Self::Udp,
        }
    }
}

/// `nat`, `dsr`, `dnat` or `tunnel`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeWord {
    #[default]
    Nat,
    Dsr,
    Dnat,
    Tunnel,
}

impl From<ModeWord> for Mode {
    fn from(w: ModeWord) -> Self {
        match w {
            ModeWord::Nat => Self::Nat,
            ModeWord::Dsr => Self::Dsr,
            ModeWord::Dnat => Self::Dnat,
            ModeWord::Tunnel => Self::Tunnel,
        }
    }
}

impl From<Mode> for ModeWord {
    fn from(m: Mode) -> Self {
        match m {
            Mode::Nat => Self::Nat,
            Mode::Dsr => Self::Dsr,
            Mode::Dnat => Self::Dnat,
            Mode::Tunnel => Self::Tunnel,
        }
    }
}

/// `ipip` or `gue`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncapWord {
    /// IP in IP, of either family in either.
    #[default]
    Ipip,
    /// IP in UDP (port 6080), whose source port tells flows apart.
    Gue,
}

/// Where on an interface the program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Native XDP where the driver has it, else TC.
    #[default]
    Auto,
    /// Native XDP or nothing.
    Xdp,
    /// XDP after the kernel has built its packet; only on request, for it is slower than TC in all but tests.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

/// An interface and where on it the program goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Name of the interface, such as `eth0`.
    pub name: Placed<String>,
    /// `auto` (native XDP, else TC), `xdp`, `xdp-generic` or `tc`.
    #[serde(default)]
    pub hook: Hook,
}

/// How the daemon's log is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

macro_rules! words {
    ($t:ty: $($variant:ident = $word:literal),+) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $t {
            type Err = String;

            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("`{s}` is not one of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(ProtoWord: Tcp = "tcp", Udp = "udp");
words!(ModeWord: Nat = "nat", Dsr = "dsr", Dnat = "dnat", Tunnel = "tunnel");
words!(EncapWord: Ipip = "ipip", Gue = "gue");
words!(LogFormat: Text = "text", Json = "json");
words!(Hook: Auto = "auto", Xdp = "xdp", XdpGeneric = "xdp-generic", Tc = "tc");

/// A duration as `250ms`, `1s`, `1.5s`, `2m`, `1h` or `1d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

/// Unit and its length in milliseconds, the longest unit first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is no duration: write a number and a unit, such as 250ms, 1s or 2m");
        let unit_at = s.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, unit) = s.split_at(unit_at);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(bad)?;
        let number: f64 = number.parse().map_err(|_| bad())?;
        Duration::try_from_secs_f64(number * (*unit_ms as f64) / 1000.0).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.pad("0s");
        }
        let (unit, unit_ms) = UNITS.into_iter().find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms)).unwrap_or(("ms", 1));
        f.pad(&format!("{}{unit}", ms / unit_ms))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 250ms, 1s or 2m")
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<Span, E> {
                s.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for (text, ms) in [("250ms", 250), ("1s", 1000), ("2m", 120_000), ("1h", 3_600_000), ("2d", 172_800_000), ("0s", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0.as_millis(), span.to_string().as_str()), (ms, text));
        }
        assert_eq!("1.5s".parse::<Span>().unwrap().to_string(), "1500ms");
        for bad in ["", "1", "s", "-1s", "1 parsec", "1e400s", "99999999999999999999999d", "1.2.3s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
