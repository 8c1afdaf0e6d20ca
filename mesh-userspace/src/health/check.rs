//! What to ask a target, how often, and what answer is right.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use hyper::{Uri, header::HeaderValue};

use super::Thresholds;
use crate::model::{BackendId, ServiceName};

/// One backend of one service: each service may ask the same host something else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetKey {
    pub service: ServiceName,
    pub backend: BackendId,
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.backend)
    }
}

/// A check of one target.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    pub kind: CheckKind,
    /// Where to ask: the backend's address, with the probe port if that is another one.
    pub address: SocketAddr,
    /// Address to ask from; `None` = the kernel chooses.
    pub source: Option<IpAddr>,
    /// From one check's start to the next one's, at least [`Check::MIN_INTERVAL`]. A check never overtakes the one before.
    pub interval: Duration,
    /// For all of one check: connect, request and answer.
    pub timeout: Duration,
    /// Passed checks in a row that make the target up, at least 1.
    pub rise: u32,
    /// Failed checks in a row that make the target down, at least 1.
    pub fall: u32,
}

impl Check {
    /// Shortest interval: below it a scheduler's delay looks like a failure.
    pub const MIN_INTERVAL: Duration = Duration::from_millis(10);

    /// A check of `address` every second, up after 2 and down after 3.
    pub fn new(kind: CheckKind, address: SocketAddr) -> Self {
        let second = Duration::from_secs(1);
        Self { kind, address, source: None, interval: second, timeout: second, rise: 2, fall: 3 }
    }

    pub fn thresholds(&self) -> Thresholds {
        Thresholds { rise: self.rise, fall: self.fall }
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub enum CheckKind {
    /// A connection is accepted.
    Tcp,
    /// A GET is answered with a status that is expected.
    Http(HttpCheck),
}

/// One HTTP/1.1 GET.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpCheck {
    path: Uri,
    host: Option<HeaderValue>,
    expect: StatusSet,
}

/// Why a check can't be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadCheck {
    #[error("`{0}` is no path to check: it starts with `/`, without spaces or a fragment")]
    Path(String),
    #[error("`{0}` is no host name for a check")]
    Host(String),
    #[error("`{0}` is no set of HTTP statuses: write `200`, `200-399` or `200-299,404`")]
    Status(String),
}

impl HttpCheck {
    /// `path` may have a query; `host` stands in the Host header, the checked address if `None`.
    pub fn new(path: &str, host: Option<&str>, expect: StatusSet) -> Result<Self, BadCheck> {
        let bad_path = || BadCheck::Path(path.into());
        if !path.starts_with('/') || path.contains('#') {
            return Err(bad_path());
        }
        Ok(Self { path: path.parse().map_err(|_| bad_path())?, host: host.map(host_header).transpose()?, expect })
    }

    pub fn path(&self) -> &Uri {
        &self.path
    }

    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    pub fn expect(&self) -> &StatusSet {
        &self.expect
    }
}

fn host_header(host: &str) -> Result<HeaderValue, BadCheck> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(fits) {
        return Err(BadCheck::Host(host.into()));
    }
    HeaderValue::from_str(host).map_err(|_| BadCheck::Host(host.into()))
}

/// HTTP statuses that count as passed, written `200-299,404`. The default is `200-399`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

impl StatusSet {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|r| r.contains(&status))
    }
}

impl Default for StatusSet {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl FromStr for StatusSet {
    type Err = BadCheck;

    fn from_str(s: &str) -> Result<Self, BadCheck> {
        let ranges: Option<Vec<_>> = s.split(',').map(|part| status_range(part.trim())).collect();
        ranges.map(Self).ok_or_else(|| BadCheck::Status(s.into()))
    }
}

fn status_range(s: &str) -> Option<RangeInclusive<u16>> {
    let status = |s: &str| s.trim().parse().ok().filter(|n| (100..=599).contains(n));
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    let range = status(first)?..=status(last)?;
    (!range.is_empty()).then_some(range)
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match (r.start(), r.end()) {
                (a, b) if a == b => write!(f, "{comma}{a}")?,
                (a, b) => write!(f, "{comma}{a}-{b}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let set: StatusSet = "200-299, 404".parse().unwrap();
        assert_eq!(set.to_string(), "200-299,404");
        for (status, expected) in [(199, false), (200, true), (299, true), (300, false), (404, true), (405, false)] {
            assert_eq!(set.contains(status), expected, "{status}");
        }
        assert!(StatusSet::default().contains(302) && !StatusSet::default().contains(500));
        for bad in ["", "ok", "99", "600", "300-200", "200-", "-200", "200,,201", "200-299-300", "70000"] {
            assert_eq!(bad.parse::<StatusSet>(), Err(BadCheck::Status(bad.into())), "{bad}");
        }
    }

    #[test]
    fn paths_and_hosts() {
        let check = |path, host| HttpCheck::new(path, host, StatusSet::default());
        for good in ["/", "/healthz", "/a/b?c=d&e", "/%20"] {
            assert!(check(good, None).is_ok(), "{good}");
        }
        for bad in ["", "healthz", "http://x/", "/a b", "/a#b", "/\r\nX: y", "*"] {
            assert_eq!(check(bad, None), Err(BadCheck::Path(bad.into())), "{bad}");
        }
        for good in ["example.org", "example.org:8080", "[2001:db8::1]:80", "a_b"] {
            assert!(check("/", Some(good)).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\r\nX: y", "a/b", "ä"] {
            assert_eq!(check("/", Some(bad)), Err(BadCheck::Host(bad.into())), "{bad}");
        }
    }
}
