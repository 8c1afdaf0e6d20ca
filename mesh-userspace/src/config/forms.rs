//! Keys that may be written in a short or in a long form. Serde's `untagged` would lose the places, so each form has a visitor.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, IntoDeserializer, MapAccess, SeqAccess,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use super::{
    placed::Placed,
    written::{Backend, Health, Interface, ProbeWord},
};
use crate::health::StatusSet;

/// `eth0`, or an [`Interface`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct InterfaceForm(pub Interface);

/// `10.0.0.1:8080`, or a [`Backend`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct BackendForm(pub Backend);

/// `tcp`, `http`, `icmp`, `none`, ..., or a [`Health`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct HealthForm(pub Health);

/// `none`, `address` with the interface in a key of its own, or `address: IFACE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnnounceForm {
    None,
    Address(Option<String>),
}

/// `200`, `200-399` or `200-299,404`: the statuses that count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusForm(pub StatusSet);

/// `10240-19999`, or a list of such ranges of ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortsForm(pub Vec<Placed<String>>);

/// A form that a text or a table of keys can be read as.
trait Form: Sized {
    type Long: for<'de> Deserialize<'de>;
    const EXPECTED: &'static str;

    fn short(text: &str) -> Result<Self, String>;
    fn long(long: Self::Long) -> Self;
}

struct FormVisitor<F>(PhantomData<F>);

impl<'de, F: Form> de::Visitor<'de> for FormVisitor<F> {
    type Value = F;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(F::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<F, E> {
        F::short(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<F, A::Error> {
        F::Long::deserialize(MapAccessDeserializer::new(map)).map(F::long)
    }
}

macro_rules! form {
    ($t:ty) => {
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(FormVisitor(PhantomData))
            }
        }
    };
}

form!(InterfaceForm);
form!(BackendForm);
form!(HealthForm);
form!(AnnounceForm);

impl Form for InterfaceForm {
    type Long = Interface;
    const EXPECTED: &'static str = "the name of an interface, or a table with `name` and `hook`";

    fn short(text: &str) -> Result<Self, String> {
        Ok(Self(Interface { name: text.to_owned().into(), hook: Default::default() }))
    }

    fn long(long: Interface) -> Self {
        Self(long)
    }
}

impl Form for BackendForm {
    type Long = Backend;
    const EXPECTED: &'static str = "a backend such as `10.0.0.1:8080` or \"[2001:db8::1]:8080\", or a table with `address`";

    fn short(text: &str) -> Result<Self, String> {
        Ok(Self(Backend { address: text.to_owned().into(), ..Backend::default() }))
    }

    fn long(long: Backend) -> Self {
        Self(long)
    }
}

impl Form for HealthForm {
    type Long = Health;
    const EXPECTED: &'static str = "a heartbeat such as `tcp`, `http`, `icmp` or `none`, or a table with `type`";

    fn short(text: &str) -> Result<Self, String> {
        let word: de::value::StrDeserializer<'_, de::value::Error> = text.into_deserializer();
        let probe = ProbeWord::deserialize(word).map_err(|e| e.to_string())?;
        Ok(Self(Health { probe: probe.into(), ..Default::default() }))
    }

    fn long(long: Health) -> Self {
        Self(long)
    }
}

/// The long form of [`AnnounceForm`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnnounceAddress {
    address: String,
}

impl Form for AnnounceForm {
    type Long = AnnounceAddress;
    const EXPECTED: &'static str = "`none`, `address`, or `address: INTERFACE`";

    fn short(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "address" => Ok(Self::Address(None)),
            _ => Err(format!("`{text}` is no way to announce a VIP: use `none` or `address: INTERFACE`")),
        }
    }

    fn long(long: AnnounceAddress) -> Self {
        Self::Address(Some(long.address))
    }
}

impl Serialize for AnnounceForm {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => s.serialize_str("none"),
            Self::Address(None) => s.serialize_str("address"),
            Self::Address(Some(iface)) => s.collect_map([("address", iface)]),
        }
    }
}

impl Serialize for StatusForm {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StatusForm {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = StatusForm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status such as 200, or statuses such as 200-299,404")
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<StatusForm, E> {
                self.visit_str(&n.to_string())
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<StatusForm, E> {
                self.visit_str(&n.to_string())
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<StatusForm, E> {
                s.parse().map(StatusForm).map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for PortsForm {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PortsForm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a range of ports such as `10240-19999`, or a list of such ranges")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortsForm, E> {
                Ok(PortsForm(vec![text.to_owned().into()]))
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<PortsForm, E> {
                self.visit_str(&n.to_string())
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<PortsForm, E> {
                self.visit_str(&n.to_string())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<PortsForm, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(PortsForm)
            }
        }
        d.deserialize_any(Visitor)
    }
}
