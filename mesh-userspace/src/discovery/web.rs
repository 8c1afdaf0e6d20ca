//! HTTP/1.1 to a source, plain or over TLS: one connection per request, bounded in time and size.

mod access;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

pub(super) use access::secret;
pub use access::{Access, Login};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::Failure;

/// Of a body no more than this is taken: some hundred thousand backends.
const BODY_LIMIT: usize = 32 << 20;
/// A peer that went away without a word is noticed after 10 s and three probes of 5 s.
const IDLE_SECONDS: u32 = 10;
const PROBE_SECONDS: u32 = 5;
const PROBES: u32 = 3;

/// `http://HOST[:PORT][/PATH][?QUERY]`, or the same with `https`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpUrl {
    tls: bool,
    access: Arc<Access>,
    host: String,
    port: u16,
    /// From the first `/` on, with the query.
    path: String,
}

/// Why a text is no such URL.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadUrl {
    #[error("`{0}` is no URL")]
    Text(String),
    #[error("`{0}` is neither http nor https")]
    Scheme(String),
    #[error("`{0}` has a name or a password: they have keys of their own")]
    UserInfo(String),
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl HttpUrl {
    /// Whether it is asked over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The same, asked by this who.
    pub fn with_access(self, access: Arc<Access>) -> Self {
        Self { access, ..self }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// The path with this behind it, as part of the path or as a further one of its query.
    pub(super) fn with(&self, path: &str, query: &[(&str, &str)]) -> String {
        let (mine, mut all) = match self.path.split_once('?') {
            Some((path, query)) => (path, query.to_owned()),
            None => (self.path.as_str(), String::new()),
        };
        for (key, value) in query {
            let separator = if all.is_empty() { "" } else { "&" };
            all.push_str(&format!("{separator}{key}={}", encode(value)));
        }
        let path = if path.is_empty() { mine.to_owned() } else { format!("{}{path}", mine.trim_end_matches('/')) };
        if all.is_empty() { path } else { format!("{path}?{all}") }
    }

    /// Asks and reads the whole answer within `limit`.
    pub(super) async fn get(&self, path: &str, headers: &[(HeaderName, String)], limit: Duration) -> Result<Reply, Failure> {
        let exchange = async {
            let response = self.send(Method::GET, path, headers, Bytes::new()).await?;
            self.whole(response).await
        };
        self.within(limit, exchange).await
    }

    /// The same with a JSON body.
    pub(super) async fn post(&self, path: &str, headers: &[(HeaderName, String)], body: String, limit: Duration) -> Result<Reply, Failure> {
        let exchange = async {
            let response = self.send(Method::POST, path, headers, Bytes::from(body)).await?;
            self.whole(response).await
        };
        self.within(limit, exchange).await
    }

    /// The same; the answer's head within `limit`, and its body as it comes.
    pub(super) async fn stream(
        &self,
        path: &str,
        headers: &[(HeaderName, String)],
        body: String,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        self.within(limit, self.send(Method::POST, path, headers, Bytes::from(body))).await
    }

    async fn within<T>(&self, limit: Duration, exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = || Failure::Unreachable(format!("{}:{} did not answer within {limit:?}", self.host, self.port));
        timeout(limit, exchange).await.unwrap_or_else(|_| Err(late()))
    }

    async fn send(&self, method: Method, path: &str, headers: &[(HeaderName, String)], body: Bytes) -> Result<Response<Incoming>, Failure> {
        let unreachable = |e: &dyn fmt::Display| Failure::Unreachable(format!("{}:{}: {e}", self.host, self.port));
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|e| unreachable(&e))?;
        keep_alive(&stream).map_err(|e| unreachable(&e))?;
        // A connection ends with the response or with whoever waits for it, for then nothing holds the sender any more.
        let mut sender = if self.tls {
            let check = self.access.tls(host)?;
            let name = ServerName::try_from(self.access.server_name.clone().unwrap_or_else(|| host.to_owned()));
            let name = name.map_err(|e| Failure::Unreachable(e.to_string()))?;
            let stream = TlsConnector::from(check.config()).connect(name, stream).await.map_err(|e| unreachable(&e))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
            tokio::spawn(connection);
            sender
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
            tokio::spawn(connection);
            sender
        };
        let request = self.request(method, path, headers, body).map_err(|e| Failure::Bad(e.to_string()))?;
        sender.send_request(request).await.map_err(|e| unreachable(&cause(&e)))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, HeaderValue::from_str(value)?);
        }
        request
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(USER_AGENT, concat!("mesh/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Reply, Failure> {
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Failure::Unreachable(format!("the answer broke off: {}", cause(&e))))?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if bytes.len() > BODY_LIMIT {
                return Err(Failure::Bad(format!("the answer is longer than {BODY_LIMIT} bytes")));
            }
        }
        Ok(Reply { status: head.status, headers: head.headers, body: bytes.into() })
    }
}

impl Reply {
    /// The body of a success; anything else says that it could not be had.
    pub fn success(&self) -> Result<&Bytes, Failure> {
        if self.status == StatusCode::OK {
            return Ok(&self.body);
        }
        let start: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        let said = start.lines().next().map(|line| format!(": {line}")).unwrap_or_default();
        Err(Failure::Unreachable(format!("the server answers {}{said}", self.status)))
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name)?.to_str().ok().map(str::to_owned)
    }
}

/// So that a peer that is gone is noticed while nothing is said.
pub(super) fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)
}

/// The cause says more than the wrapper around it does.
pub(super) fn cause(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// Leaves only the unreserved characters of RFC 3986 section 2.3 as they are.
pub(super) fn encode(part: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(one).collect()
}

impl FromStr for HttpUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl::Text(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(BadUrl::Scheme(text.to_owned())),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') {
            return Err(BadUrl::UserInfo(text.to_owned()));
        }
        let port = match authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':')) {
            None => Some(usual_port(tls)),
            Some(port) => port.parse().ok().filter(|port| *port != 0),
        };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Self { tls, access: Arc::default(), host: authority.host().to_owned(), port: port.ok_or_else(bad)?, path: path.to_owned() })
    }
}

fn usual_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = if self.port == usual_port(self.tls) { String::new() } else { format!(":{}", self.port) };
        write!(f, "http{}://{}{port}{}", if self.tls { "s" } else { "" }, self.host, if self.path == "/" { "" } else { &self.path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("http://a.test", "http://a.test"),
            ("http://a.test:8500/", "http://a.test:8500"),
            ("http://[2001:db8::1]:80/x?y=1", "http://[2001:db8::1]/x?y=1"),
            ("https://a.test:443/", "https://a.test"),
            ("https://a.test:80/b", "https://a.test:80/b"),
        ] {
            assert_eq!(text.parse::<HttpUrl>().map(|u| u.to_string()), Ok(shown.to_owned()));
        }
        for bad in
            ["", "a.test", "/x", "ftp://a.test", "http://", "http://a.test:0", "http://a.test:99999", "http://u:p@a.test", "http://a b"]
        {
            assert!(bad.parse::<HttpUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_and_queries_are_joined() {
        let url = |text: &str| text.parse::<HttpUrl>().unwrap();
        assert_eq!(url("http://a.test").with("", &[]), "/");
        assert_eq!(url("http://a.test/b/").with("/v1/c", &[("d", "e f"), ("g", "1")]), "/b/v1/c?d=e%20f&g=1");
        assert_eq!(url("http://a.test/b?x=1").with("", &[("d", "2")]), "/b?x=1&d=2");
    }
}
