//! What is told of schedulers.

use serde::{Deserialize, Serialize};

use super::view::Usage;
use crate::config::balanced::SchedulerWord;

/// How a service gives new flows to backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceScheduling {
    #[serde(default)]
    pub scheduler: SchedulerWord,
    /// For how long a source stays with the backend of its last new flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_s: Option<u64>,
    /// Bytes of the server ids by which QUIC connection ids name backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id_length: Option<u8>,
}

/// What schedulers have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SchedulingView {
    /// Flows (but those of `nat`) and sources that are remembered, of the room there is.
    pub remembered: Usage,
    /// New flows that were given to a backend by a scheduler, by their source's last flow, and by the hash for want of room; remembered flows whose
    /// backend was dead. Since the program was loaded.
    pub chosen: u64,
    pub affine: u64,
    pub full: u64,
    pub lost: u64,
}
