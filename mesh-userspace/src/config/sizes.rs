//! How much the kernel's maps are to hold, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::placed::Placed;

/// How much the kernel's maps hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Services. Default 1024.
    pub services: Option<Placed<u32>>,
    /// Slots of all tables together, 8 bytes each. Default 1048576.
    pub slots: Option<Placed<u32>>,
    /// Backends of all services together, 64 bytes each. Default 16384.
    pub backends: Option<Placed<u32>>,
    /// Translated flows at once, 72 bytes and more each. Default 262144.
    pub nat_flows: Option<Placed<u32>>,
    /// Flows that the ledger has room for, 16 bytes each. Default 65536.
    pub ledger: Option<Placed<u32>>,
    /// Flows (but `nat`'s) and sources that are remembered for schedulers and affinity, 64 bytes each. Default 65536.
    pub flows: Option<Placed<u32>>,
    /// Checks of backends that run at once, 16 to 4096; the others wait their turn, which is no failure of theirs. Those that are made because of a doubt go
    /// first, and are half of them at most. Default: a third of the files that the daemon may open, which is the most in any case.
    pub checks: Option<Placed<u32>>,
}
