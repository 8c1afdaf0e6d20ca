use std::net::SocketAddr;

use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ProbeError, told::Noted};
use crate::health::TlsCheck;

/// Makes the handshake; with TLS 1.3 a server that wants another client certificate says so only with its first answer.
pub(super) async fn handshake<'a>(stream: Noted<'a>, address: SocketAddr, check: &TlsCheck) -> Result<TlsStream<Noted<'a>>, ProbeError> {
    let connector = TlsConnector::from(check.config());
    connector.connect(check.server_name(address.ip()), stream).await.map_err(ProbeError::Tls)
}
