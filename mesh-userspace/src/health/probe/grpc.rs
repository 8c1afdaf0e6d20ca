//! The health protocol of gRPC, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>: one message each way over HTTP/2.

use std::net::SocketAddr;

use futures_util::FutureExt;
use h2::{
    RecvStream,
    client::{SendRequest, handshake},
};
use hyper::{HeaderMap, Request, Response, body::Bytes};

use super::{ProbeError, told::Noted};

/// An answer has a few bytes.
const ANSWER_LIMIT: usize = 4096;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Asks whether `service` serves; empty = the server as a whole.
pub(super) async fn check(stream: Noted<'_>, address: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let (sender, connection) = handshake(stream).await.map_err(broken)?;
    let exchange = exchange(sender, address, service);
    tokio::pin!(connection, exchange);
    // The connection is what moves the bytes of the exchange. When it ends first, the exchange has all it will ever have, though it may not be told so.
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = &mut connection => exchange.now_or_never().unwrap_or_else(|| match ended {
            Err(error) => Err(broken(error)),
            Ok(()) => Err(ProbeError::Grpc("the connection was closed before the answer".into())),
        }),
    }
}

async fn exchange(sender: SendRequest<Bytes>, address: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("mesh/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|e| ProbeError::Grpc(e.to_string()))?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut body) = sender.send_request(request, false).map_err(broken)?;
    body.send_data(question(service), true).map_err(broken)?;
    judge(response.await.map_err(broken)?).await
}

async fn judge(response: Response<RecvStream>) -> Result<(), ProbeError> {
    let status = response.status();
    if status != 200 {
        return Err(ProbeError::Grpc(format!("HTTP status {}", status.as_u16())));
    }
    told_status(response.headers())?;
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(broken)?;
        // A window that is not given back is closed in the end.
        let _ = body.flow_control().release_capacity(chunk.len());
        answer.extend_from_slice(&chunk);
        if answer.len() > ANSWER_LIMIT {
            return Err(ProbeError::Grpc("the answer is too long for a health check".into()));
        }
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
    if !told_status(&trailers)? {
        return Err(ProbeError::Grpc("the answer has no grpc-status".into()));
    }
    match serving_status(&answer) {
        Some(SERVING) => Ok(()),
        Some(0) => Err(ProbeError::Grpc("health unknown".into())),
        Some(2) => Err(ProbeError::Grpc("not serving".into())),
        Some(3) => Err(ProbeError::Grpc("service unknown".into())),
        Some(other) => Err(ProbeError::Grpc(format!("health {other}"))),
        None => Err(ProbeError::Grpc("the answer is no health message".into())),
    }
}

/// Whether `grpc-status` is there; an error if it tells of one.
fn told_status(headers: &HeaderMap) -> Result<bool, ProbeError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    match text("grpc-status") {
        None => Ok(false),
        Some("0") => Ok(true),
        Some(code) => Err(ProbeError::Grpc(format!("status {code}: {}", text("grpc-message").unwrap_or("no message")))),
    }
}

/// `HealthCheckRequest { string service = 1 }` behind its prefix: not compressed, length.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

/// `HealthCheckResponse { ServingStatus status = 1 }`; a field at its default is not sent.
fn serving_status(answer: &[u8]) -> Option<u64> {
    let (prefix, mut rest) = answer.split_at_checked(5)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || rest.len() != usize::try_from(length).ok()? {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut rest)?,
            (_, 0) => drop(take_varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn broken(error: h2::Error) -> ProbeError {
    ProbeError::Grpc(format!("no HTTP/2 answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn answers() {
        let rows: [(&[u8], Option<u64>); 9] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 3, 8, 0x80, 1], Some(128)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 7, 7, 8, 2], Some(2)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 2, 0x12, 9], None),
            (&[0, 0], None),
        ];
        for (bytes, expected) in rows {
            assert_eq!(serving_status(bytes), expected, "{bytes:?}");
        }
    }
}
