//! What mesh's proofs are made of: fixtures, namespaces, servers and clients.

pub mod bench;
pub mod daemon;
pub mod demo;
pub mod deploy;
pub mod fixture;
pub mod fuzz;
pub mod kube;
pub mod mapped;
pub mod netns;
pub mod peer;
pub mod registry;
pub mod sim;
pub mod stage;
pub mod world;
