//! The daemon: one loop that owns the state.

mod error;
mod handle;
pub mod view;

pub use error::ControlError;
pub use handle::{BackendSpec, Command, Handle, ServiceSpec};
