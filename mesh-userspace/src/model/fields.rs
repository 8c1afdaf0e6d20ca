//! What of a packet chooses its slot.

use mesh_common::abi::ServiceFlags;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// One field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum HashField {
    /// The client's address.
    Source,
    /// The client's port.
    SourcePort,
    /// The VIP.
    Destination,
    /// The VIP's port.
    DestinationPort,
    /// TCP or UDP.
    Protocol,
}

/// Some of them. Default: all, the five-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HashFields {
    /// [`ServiceFlags`] of those that are left out.
    without: u16,
}

impl HashField {
    pub const ALL: [Self; 5] = [Self::Source, Self::SourcePort, Self::Destination, Self::DestinationPort, Self::Protocol];

    /// Word of the configuration, the API and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::SourcePort => "source_port",
            Self::Destination => "destination",
            Self::DestinationPort => "destination_port",
            Self::Protocol => "protocol",
        }
    }

    const fn left_out(self) -> u16 {
        match self {
            Self::Source => ServiceFlags::ANY_SOURCE,
            Self::SourcePort => ServiceFlags::ANY_SOURCE_PORT,
            Self::Destination => ServiceFlags::ANY_DESTINATION,
            Self::DestinationPort => ServiceFlags::ANY_DESTINATION_PORT,
            Self::Protocol => ServiceFlags::ANY_PROTOCOL,
        }
    }
}

impl HashFields {
    /// Exactly these.
    pub fn of(fields: impl IntoIterator<Item = HashField>) -> Self {
        Self { without: fields.into_iter().fold(ServiceFlags::FEWER_FIELDS, |without, field| without & !field.left_out()) }
    }

    /// What a service's [`ServiceFlags`] say.
    pub const fn from_flags(flags: u16) -> Self {
        Self { without: flags & ServiceFlags::FEWER_FIELDS }
    }

    /// For a service's [`ServiceFlags`].
    pub const fn flags(self) -> u16 {
        self.without
    }

    pub fn is_all(&self) -> bool {
        self.without == 0
    }

    pub fn iter(self) -> impl Iterator<Item = HashField> {
        HashField::ALL.into_iter().filter(move |field| self.without & field.left_out() == 0)
    }
}

impl Serialize for HashFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_the_default_and_cost_nothing() {
        assert_eq!(HashFields::of(HashField::ALL), HashFields::default());
        assert!(HashFields::default().is_all() && HashFields::default().flags() == 0);
        let source = HashFields::of([HashField::Source]);
        assert!(!source.is_all() && source.iter().eq([HashField::Source]));
        assert_eq!(HashFields::from_flags(source.flags() | ServiceFlags::REJECT), source);
        for field in HashField::ALL {
            assert_eq!(serde_json::to_value(HashFields::of([field])).unwrap(), serde_json::json!([field.name()]));
        }
    }
}
