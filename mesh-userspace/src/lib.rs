//! mesh's daemon and CLI.

pub mod config;
pub mod control;
pub mod dataplane;
pub mod discovery;
pub mod events;
pub mod health;
pub mod model;
pub mod state;
pub mod table;
