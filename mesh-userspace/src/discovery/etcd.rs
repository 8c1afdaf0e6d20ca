//! Endpoints from etcd: the keys under a prefix, by the JSON gateway of the v3 API: a range, and a watch from its revision on.

use std::{collections::BTreeSet, fmt, time::Duration};

use data_encoding::BASE64;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    header::{AUTHORIZATION, HeaderName},
};
use serde::{Deserialize, Deserializer, de};
use serde_json::json;

use super::{
    Failure, Fit, Outlet,
    keyed::Keyed,
    web::{HttpUrl, Login, cause, secret},
};

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdSpec {
    /// Members of the cluster, at least one; when one fails the next one is asked.
    pub urls: Vec<HttpUrl>,
    pub prefix: String,
    /// For an answer that need not be waited for.
    pub timeout: Duration,
}

/// Of a line of the watch no more than this is taken.
const LINE_LIMIT: usize = 32 << 20;

/// A prefix that is followed.
#[derive(Debug)]
pub struct EtcdSource {
    spec: EtcdSpec,
    keyed: Keyed,
    /// Which member is asked.
    member: usize,
}

type Headers = Vec<(HeaderName, String)>;

#[derive(Deserialize)]
struct Granted {
    token: String,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Header {
    /// Numbers of 64 bits are texts in this JSON.
    #[serde(deserialize_with = "number")]
    revision: i64,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Line {
    result: Option<Watched>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Watched {
    #[serde(default)]
    canceled: bool,
    /// More than 0 if the revision to begin with is compacted away.
    #[serde(default, deserialize_with = "number")]
    compact_revision: i64,
    #[serde(default)]
    cancel_reason: String,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    kv: Pair,
}

impl EtcdSource {
    pub fn new(spec: EtcdSpec, fit: Fit) -> Self {
        Self { spec, keyed: Keyed::new(fit), member: 0 }
    }

    pub(super) async fn run(&mut self, outlet: &Outlet) -> Failure {
        self.keyed.tell_all();
        loop {
            if let Err(failure) = self.follow(outlet).await {
                self.member += 1;
                return failure;
            }
        }
    }

    /// Reads all and follows changes. Ends well when what it would go on from is compacted away: then all is to be read again.
    async fn follow(&mut self, outlet: &Outlet) -> Result<(), Failure> {
        let url = self.spec.urls[self.member % self.spec.urls.len()].clone();
        let login = self.log_in(&url).await?;
        let revision = self.read_all(&url, &login).await?;
        self.keyed.tell(outlet).await;
        let create = json!({ "create_request": {
            "key": BASE64.encode(self.spec.prefix.as_bytes()),
            "range_end": BASE64.encode(&range_end(&self.spec.prefix)),
            "start_revision": (revision + 1).to_string(),
            "progress_notify": true,
        }});
        let response = url.stream(&url.with("/v3/watch", &[]), &login, create.to_string(), self.spec.timeout).await?;
        if !response.status().is_success() {
            return Err(Failure::Unreachable(format!("the watch is answered by {}", response.status())));
        }
        let mut lines = Lines { body: response.into_body(), buffer: Vec::new() };
        loop {
            let line = lines.next().await?;
            if !self.take(&line)? {
                return Ok(());
            }
            // What came along in one piece is told in one piece.
            if !lines.has_more() {
                self.keyed.tell(outlet).await;
            }
        }
    }

    /// A password is exchanged for a token that the member hands out; a token is taken as it is.
    async fn log_in(&self, url: &HttpUrl) -> Result<Headers, Failure> {
        let token = match &url.access().login {
            None => return Ok(Headers::new()),
            Some(Login::Token(file)) => secret(file)?,
            Some(Login::Password { user, file }) => {
                let request = json!({"name": user, "password": secret(file)?}).to_string();
                let reply = url.post(&url.with("/v3/auth/authenticate", &[]), &[], request, self.spec.timeout).await?;
                let granted: Granted = serde_json::from_slice(reply.success()?).map_err(|e| Failure::Bad(e.to_string()))?;
                granted.token
            }
        };
        Ok(vec![(AUTHORIZATION, token)])
    }

    /// Takes over all keys; returns the revision that they are of.
    async fn read_all(&mut self, url: &HttpUrl, login: &Headers) -> Result<i64, Failure> {
        let request = json!({
            "key": BASE64.encode(self.spec.prefix.as_bytes()),
            "range_end": BASE64.encode(&range_end(&self.spec.prefix)),
        });
        let reply = url.post(&url.with("/v3/kv/range", &[]), login, request.to_string(), self.spec.timeout).await?;
        let range: Range = serde_json::from_slice(reply.success()?).map_err(|e| Failure::Bad(e.to_string()))?;
        let mut there = BTreeSet::new();
        let pairs = range.kvs.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        for (key, value) in pairs {
            self.keyed.put(&key, &value);
            there.insert(key);
        }
        self.keyed.retain(&there);
        Ok(range.header.revision)
    }

    /// Takes in a line of the watch; false if it was the last one.
    fn take(&mut self, line: &[u8]) -> Result<bool, Failure> {
        let line: Line = serde_json::from_slice(line).map_err(|e| Failure::Bad(e.to_string()))?;
        if let Some(error) = line.error {
            return Err(Failure::Unreachable(format!("the watch failed: {error}")));
        }
        let Some(watched) = line.result else { return Err(Failure::Bad("a line of the watch says nothing".to_owned())) };
        if watched.compact_revision > 0 {
            return Ok(false);
        }
        if watched.canceled {
            return Err(Failure::Unreachable(format!("the watch was ended: {}", watched.cancel_reason)));
        }
        for event in &watched.events {
            let (key, value) = decode(&event.kv)?;
            if event.kind.as_deref() == Some("DELETE") {
                self.keyed.remove(&key);
            } else {
                self.keyed.put(&key, &value);
            }
        }
        Ok(true)
    }
}

/// The lines of a body that has no end.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            match self.body.frame().await {
                None => return Err(Failure::Unreachable("the watch has ended".to_owned())),
                Some(Err(e)) => return Err(Failure::Unreachable(format!("the watch broke off: {}", cause(&e)))),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(Failure::Bad(format!("a line of the watch is longer than {LINE_LIMIT} bytes")));
            }
        }
    }

    /// A whole line is there already.
    fn has_more(&self) -> bool {
        self.buffer.contains(&b'\n')
    }
}

