//! An endpoint as a registry has it: a text or a table of keys. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::Told;

/// `{"address": "10.0.0.1", "port": 8080, "weight": 5, "name": "web-1", "drain": false, "zone": "eu-1a", "capacity": 1000,
/// "backup": 1, "max_connections": 500, "max_connection_rate": 100, "quic_server_id": 7}`; keys that are not
/// ours are others' business.
#[derive(Deserialize)]
struct Entry {
    address: String,
    port: Option<u16>,
    weight: Option<i64>,
    name: Option<String>,
    #[serde(default)]
    drain: bool,
    // Registries of others may mean something else by these.
    zone: Option<Value>,
    capacity: Option<Value>,
    backup: Option<Value>,
    max_connections: Option<Value>,
    max_connection_rate: Option<Value>,
    quic_server_id: Option<Value>,
}

/// From JSON: `"10.0.0.1:8080"`, or a table of keys.
pub(super) fn from_value(value: Value) -> Result<Told, String> {
    if let Value::String(address) = value {
        return Ok(Told { address, ..Told::default() });
    }
    let Entry { address, port, weight, name, drain, zone, capacity, backup, max_connections, max_connection_rate, quic_server_id } =
        serde_json::from_value(value).map_err(|e| e.to_string())?;
    let zone = zone.as_ref().and_then(Value::as_str).map(str::to_owned);
    let number = |value: Option<Value>| value.as_ref().and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Ok(Told {
        address,
        port,
        weight,
        name,
        drain,
        zone,
        capacity: number(capacity),
        // 0 is how others say that it is none.
        backup: number(backup).filter(|level| *level > 0),
        max_connections: number(max_connections),
        max_connection_rate: number(max_connection_rate),
        quic_server_id: number(quic_server_id),
        ..Told::default()
    })
}

/// From what stands at `key` (or in the node of that name): JSON, or the bare address; without content the key's last part is the address.
pub(super) fn from_node(key: &str, content: &[u8]) -> Result<Told, String> {
    let last = key.rsplit('/').next().unwrap_or_default();
    let text = std::str::from_utf8(content).map_err(|_| "its content is no text".to_owned())?.trim();
    let told = match text.as_bytes().first() {
        None => Told { address: last.to_owned(), ..Told::default() },
        Some(b'{' | b'"') => from_value(serde_json::from_str(text).map_err(|e| e.to_string())?)?,
        Some(_) => Told { address: text.to_owned(), ..Told::default() },
    };
    let name = told.name.clone().or_else(|| (last != told.address && !last.is_empty()).then(|| last.to_owned()));
    Ok(Told { name, ..told })
}

/// A list of entries, bare or under the key `backends`.
pub(super) fn list(body: &[u8]) -> Result<Vec<Value>, String> {
    match serde_json::from_slice(body).map_err(|e| e.to_string())? {
        Value::Array(list) => Ok(list),
        Value::Object(mut object) => match object.remove("backends") {
            Some(Value::Array(list)) => Ok(list),
            _ => Err("the object has no list `backends`".to_owned()),
        },
        _ => Err("it is neither a list nor an object with a list `backends`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_node() {
        let told = |key: &str, content: &str| from_node(key, content.as_bytes()).map(|t| (t.address, t.port, t.weight, t.name, t.drain));
        assert_eq!(told("/s/10.0.0.1:80", ""), Ok(("10.0.0.1:80".into(), None, None, None, false)));
        assert_eq!(told("/s/a", "10.0.0.1:80\n"), Ok(("10.0.0.1:80".into(), None, None, Some("a".into()), false)));
        assert_eq!(told("/s/a", "\"10.0.0.1\""), Ok(("10.0.0.1".into(), None, None, Some("a".into()), false)));
        let long = r#"{"address": "10.0.0.1", "port": 1, "weight": 5, "name": "b", "drain": true, "zone": ["x"]}"#;
        assert_eq!(told("/s/a", long), Ok(("10.0.0.1".into(), Some(1), Some(5), Some("b".into()), true)));
        for bad in ["{", "{}", "\"a", r#"{"address": 7}"#, r#"{"address": "10.0.0.1", "port": 70000}"#] {
            assert!(told("/s/a", bad).is_err(), "{bad}");
        }
        assert!(from_node("/s/a", &[0xff, 0xfe]).is_err());
    }

    #[test]
    fn lists_in_both_forms() {
        assert_eq!(list(b"[]").map(|l| l.len()), Ok(0));
        assert_eq!(list(br#"["10.0.0.1", {}]"#).map(|l| l.len()), Ok(2));
        assert_eq!(list(br#"{"backends": ["10.0.0.1"], "of": "web"}"#).map(|l| l.len()), Ok(1));
        for bad in ["", "7", "{}", r#"{"backends": 1}"#, "[1,", "<html>"] {
            assert!(list(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
