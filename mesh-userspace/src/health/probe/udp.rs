use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{Place, ProbeError, blame, holds};
use crate::health::UdpCheck;

/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// Sends one datagram and waits for one. A port that nobody listens on is told by ICMP, and comes as a refused connection.
pub(super) async fn ask(place: Place<'_>, check: &UdpCheck) -> Result<(), ProbeError> {
    let any = if place.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = SocketAddr::new(place.source.unwrap_or(any), 0);
    let socket = UdpSocket::bind(source).await.map_err(ProbeError::Local)?;
    place.lead(&socket).map_err(ProbeError::Local)?;
    // A connected socket hears nobody else.
    socket.connect(place.address).await.map_err(blame)?;
    place.told.now();
    socket.send(&check.send).await.map_err(blame)?;
    let mut answer = vec![0; DATAGRAM];
    let length = socket.recv(&mut answer).await.map_err(blame)?;
    let answer = answer.get(..length).unwrap_or_default();
    if holds(answer, &check.expect) { Ok(()) } else { Err(ProbeError::Answer(format!("{length} bytes without what was expected"))) }
}
