use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ProbeError, holds};
use crate::health::{HttpCheck, Reported, check::parse_load};

/// Of a body no more than this is read: an answer that goes on is an answer.
const BODY_LIMIT: usize = 64 * 1024;

/// Sends the GET and reads the answer, and the load that it reports.
///
/// The server is not asked to close: whoever closes first keeps the socket in TIME_WAIT, and the reset that ends a check spares both.
pub(super) async fn get<S>(stream: S, address: SocketAddr, check: &HttpCheck) -> Result<Option<Reported>, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = request(address, check)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        judge(response, check).await
    };
    tokio::pin!(connection, exchange);
    // The connection is what moves the bytes of the exchange. When it ends first, the exchange has all it will ever have.
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

fn request(address: SocketAddr, check: &HttpCheck) -> Result<Request<Empty<Bytes>>, ProbeError> {
    let host = match check.host() {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(&address.to_string()).map_err(|e| ProbeError::Http(e.to_string()))?,
    };
    let mut request = Request::get(check.path().clone())
        .header(HOST, host)
        .header(USER_AGENT, concat!("mesh/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(|e| ProbeError::Http(e.to_string()))?;
    request.headers_mut().extend(check.headers().clone());
    Ok(request)
}

async fn judge(response: Response<Incoming>, check: &HttpCheck) -> Result<Option<Reported>, ProbeError> {
    let got = response.status().as_u16();
    if !check.expect().contains(got) {
        return Err(ProbeError::Status { got, expected: check.expect().to_string() });
    }
    let load = check.load().map(|name| reported(response.headers(), name));
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.len() < BODY_LIMIT {
        let Some(frame) = body.frame().await else { break };
        read.extend_from_slice(frame.map_err(broken)?.data_ref().map_or(&[], Bytes::as_ref));
    }
    match check.body() {
        Some(wanted) if !holds(&read, wanted.as_bytes()) => Err(ProbeError::Body(wanted.to_owned())),
        _ => Ok(load),
    }
}

fn reported(headers: &HeaderMap, name: &HeaderName) -> Reported {
    let value = headers.get(name).ok_or_else(|| format!("its answers have no header `{name}`"))?;
    parse_load(value.to_str().map_err(|_| format!("its header `{name}` is no text"))?).map_err(|e| format!("its header `{name}`: {e}"))
}

/// The cause says more than the wrapper around it does.
fn broken(error: hyper::Error) -> ProbeError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    ProbeError::Http(format!("{error}{cause}"))
}
