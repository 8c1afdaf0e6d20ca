//! mesh's daemon and CLI.

pub mod model;
