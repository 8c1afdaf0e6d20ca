//! Connections that are held while everything changes around them.

mod world;

pub use world::{Churn, Way, unbroken};
