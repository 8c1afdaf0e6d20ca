//! TLS, gRPC, datagrams, echoes, commands and several checks at once, against real servers on loopback.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

use hyper::{Response, body::Bytes};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::health::{ExecCheck, HttpCheck, StatusSet, TlsCheck, TlsSettings, UdpCheck};

const PATIENCE: Duration = Duration::from_secs(20);

fn check(kind: CheckKind, address: SocketAddr) -> Check {
    Check { timeout: PATIENCE, ..Check::new(kind, address) }
}

async fn passes(kind: CheckKind, address: SocketAddr) {
    let outcome = probe(&check(kind, address)).await;
    assert!(outcome.result.is_ok(), "{outcome:?}");
}

async fn error(kind: CheckKind, address: SocketAddr) -> ProbeError {
    probe(&check(kind, address)).await.result.expect_err("the check passed")
}

async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An authority with the certificate of a server `lb.example` / 127.0.0.1 and that of a client.
struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> Vec<u8> {
        self.ca.pem().into_bytes()
    }

    fn issue(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        (CertificateParams::new(names).unwrap().signed_by(&key, &self.ca).unwrap(), key)
    }

    /// Answers each request over TLS; `clients`: only to those who show a certificate of this authority.
    async fn serve(&self, clients: bool) -> SocketAddr {
        let (cert, key) = self.issue(&["lb.example", "127.0.0.1"]);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = [0; 1024];
                    if matches!(stream.read(&mut request).await, Ok(1..)) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well\n").await;
                        let _ = stream.read(&mut request).await;
                    }
                });
            }
        });
        address
    }
}

fn tls(settings: TlsSettings) -> TlsCheck {
    TlsCheck::new(settings).unwrap()
}

fn get() -> HttpCheck {
    HttpCheck::new("/", None, StatusSet::default()).unwrap()
}

#[tokio::test]
async fn tls_compares_name_and_authority() {
    let pki = Pki::new();
    let address = pki.serve(false).await;
    let trusting = || TlsSettings { ca: Some(pki.pem()), ..TlsSettings::default() };
    let named = |name: &str| TlsSettings { server_name: Some(name.into()), ..trusting() };
    passes(CheckKind::Tls(tls(trusting())), address).await;
    passes(CheckKind::Tls(tls(named("lb.example"))), address).await;
    passes(CheckKind::Tls(tls(TlsSettings { insecure: true, ..TlsSettings::default() })), address).await;
    let stranger = Some(Pki::new().pem());
    for bad in [named("other.example"), TlsSettings { ca: stranger, ..named("lb.example") }] {
        let error = error(CheckKind::Tls(tls(bad)), address).await;
        assert!(matches!(error, ProbeError::Tls(_)) && error.fault() == Fault::Target, "{error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn tls_tells_who_does_not_speak_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let any = || tls(TlsSettings { insecure: true, ..TlsSettings::default() });
    assert!(matches!(error(CheckKind::Tls(any()), address).await, ProbeError::Tls(_)));
    assert!(matches!(error(CheckKind::Tls(any()), closed().await).await, ProbeError::Connect(_)));
}

#[tokio::test]
async fn https_with_and_without_the_clients_certificate() {
    let pki = Pki::new();
    let (cert, key) = pki.issue(&["prober.example"]);
    let trusting = TlsSettings { ca: Some(pki.pem()), ..TlsSettings::default() };
    let identity = Some((cert.pem().into_bytes(), key.serialize_pem().into_bytes()));
    let known = TlsSettings { identity, ..trusting.clone() };
    let (open, strict) = (pki.serve(false).await, pki.serve(true).await);
    for (settings, address, expected) in [(&trusting, open, true), (&known, open, true), (&known, strict, true), (&trusting, strict, false)]
    {
        let outcome = probe(&check(CheckKind::Http(Box::new(get().over(tls(settings.clone())))), address)).await;
        assert_eq!(outcome.result.is_ok(), expected, "{settings:?}: {outcome:?}");
    }
    let debug = format!("{known:?}");
    assert!(!debug.contains("PRIVATE") && !debug.contains("45, 45"), "{debug}");
}

#[tokio::test]
async fn http_compares_the_body_and_sends_headers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
            let text = if head.contains("x-probe: mesh") { "state: well" } else { "state: unasked" };
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
            let _ = stream.read(&mut [0; 1]).await;
        }
    });
    let asking = get().header("X-Probe", "mesh").unwrap();
    passes(CheckKind::Http(Box::new(asking.clone().body_with("well"))), address).await;
    for wrong in [get().body_with("well"), asking.body_with("well.")] {
        let error = error(CheckKind::Http(Box::new(wrong)), address).await;
        assert!(matches!(&error, ProbeError::Body(_)) && error.fault() == Fault::Target, "{error:?}");
    }
}

/// A health server: `message` with its prefix, and `status` as the trailer.
async fn grpc_server(message: &'static [u8], status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let mut trailers = hyper::HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut stream = respond.send_response(response, false).unwrap();
                    stream.send_data(Bytes::from_static(message), false).unwrap();
                    stream.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn grpc_health() {
    let ask = |service: &str| CheckKind::Grpc { service: service.into() };
    let serving = grpc_server(&[0, 0, 0, 0, 2, 8, 1], "0").await;
    passes(ask(""), serving).await;
    passes(ask("shop.Cart"), serving).await;
    for (message, status, expected) in [
        (&[0, 0, 0, 0, 2, 8, 2][..], "0", "not serving"),
        (&[0, 0, 0, 0, 2, 8, 3], "0", "service unknown"),
        (&[0, 0, 0, 0, 0], "0", "health unknown"),
        (&[0, 0, 0, 0, 2, 8, 1], "13", "status 13"),
        (&[0, 0, 0, 0, 9, 8, 1], "0", "no health message"),
        (&[0; 5000], "0", "too long"),
    ] {
        let error = error(ask("x"), grpc_server(message, status).await).await;
        assert!(error.to_string().contains(expected) && error.fault() == Fault::Target, "{error}");
    }
}

#[tokio::test]
async fn grpc_tells_who_does_not_speak_it_or_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ask = || CheckKind::Grpc { service: String::new() };
    let mute = Check { timeout: Duration::from_millis(100), ..check(ask(), address) };
    assert!(matches!(probe(&mute).await.result, Err(ProbeError::Timeout(_))));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    assert!(matches!(error(ask(), address).await, ProbeError::Grpc(_)));
}

