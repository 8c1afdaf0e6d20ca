//! Real clients and servers, small enough to be static and to run in a VM.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

mod held;
mod load;
mod quic;
mod serve;

pub use held::{Held, HeldReport};
pub use load::{Answer, Load, ask_udp, get};
pub use quic::{QuicHeld, QuicServer, ServerId};
pub use serve::serve;

/// No address in particular, of the family of this one.
fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
