//! A server that says who it is: HTTP/1.1 with keep-alive, and UDP on the same port.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// Connections that may wait to be accepted, as many as the kernel takes by default. With the 128 of the standard library a server that gets ten thousand
/// connections a second must never be kept waiting for 13 ms: else the kernel drops SYNs.
const BACKLOG: u32 = 4096;

/// Serves at all of these until the process ends. `GET /` answers `name`; `GET /bytes/N` answers N bytes; a datagram is answered by `name`, a
/// space and what it held.
pub async fn serve(name: &str, listen: &[SocketAddr]) -> Result<()> {
    try_join_all(listen.iter().map(|&address| serve_at(name, address))).await.map(drop)
}

async fn serve_at(name: &str, listen: SocketAddr) -> Result<()> {
    let tcp = listener(listen).with_context(|| format!("failed to listen on {listen}"))?;
    let udp = UdpSocket::bind(listen).await.with_context(|| format!("failed to bind UDP {listen}"))?;
    tokio::try_join!(serve_http(name, tcp), serve_udp(name, udp))?;
    Ok(())
}

fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve_http(name: &str, listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // A client that was gone before it was accepted is none of our concern.
            Err(_) => continue,
        };
        let name = name.to_owned();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let body = body(&name, &request);
                async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn body(name: &str, request: &Request<hyper::body::Incoming>) -> Bytes {
    match request.uri().path().strip_prefix("/bytes/").and_then(|n| n.parse::<usize>().ok()) {
        Some(n) => vec![b'x'; n.min(64 << 20)].into(),
        None => name.to_owned().into(),
    }
}

async fn serve_udp(name: &str, socket: UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error for an earlier answer shows up here; the next datagram is what matters.
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = [name.as_bytes(), b" ", &buffer[..n]].concat();
        let _ = socket.send_to(&answer, from).await;
    }
}
