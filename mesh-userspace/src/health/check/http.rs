use hyper::{
    HeaderMap, Uri,
    header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

use super::{BadCheck, StatusSet, TlsCheck};

/// One HTTP/1.1 GET.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpCheck {
    path: Uri,
    host: Option<HeaderValue>,
    expect: StatusSet,
    headers: HeaderMap,
    body: Option<String>,
    load: Option<HeaderName>,
    tls: Option<TlsCheck>,
}

impl HttpCheck {
    /// `path` may have a query; `host` stands in the Host header, the checked address if `None`.
    pub fn new(path: &str, host: Option<&str>, expect: StatusSet) -> Result<Self, BadCheck> {
        let bad_path = || BadCheck::Path(path.into());
        if !path.starts_with('/') || path.contains('#') {
            return Err(bad_path());
        }
        Ok(Self {
            path: path.parse().map_err(|_| bad_path())?,
            host: host.map(host_header).transpose()?,
            expect,
            headers: HeaderMap::new(),
            body: None,
            load: None,
            tls: None,
        })
    }

    /// The same, with one more header in the request.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, BadCheck> {
        let bad = || BadCheck::Header(name.into());
        let header: HeaderName = name.parse().map_err(|_| bad())?;
        if [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&header) {
            return Err(bad());
        }
        self.headers.append(header, HeaderValue::from_str(value).map_err(|_| bad())?);
        Ok(self)
    }

    /// The same, passed only if the body holds `text` (in its first 64 KiB).
    pub fn body_with(self, text: &str) -> Self {
        Self { body: Some(text.to_owned()), ..self }
    }

    /// The same, with the backend's load read from this header of its answers.
    pub fn load_from(self, name: &str) -> Result<Self, BadCheck> {
        let load = Some(name.parse().map_err(|_| BadCheck::Header(name.into()))?);
        Ok(Self { load, ..self })
    }

    /// The same over TLS.
    pub fn over(self, tls: TlsCheck) -> Self {
        Self { tls: Some(tls), ..self }
    }

    pub fn path(&self) -> &Uri {
        &self.path
    }

    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Headers besides Host and those that every probe sends.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What the body has to hold.
    pub fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// Header of the answer that holds the backend's load.
    pub fn load(&self) -> Option<&HeaderName> {
        self.load.as_ref()
    }

    pub fn tls(&self) -> Option<&TlsCheck> {
        self.tls.as_ref()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let check = || HttpCheck::new("/", None, StatusSet::default()).unwrap();
        assert_eq!(check().header("X-Probe", "mesh").unwrap().headers()["x-probe"], "mesh");
        for (name, value) in [("Host", "x"), ("connection", "close"), ("a b", "x"), ("", "x"), ("X-A", "a\r\nX-B: b")] {
            assert_eq!(check().header(name, value), Err(BadCheck::Header(name.into())));
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
