//! What the kernel half says in words: events that an operator has to know of, rarely. A forwarded packet never gets here.

use aya_log_ebpf::{error, warn};
use mesh_common::{abi::Reason, account::Watch};

use crate::maps::Maps;

/// Logs what tells of a shortage or a contradiction, about once a second and CPU at most. The loader removes all of it by a log level of 0.
pub struct Rare;

impl Watch for Rare {
    #[inline(always)]
    fn ended(&self, service: u32, reason: Reason) {
        if matches!(reason, Reason::NatFull | Reason::HalfOpenLimit | Reason::BadTable) {
            mesh_say(service, reason as u32);
        }
    }
}

/// A global function, so that the verifier follows it once.
#[unsafe(no_mangle)]
#[cold]
#[inline(never)]
extern "C" fn mesh_say(service: u32, reason: u32) -> u32 {
    if !Maps.may_report() {
        return 0;
    }
    // The macros ask for a context and make no use of it.
    let ctx = ();
    match Reason::from_u8(reason as u8) {
        Reason::NatFull => warn!(ctx, "service {}: no room for one more translated flow", service),
        Reason::HalfOpenLimit => warn!(ctx, "service {}: too many flows that nobody answered", service),
        _ => error!(ctx, "service {}: the maps contradict themselves", service),
    }
    1
}
