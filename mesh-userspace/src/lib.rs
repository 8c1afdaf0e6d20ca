//! mesh's daemon and CLI.

pub mod config;
pub mod dataplane;
pub mod health;
pub mod model;
