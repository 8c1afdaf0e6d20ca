//! The engine over tables of the host's: what becomes of a packet, and of a flow.

mod decide;
mod handshake;
mod nat;
mod world;
