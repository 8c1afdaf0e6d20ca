//! Who is named by which server id in QUIC connection ids.

use std::collections::{BTreeMap, BTreeSet};

use super::PlannedBackend;
use crate::model::{BackendId, Endpoint, quic_fits, quic_id};

/// Gives each member the server id of `length` bytes that was said for it, or else the end of its address. Of several with one id the one it was said for has it,
/// then the one of the lowest address: a connection id names one backend.
pub(super) fn give(members: &mut [PlannedBackend], endpoints: &[Endpoint], length: u8) {
    let told: BTreeMap<BackendId, &Endpoint> = endpoints.iter().map(|e| (e.id, e)).collect();
    let mut taken = BTreeSet::new();
    for said in [true, false] {
        for member in members.iter_mut() {
            let Some(endpoint) = told.get(&member.id).filter(|e| e.quic_server_id.is_some() == said) else { continue };
            let id = quic_id(endpoint, length);
            member.quic = (quic_fits(id, length) && taken.insert(id)).then_some(id);
        }
    }
}
