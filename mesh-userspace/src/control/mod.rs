//! The daemon: one loop that owns the state.
//!
//! ```text
//! reload, endpoints, health, next hops, orders -> core (pure) -> plan -> data plane
//!                                                  core -> wanted -> monitor, next hops, announcements, watch of files
//! ```

mod changes;
mod core;
mod error;
mod handle;
mod merge;
mod orders;
#[cfg(test)]
mod tests;
pub mod view;

pub use error::ControlError;
pub use handle::{BackendSpec, Command, Handle, ServiceSpec};

pub use self::core::{Adopted, Core, Wanted};