#[tokio::test]
async fn udp_compares_the_answer() {
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(local).await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 1024];
            while let Ok((n, from)) = server.recv_from(&mut buf).await {
                let _ = server.send_to(&[b"re:", &buf[..n]].concat(), from).await;
            }
        });
        let ask = |expect: &str| CheckKind::Udp(UdpCheck { send: b"ping".into(), expect: expect.into() });
        passes(ask(""), address).await;
        passes(ask("re:ping"), address).await;
        let error = error(ask("pong"), address).await;
        assert!(matches!(error, ProbeError::Answer(_)) && error.fault() == Fault::Target, "{error:?}");
    }
}

#[tokio::test]
async fn udp_tells_a_closed_port_from_silence() {
    let ask = || CheckKind::Udp(UdpCheck { send: b"ping".into(), expect: Vec::new() });
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let outcome = probe(&Check { timeout: Duration::from_millis(100), ..check(ask(), address) }).await;
    assert!(matches!(outcome.result, Err(ProbeError::Timeout(_))), "{outcome:?}");
    drop(silent);
    let error = error(ask(), address).await;
    assert!(matches!(&error, ProbeError::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused), "{error:?}");
}

/// Raw sockets need a capability that a test may lack; then the probe has to say that the fault is ours.
#[tokio::test]
async fn icmp_echo_of_both_families() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let outcome = probe(&check(CheckKind::Icmp, SocketAddr::new(ip, 0))).await;
        if nix::unistd::geteuid().is_root() {
            assert!(outcome.result.is_ok(), "{ip}: {outcome:?}");
        } else if let Err(error) = outcome.result {
            assert_eq!(error.fault(), Fault::Own, "{error:?}");
        }
    }
}

fn exec(program: &str, args: &[&str]) -> CheckKind {
    CheckKind::Exec(ExecCheck { program: program.into(), args: args.iter().map(|a| (*a).to_owned()).collect() })
}

#[tokio::test]
async fn exec_judges_by_status_and_tells_the_complaint() {
    let address = SocketAddr::from(([192, 0, 2, 7], 8080));
    passes(exec("/bin/sh", &["-c", "[ $MESH_ADDRESS = 192.0.2.7 ] && [ $MESH_PORT = 8080 ] && [ -z \"$HOME\" ]"]), address).await;
    for (command, expected) in [
        ("echo no disk >&2; echo more >&2; exit 3", "the command ended with status 3: no disk"),
        ("exit 1", "the command ended with status 1"),
        ("kill -9 $$", "the command was killed by signal 9"),
        (
            "i=0; while [ $i -lt 3000 ]; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa >&2; i=$((i+1)); done; exit 2",
            "ended with status 2: aaaa",
        ),
    ] {
        let error = error(exec("/bin/sh", &["-c", command]), address).await;
        assert!(error.to_string().contains(expected) && error.fault() == Fault::Target, "{error}");
    }
    let error = error(exec("/nowhere/check", &[]), address).await;
    assert!(error.to_string().contains("can't be started"), "{error}");
}

#[tokio::test]
async fn exec_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!("sleep 600 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let kind = exec("/bin/sh", &["-c", &script]);
    let hanging = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // However slow this machine is, the command has begun when the check is dropped.
    let asked = check(kind, closed().await);
    tokio::select! {
        outcome = probe(&asked) => panic!("{outcome:?}"),
        () = hanging => {}
    }
    let pids = std::fs::read_to_string(&file).unwrap();
    for pid in pids.split_whitespace() {
        let deadline = Instant::now() + PATIENCE;
        while alive(pid) {
            assert!(Instant::now() < deadline, "{pid} is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

#[tokio::test]
async fn exec_times_out() {
    let check = Check { timeout: Duration::from_millis(100), ..check(exec("/bin/sleep", &["600"]), closed().await) };
    assert!(matches!(probe(&check).await.result, Err(ProbeError::Timeout(_))));
}

#[tokio::test]
async fn several_checks_together() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (open, shut) = (listener.local_addr().unwrap(), closed().await);
    let part = |port| Part { kind: CheckKind::Tcp, port };
    let (good, bad) = (|| part(None), || part(Some(shut.port())));
    for (kind, expected) in [
        (CheckKind::All(vec![good(), good()]), true),
        (CheckKind::All(vec![good(), bad()]), false),
        (CheckKind::Any(vec![bad(), good()]), true),
        (CheckKind::Any(vec![bad(), bad()]), false),
        (CheckKind::All(vec![good(), Part { kind: CheckKind::Any(vec![bad(), good()]), port: None }]), true),
        (CheckKind::Any(vec![bad(), Part { kind: CheckKind::All(vec![good(), bad()]), port: None }]), false),
    ] {
        let outcome = probe(&check(kind.clone(), open)).await;
        assert_eq!(outcome.result.is_ok(), expected, "{kind}: {outcome:?}");
        if let Err(error) = outcome.result {
            assert!(error.to_string().starts_with("tcp: connecting failed") || error.to_string().starts_with('('), "{error}");
            assert_eq!(error.fault(), Fault::Target);
        }
    }
}
