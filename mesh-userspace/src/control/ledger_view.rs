//! What is told of the slot ledger.

use serde::{Deserialize, Serialize};

use super::view::Usage;

/// Flows that must not follow their slot (modes `dsr`, `dnat`, `tunnel`).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LedgerView {
    /// Slots on their way to another owner.
    pub moving: u64,
    /// Entries, of the room there is.
    pub entries: Usage,
    /// Of these, handshakes that are not done.
    pub pending: u64,
    /// Age of the entry that was used longest ago.
    pub oldest_ms: u64,
    /// Entries made since the program was loaded.
    pub remembered: u64,
    /// Flows there was no room for; they stayed where they were.
    pub refused: u64,
    /// Packets that went to somebody who is not their slot's target.
    pub elsewhere: u64,
}
