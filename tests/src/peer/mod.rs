//! Real clients and servers, small enough to be static and to run in a VM.

mod held;
mod load;
mod quic;
mod serve;

pub use held::{Held, HeldReport};
pub use load::{Answer, Load, ask_udp, get};
pub use quic::{QuicHeld, QuicServer, ServerId};
pub use serve::serve;
