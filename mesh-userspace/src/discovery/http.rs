//! Endpoints from a list that a web server has: asked for at intervals, or waited for.

use std::{fmt, time::Duration};

use hyper::{
    StatusCode,
    header::{AUTHORIZATION, HeaderName, IF_NONE_MATCH},
};
use tokio::time::Instant;

use super::{
    Failure, Fit, Outlet, Update, entry,
    web::{HttpUrl, Reply},
};
use crate::model::Endpoint;

/// What is asked for, and how often.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSpec {
    pub url: HttpUrl,
    /// From one answer to the next question.
    pub interval: Duration,
    /// For a whole answer.
    pub timeout: Duration,
    /// The server may keep a question so long until the list changes: it is told by `Prefer: wait=SECONDS` (RFC 7240 section 4.3) and by the
    /// query `wait=SECONDSs`, with `index=` what the last answer's header `X-Index` said.
    pub wait: Option<Duration>,
}

/// From the begin of one question to that of the next, so that a server that changes all the time is not asked all the time. One that kept a question for
/// longer is asked again at once.
const GAP: Duration = Duration::from_millis(50);

/// Some servers' ETags don't tell two changes within a second apart: this long they are believed.
const BELIEVED: Duration = Duration::from_secs(60);

/// A list that is asked for again and again.
#[derive(Debug)]
pub struct HttpSource {
    spec: HttpSpec,
    fit: Fit,
    /// Of the last good answer.
    etag: Option<String>,
    index: Option<String>,
    told: Option<Vec<Endpoint>>,
    /// When the list last came in full.
    read_at: Instant,
}

impl HttpSource {
    pub fn new(spec: HttpSpec, fit: Fit) -> Self {
        Self { spec, fit, etag: None, index: None, told: None, read_at: Instant::now() }
    }

    pub(super) async fn run(&mut self, outlet: &Outlet) -> Failure {
        // The first question of a run is answered at once: it shows that the source is back.
        let mut waiting = false;
        loop {
            let asked = Instant::now();
            let index = self.index.clone();
            let changed = match self.ask(waiting).await {
                Ok(changed) => changed,
                Err(failure) => return failure,
            };
            // A list that changed and changed back is no change, but the server keeps questions.
            let has_changed = changed.is_some() || self.index != index;
            outlet.good(changed.map(Update::Reset), None).await;
            let soon = GAP.saturating_sub(asked.elapsed());
            let pause = match self.spec.wait {
                None => self.spec.interval,
                Some(_) if has_changed => soon,
                // A server that keeps no question would else be asked without end.
                Some(wait) if asked.elapsed() < wait / 2 && waiting => self.spec.interval,
                Some(_) => soon,
            };
            waiting = self.spec.wait.is_some();
            tokio::time::sleep(pause).await;
        }
    }

    /// The list, if it is another one than was told.
    async fn ask(&mut self, waiting: bool) -> Result<Option<Vec<Endpoint>>, Failure> {
        let wait = self.spec.wait.filter(|_| waiting);
        let login = self.spec.url.access().authorization("Bearer ")?;
        let mut headers: Vec<(HeaderName, String)> = login.map(|login| (AUTHORIZATION, login)).into_iter().collect();
        headers.extend(self.etag.clone().filter(|_| self.read_at.elapsed() < BELIEVED).map(|etag| (IF_NONE_MATCH, etag)));
        let mut query: Vec<(&str, String)> = Vec::new();
        if let Some(wait) = wait {
            headers.push((HeaderName::from_static("prefer"), format!("wait={}", wait.as_secs())));
            query.push(("wait", format!("{}s", wait.as_secs())));
            query.extend(self.index.clone().map(|index| ("index", index)));
        }
        let query: Vec<_> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let limit = self.spec.timeout + wait.unwrap_or_default();
        let reply = self.spec.url.get(&self.spec.url.with("", &query), &headers, limit).await?;
        if reply.status == StatusCode::NOT_MODIFIED && self.etag.is_some() && self.told.is_some() {
            return Ok(None);
        }
        self.take(&reply)
    }

    fn take(&mut self, reply: &Reply) -> Result<Option<Vec<Endpoint>>, Failure> {
        let list = entry::list(reply.success()?).map_err(Failure::Bad)?;
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (i, value) in list.into_iter().enumerate() {
            let endpoint = entry::from_value(value).and_then(|told| self.fit.endpoint(told));
            endpoints.push(endpoint.map_err(|e| Failure::Bad(format!("entry {}: {e}", i + 1)))?);
        }
        endpoints.sort_by_key(|e| e.id);
        if let Some(twice) = endpoints.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Failure::Bad(format!("{} is listed twice", twice[0].id)));
        }
        self.read_at = Instant::now();
        (self.etag, self.index) = (reply.header("etag"), reply.header("x-index"));
        let changed = self.told.as_ref() != Some(&endpoints);
        self.told = Some(endpoints.clone());
        Ok(changed.then_some(endpoints))
    }
}

impl fmt::Display for HttpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http {}", self.url.to_string().trim_start_matches("https://").trim_start_matches("http://"))
    }
}
