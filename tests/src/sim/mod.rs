//! Failure detection without a network: false alarms and times to detect, by the project's own rules.

pub mod draw;
pub mod fleet;
pub mod noise;
pub mod rules;
