//! Every kind of check against every kind of server, on loopback.

use std::{future::Future, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::health::{HttpCheck, StatusSet};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that does `serve` with each connection.
async fn server<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads the head of a request.
async fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut buf) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buf).await {
            Ok(n) if n > 0 => head.extend_from_slice(&buf[..n]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Accepts and never says a word.
async fn silent(stream: TcpStream) {
    std::future::pending::<()>().await;
    drop(stream);
}

/// A server that answers each request with `answer` and leaves the connection open.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Vec<u8> = answer.into();
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await
}

/// An address that nobody listens on.
async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn tcp(address: SocketAddr) -> Check {
    Check { timeout: Duration::from_secs(20), ..Check::new(CheckKind::Tcp, address) }
}

fn http(address: SocketAddr) -> Check {
    let get = HttpCheck::new("/health?full=1", None, StatusSet::default()).unwrap();
    Check { kind: CheckKind::Http(Box::new(get)), ..tcp(address) }
}

async fn error(check: Check) -> ProbeError {
    probe(&check).await.result.expect_err("the check passed")
}

#[tokio::test]
async fn tcp_passes_when_accepted_even_by_a_silent_server() {
    let address = server(silent).await;
    let outcome = probe(&tcp(address)).await;
    assert!(outcome.result.is_ok(), "{outcome:?}");
    assert!(outcome.elapsed > Duration::ZERO && outcome.elapsed < Duration::from_secs(20));
}

#[tokio::test]
async fn tcp_over_ipv6_and_from_a_chosen_source() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    assert!(probe(&tcp(listener.local_addr().unwrap())).await.result.is_ok());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let check = Check { source: Some([127, 0, 0, 77].into()), ..tcp(listener.local_addr().unwrap()) };
    assert!(probe(&check).await.result.is_ok());
    assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.77");
}

#[tokio::test]
async fn a_refused_connection_is_the_targets_fault() {
    for check in [tcp(closed().await), http(closed().await)] {
        let error = error(check).await;
        assert!(matches!(&error, ProbeError::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused), "{error:?}");
        assert_eq!(error.fault(), Fault::Target);
    }
}

#[tokio::test]
async fn a_source_address_that_is_not_ours_is_our_own_fault() {
    let check = Check { source: Some([192, 0, 2, 1].into()), ..tcp(closed().await) };
    let error = error(check).await;
    assert_eq!(error.fault(), Fault::Own, "{error:?}");
    assert!(error.to_string().contains("source address"), "{error}");
}

/// A listener whose queue is full drops SYNs: what a dead host looks like from here.
#[tokio::test]
async fn silence_on_connect_times_out() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        held.push(stream.unwrap());
        assert!(held.len() < 64, "the queue never fills");
    }
    let check = Check { timeout: Duration::from_millis(200), ..tcp(address) };
    let outcome = probe(&check).await;
    assert!(matches!(outcome.result, Err(ProbeError::Timeout(_))), "{outcome:?}");
    assert!(outcome.elapsed >= check.timeout);
}

/// A connection that is closed by a reset leaves the server's socket with an error, and nothing in TIME_WAIT.
#[tokio::test]
async fn closes_without_leaving_anything_in_time_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (check, answer) in [(tcp(address), None), (http(address), Some(OK))] {
        let serve = async {
            let (mut stream, peer) = listener.accept().await.unwrap();
            if let Some(answer) = answer {
                head(&mut stream).await;
                stream.write_all(answer).await.unwrap();
            }
            (stream.read(&mut [0; 1]).await.unwrap_err().kind(), peer.port())
        };
        let (outcome, (end, port)) = tokio::join!(probe(&check), serve);
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!(end, io::ErrorKind::ConnectionReset);
        let port = format!(":{port:04X} ");
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let left: Vec<_> = table.lines().filter(|l| l.contains(&port)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn http_asks_what_it_should() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(head(&mut stream).await).unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    assert!(probe(&http(address)).await.result.is_ok());
    let request = told.recv().await.unwrap().to_lowercase();
    assert!(request.starts_with("get /health?full=1 http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {address}\r\n")), "{request}");
    assert!(!request.contains("\r\nconnection:"), "{request}");

    let named = HttpCheck::new("/", Some("shop.example"), StatusSet::default()).unwrap();
    assert!(probe(&Check { kind: CheckKind::Http(Box::new(named)), ..http(address) }).await.result.is_ok());
    assert!(told.recv().await.unwrap().to_lowercase().contains("\r\nhost: shop.example\r\n"));
}

#[tokio::test]
async fn http_passes_on_every_form_of_body() {
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 300_000]].concat();
    let answers: [&[u8]; 5] = [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        &endless,
    ];
    for answer in answers {
        let outcome = probe(&http(answering(answer).await)).await;
        assert!(outcome.result.is_ok(), "{:?}: {outcome:?}", String::from_utf8_lossy(&answer[..20]));
    }
}

#[tokio::test]
async fn http_passes_on_a_body_that_ends_with_the_connection() {
    let address = server(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    })
    .await;
    let outcome = probe(&http(address)).await;
    assert!(outcome.result.is_ok(), "{outcome:?}");
}

#[tokio::test]
async fn http_tells_the_wrong_status() {
    let address = answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let error = error(http(address)).await;
    assert!(matches!(error, ProbeError::Status { got: 503, .. }), "{error:?}");
    assert_eq!(error.to_string(), "status 503, expected 200-399");
    let only = HttpCheck::new("/", None, "503".parse().unwrap()).unwrap();
    assert!(probe(&Check { kind: CheckKind::Http(Box::new(only)), ..http(address) }).await.result.is_ok());
}

#[tokio::test]
async fn http_tells_what_is_no_answer() {
    let answers = ["SSH-2.0-OpenSSH_9.2\r\n", "\0\x01\x02\x03\r\n\r\n", "HTTP/9.9 200\r\n\r\n", "HTTP/1.1 abc\r\n\r\n"];
    for answer in answers {
        let error = error(http(answering(answer).await)).await;
        assert!(matches!(error, ProbeError::Http(_)), "{answer:?}: {error:?}");
    }
}

#[tokio::test]
async fn http_tells_a_connection_that_ends_early() {
    let cut: [&[u8]; 4] = [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Len", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"];
    for answer in cut {
        let address = server(move |mut stream| async move {
            head(&mut stream).await;
            let _ = stream.write_all(answer).await;
        })
        .await;
        let error = error(http(address)).await;
        assert!(matches!(error, ProbeError::Http(_)), "{:?}: {error:?}", String::from_utf8_lossy(answer));
    }
}

#[tokio::test]
async fn http_tells_a_reset() {
    let address = server(|mut stream| async move {
        head(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let error = error(http(address)).await;
    assert!(error.to_string().contains("reset"), "{error}");
}

#[tokio::test]
async fn http_times_out_on_silence_and_on_an_answer_that_is_too_slow() {
    let mute = server(silent).await;
    let slow = server(|mut stream| async move {
        head(&mut stream).await;
        for byte in OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    })
    .await;
    for address in [mute, slow] {
        let check = Check { timeout: Duration::from_millis(150), ..http(address) };
        let outcome = probe(&check).await;
        assert!(matches!(outcome.result, Err(ProbeError::Timeout(_))), "{outcome:?}");
        assert!(outcome.elapsed >= check.timeout);
    }
}