fn decode(pair: &Pair) -> Result<(String, Vec<u8>), Failure> {
    let bytes = |text: &str| BASE64.decode(text.as_bytes()).map_err(|e| Failure::Bad(format!("a key or value is no base64: {e}")));
    Ok((String::from_utf8_lossy(&bytes(&pair.key)?).into_owned(), bytes(&pair.value)?))
}

/// The first key behind all that begin with `prefix`: its last byte that is not 255 counted up; a lone zero = to the end.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn number<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    String::deserialize(d)?.parse().map_err(de::Error::custom)
}

impl fmt::Display for EtcdSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd {}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mode, Proto, VipAddr};

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(range_end("/services/web/"), b"/services/web0");
        assert_eq!(range_end("\u{7f}"), [0x80]);
        assert_eq!(range_end(""), [0]);
    }

    #[test]
    fn lines_of_a_watch() {
        let vip = VipAddr { addr: [192, 0, 2, 10].into(), port: 80, proto: Proto::Tcp };
        let spec = EtcdSpec { urls: vec!["http://a.test".parse().unwrap()], prefix: "/s/".into(), timeout: Duration::from_secs(1) };
        let mut source = EtcdSource::new(spec, Fit { vip, mode: Mode::Nat, port: 80 });
        let mut take = |line: &str| source.take(line.as_bytes());
        assert_eq!(take(r#"{"result":{"header":{"revision":"4"},"created":true}}"#), Ok(true));
        assert_eq!(take(r#"{"result":{"header":{},"events":[{"kv":{"key":"L3MvYQ==","value":"MTAuMC4wLjE="}}]}}"#), Ok(true));
        assert_eq!(take(r#"{"result":{"events":[{"type":"DELETE","kv":{"key":"L3MvYg=="}}]}}"#), Ok(true));
        assert_eq!(take(r#"{"result":{"canceled":true,"compact_revision":"9"}}"#), Ok(false));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"result":{"canceled":true,"cancel_reason":"x"}}"#,
            r#"{"error":{"message":"x"}}"#,
            r#"{"result":{"events":[{"kv":{"key":"?"}}]}}"#,
        ] {
            assert!(take(bad).is_err(), "{bad}");
        }
        assert_eq!(source.keyed.updates().len(), 1);
    }
}
