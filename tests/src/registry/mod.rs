//! Servers that backends are registered at, and those who register.

pub mod between;
pub mod consul;
pub mod etcd;
mod ground;
pub mod knot;
pub mod web;
pub mod zookeeper;

pub use ground::Ground;
