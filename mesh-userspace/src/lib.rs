//! mesh's daemon and CLI.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod discovery;
pub mod events;
pub mod flow_log;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod peers;
pub mod plan;
pub mod priority;
pub mod privilege;
pub mod state;
pub mod table;
pub mod weights;
