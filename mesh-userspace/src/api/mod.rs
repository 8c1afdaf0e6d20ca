//! HTTP/JSON over a unix socket: what is asked and answered, who may ask, and both ends.

mod backend_ref;
mod client;
mod paths;
mod peer;
mod server;
mod socket;

pub use backend_ref::BackendRef;
pub use client::{Client, ClientError, EventStream};
pub use peer::Access;
pub use server::{Endpoints, Server};
pub use socket::BindError;

use serde::{Deserialize, Serialize};

/// Body of a request to change a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightBody {
    pub weight: u16,
}

/// Which events are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only events after this number; 0 = all that are kept.
    #[serde(default)]
    pub since: u64,
    /// Answer with one event per line, and go on as events come.
    #[serde(default)]
    pub follow: bool,
}

#[cfg(test)]
pub(crate) mod tests;
