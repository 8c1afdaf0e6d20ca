//! Other nodes that balance the same services.

pub mod datagram;
mod gossip;
pub mod ledger;

pub use gossip::{Counts, Gossip, open};
