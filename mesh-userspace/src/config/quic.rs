//! Backends that QUIC connection ids name.

use std::collections::HashMap;

use mesh_common::abi::{Proto, QUIC_ID_MOST};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{forms::BackendForm, placed::Placed, resolve::Findings, written};
use crate::model::{Endpoint, VipAddr, quic_fits, quic_id};

/// Server ids in QUIC connection ids, as servers write them (draft-ietf-quic-load-balancers, in the clear): behind the first octet. Who has which: `quic_server_id`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quic {
    /// Bytes of a server id, 1 to 4.
    pub server_id_length: Placed<u32>,
}

/// Bytes of a server id of the service; `None` = connection ids are not looked at.
pub(super) fn resolve_quic(written: &written::Service, vip: VipAddr, findings: &mut Findings<'_>) -> Option<u8> {
    let quic = written.quic.as_ref()?;
    if vip.proto != Proto::Udp {
        findings.error(quic, "`quic` means nothing for a TCP service", "write `protocol: udp`, or remove `quic`");
    }
    let length = &quic.value.server_id_length;
    let bytes = u8::try_from(length.value).ok().filter(|bytes| (1..=QUIC_ID_MOST).contains(bytes));
    findings.ok(length, bytes.ok_or_else(|| format!("server ids can't have {length} bytes")), "write a whole number from 1 to 4")
}

/// The backends of one service have ids that fit it, each its own. `quic`: [`resolve_quic`].
pub(super) fn check_ids(quic: Option<u8>, backends: &[(&Placed<BackendForm>, Endpoint)], findings: &mut Findings<'_>) {
    let mut taken: HashMap<u32, &Endpoint> = HashMap::new();
    for (written, endpoint) in backends {
        let id = written.value.0.quic_server_id.as_ref();
        let at = Placed { value: (), place: id.map_or_else(|| written.place.clone(), |id| id.place.clone()) };
        if let Err((why, remedy)) = server_id_fits(quic, endpoint, |id| taken.get(&id).copied()) {
            findings.error(&at, why, remedy);
        } else if let Some(length) = quic {
            taken.insert(quic_id(endpoint, length), endpoint);
        }
    }
}

/// A backend can have its server id beside those that others have (`taken`: who has an id); else why not, and what to do.
pub fn server_id_fits<'a>(
    quic: Option<u8>,
    endpoint: &Endpoint,
    taken: impl FnOnce(u32) -> Option<&'a Endpoint>,
) -> Result<(), (String, &'static str)> {
    let Some(length) = quic else {
        return match endpoint.quic_server_id {
            None => Ok(()),
            Some(_) => {
                let why = "`quic_server_id` means nothing where the service does not look at connection ids".to_owned();
                Err((why, "remove it, or give the service `quic: {server_id_length: N}`"))
            }
        };
    };
    let id = quic_id(endpoint, length);
    if !quic_fits(id, length) {
        return Err((format!("server id {id} has more than {length} bytes"), "write a smaller one, or a larger `server_id_length`"));
    }
    match taken(id).filter(|other| other.id != endpoint.id) {
        Some(other) => {
            let whose = if endpoint.quic_server_id.is_none() { " (the end of its address)" } else { "" };
            Err((
                format!("backend {} has server id {id}{whose}, which is that of {}", endpoint.id, other.id),
                "give one of the two another `quic_server_id`",
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{parse, placed::Syntax};

    fn read(service: &str) -> Result<Vec<Option<u32>>, String> {
        let text = format!("services:\n  - name: web\n    vip: 192.0.2.10:443\n    health: none\n{service}");
        let loaded = parse(&text, Syntax::Yaml, Path::new("/lb.yaml")).map_err(|error| error.to_string())?;
        let service = loaded.config.services.values().next().unwrap();
        Ok(service.backends.iter().map(|b| b.quic_server_id).chain([service.ways.quic.map(u32::from)]).collect())
    }

    #[test]
    fn ids_are_taken_as_written() {
        let ok = "    protocol: udp\n    quic: {server_id_length: 2}\n    backends: [{address: 10.0.0.1, quic_server_id: 7}, 10.0.0.2]\n";
        assert_eq!(read(ok).unwrap(), [Some(7), None, Some(2)]);
        let hex = "    protocol: udp\n    quic: {server_id_length: 4}\n    backends: [{address: 10.0.0.1, quic_server_id: 0xdeadbeef}]\n";
        assert_eq!(read(hex).unwrap(), [Some(0xdead_beef), Some(4)]);
        assert_eq!(read("    protocol: udp\n    backends: [10.0.0.1]\n").unwrap(), [None, None]);
    }

    #[test]
    fn what_can_not_be_is_told_with_its_place_and_remedy() {
        let udp = "    protocol: udp\n";
        for (service, place, why, remedy) in [
            ("    quic: {server_id_length: 1}\n".to_owned(), "5:11", "for a TCP service", "protocol: udp"),
            (format!("{udp}    quic: {{server_id_length: 0}}\n"), "6:30", "can't have 0 bytes", "from 1 to 4"),
            (format!("{udp}    quic: {{server_id_length: 5}}\n"), "6:30", "can't have 5 bytes", "from 1 to 4"),
            (format!("{udp}    backends: [{{address: 10.0.0.1, quic_server_id: 1}}]\n"), "6:52", "means nothing", "server_id_length: N"),
            (
                format!("{udp}    quic: {{server_id_length: 1}}\n    backends: [{{address: 10.0.0.1, quic_server_id: 256}}]\n"),
                "7:52",
                "more than 1 bytes",
                "a smaller one",
            ),
            (
                format!("{udp}    quic: {{server_id_length: 1}}\n    backends: [{{address: 10.0.0.1, quic_server_id: 2}}, 10.0.0.2]\n"),
                "7:56",
                "10.0.0.2:443 has server id 2 (the end of its address), which is that of 10.0.0.1:443",
                "another `quic_server_id`",
            ),
        ] {
            let told = read(&service).unwrap_err();
            assert!(told.contains(place) && told.contains(why) && told.contains(remedy), "{service}: {told}");
        }
    }
}
