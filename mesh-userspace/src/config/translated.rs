//! Translation of source addresses, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{forms::PortsForm, placed::Placed, words::Span};

/// Translation of source addresses.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Addresses that translated flows come from, which have to lead to this node. Of several, each flow has one by its hash: each more is room for as many
    /// flows to each backend as there are ports. Default: the node's own address towards each backend.
    #[serde(default)]
    pub sources: Vec<Placed<String>>,
    /// Source ports of translated flows: `FIRST-LAST`, or a list of up to four such ranges. Default: the largest region from 1024 on that is not in
    /// `ip_local_port_range`.
    pub ports: Option<Placed<PortsForm>>,
    /// When entries expire.
    #[serde(default)]
    pub timeouts: NatTimeouts,
}

/// Idle times after which a translated flow is forgotten.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatTimeouts {
    /// No reply was seen. Default 15s.
    pub half_open: Option<Placed<Span>>,
    /// Established TCP. Default 2h5m, written `7500s`.
    pub established: Option<Placed<Span>>,
    /// TCP that one side has closed. Default 4m.
    pub closing: Option<Placed<Span>>,
    /// TCP that both sides have closed, or one has reset. Default 10s.
    pub closed: Option<Placed<Span>>,
    /// UDP. Default 3m.
    pub udp: Option<Placed<Span>>,
}
