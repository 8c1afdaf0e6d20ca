//! mesh's daemon and CLI.

pub mod dataplane;
pub mod model;
