use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Place, ProbeError, blame};

/// Connects.
///
/// The prober closes first, thousands of times a second: closed in order, every check would leave a socket in TIME_WAIT for a minute,
/// and local ports would run out. With a linger time of zero the close is a reset, which leaves nothing on either side.
pub(super) async fn connect(place: Place) -> Result<TcpStream, ProbeError> {
    let socket = open(place.address, place.source).map_err(ProbeError::Local)?;
    socket.connect(place.address).await.map_err(blame)
}

fn open(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_zero_linger()?;
    if let Some(source) = source {
        // The port is then chosen at connect, so that one port serves many targets.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}
