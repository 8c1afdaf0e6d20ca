use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

use super::{Place, ProbeError, blame, told::Noted};

/// Connects.
///
/// The prober closes first, thousands of times a second: closed in order, every check would leave a socket in TIME_WAIT for a minute,
/// and local ports would run out. With a linger time of zero the close is a reset, which leaves nothing on either side.
pub(super) async fn connect(place: Place<'_>) -> Result<Noted<'_>, ProbeError> {
    let socket = open(place).map_err(ProbeError::Local)?;
    place.told.now();
    let stream = socket.connect(place.address).await.map_err(blame)?;
    Ok(Noted { stream, told: place.told })
}

fn open(place: Place<'_>) -> io::Result<TcpSocket> {
    let v4 = place.address.is_ipv4();
    let socket = if v4 { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_zero_linger()?;
    place.lead(&socket)?;
    if place.tag != 0 {
        // Backends that are asked at one VIP are told apart by our port alone, so each check has one of its own.
        let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(SocketAddr::new(place.source.unwrap_or(any), 0))?;
    } else if let Some(source) = place.source {
        // The port is then chosen at connect, so that one port serves many targets.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}
