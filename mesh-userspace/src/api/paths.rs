//! Paths of the API. Names may contain `/`, so every part is percent-encoded (RFC 3986 section 2.1).

use crate::model::ServiceName;

pub const STATUS: &str = "/v1/status";
pub const SERVICES: &str = "/v1/services";
pub const BACKENDS: &str = "/v1/backends";
pub const SOURCES: &str = "/v1/sources";
pub const HEARTBEAT: &str = "/v1/services/{service}/backends/{backend}/heartbeat";
pub const EVENTS: &str = "/v1/events";
pub const RELOAD: &str = "/v1/reload";
pub const DRAINS: &str = "/v1/drains";
pub const LEDGER: &str = "/v1/ledger";
pub const LEDGER_SLOTS: &str = "/v1/ledger/slots";
pub const PLAN: &str = "/v1/plan";
pub const EXPLAIN: &str = "/v1/explain";

pub fn service(name: &ServiceName) -> String {
    format!("{SERVICES}/{}", encode(name.as_str()))
}

pub fn backends(service_name: &ServiceName) -> String {
    format!("{}/backends", service(service_name))
}

pub fn backend(service_name: &ServiceName, backend: &str) -> String {
    format!("{}/{}", backends(service_name), encode(backend))
}

pub fn heartbeat(service_name: &ServiceName, of: &str) -> String {
    format!("{}/heartbeat", backend(service_name, of))
}

/// Leaves only the unreserved characters of RFC 3986 section 2.3 as they are.
fn encode(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            // A part of dots alone would be a step in the path.
            b'.' if part.bytes().any(|b| b != b'.') => out.push('.'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_parts() {
        let name: ServiceName = "shop/web.v1".parse().unwrap();
        assert_eq!(service(&name), "/v1/services/shop%2Fweb.v1");
        assert_eq!(backend(&name, "[2001:db8::1]:80"), "/v1/services/shop%2Fweb.v1/backends/%5B2001%3Adb8%3A%3A1%5D%3A80");
        assert_eq!(encode(".."), "%2E%2E");
        assert_eq!(encode("ä b?#"), "%C3%A4%20b%3F%23");
    }
}
