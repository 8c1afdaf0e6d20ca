//! The configuration's JSON schema, derived from the types that read it: it can't say anything else than they do.
//!
//! What a schema can't say (that an address is one, that a backend's port may differ from the VIP's only in `nat`) is left to `mesh check`.

use std::borrow::Cow;

use mesh_common::abi::NAT_RANGES;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::{
    forms::{AnnounceForm, BackendForm, HealthForm, InterfaceForm, PortsForm, StatusForm},
    placed::Placed,
    words::Span,
    written::{Backend, File, Health, Interface},
};

/// Schema of a whole file, by JSON Schema 2020-12.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(File);
    schema.insert("title".into(), "Configuration of mesh".into());
    schema.to_value()
}

/// A value's place is not written: the schema is that of the value.
impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A short form that is a text, or the table of keys that it is short for.
macro_rules! short_or {
    ($form:ty, $long:ty) => {
        impl JsonSchema for $form {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($form).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<$long>()] })
            }
        }
    };
}

short_or!(InterfaceForm, Interface);
short_or!(BackendForm, Backend);
short_or!(HealthForm, Health);

impl JsonSchema for AnnounceForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AnnounceForm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let long = json_schema!({
            "description": "Where the daemon itself makes the VIP reachable.",
            "type": "object",
            "properties": {
                "address": { "type": "string", "description": "Interface that the daemon puts the VIP on." }
            },
            "required": ["address"],
            "additionalProperties": false
        });
        json_schema!({ "anyOf": [{ "enum": ["none", "address"] }, long] })
    }
}

impl JsonSchema for StatusForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StatusForm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"] })
    }
}

impl JsonSchema for PortsForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PortsForm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let range = json_schema!({ "type": "string", "pattern": "^ *[0-9]+ *- *[0-9]+ *$" });
        json_schema!({ "anyOf": [range, { "type": "array", "items": range, "minItems": 1, "maxItems": NAT_RANGES }] })
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "duration", "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *(ms|s|m|h|d)$" })
    }
}
