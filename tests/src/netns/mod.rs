//! Namespaces with real links between them, made for one test and gone with it.

mod bind;
mod fabric;
mod link;
mod namespace;
pub mod xdp_pass;

pub use bind::when_free;
pub use fabric::{Fabric, Host, V4_PREFIX, V6_PREFIX};
pub use link::tx_checksum_off;
pub use namespace::{Namespace, remove_stale, run};
