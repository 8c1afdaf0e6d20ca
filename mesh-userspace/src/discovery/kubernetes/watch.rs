//! One kind of objects, listed and then watched: through bookmarks, ended and broken streams, and versions that are gone.

use std::{error::Error, fmt, io::ErrorKind, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ClusterAccess;
use crate::discovery::Failure;

/// Streams that break off one after the other, with nothing between, before the server counts as gone.
const BREAKS: u32 = 3;

/// What happened to the objects.
#[derive(Debug)]
pub enum Change<K> {
    /// These and no others.
    All(Vec<K>),
    Put(K),
    Gone(K),
}

/// Why they can't be followed.
#[derive(Debug)]
pub enum Broken {
    /// The server does not know this kind of objects.
    Missing(String),
    Failed(Failure),
}

/// Objects that are followed.
pub struct Watch<K> {
    stream: BoxStream<'static, watcher::Result<Event<K>>>,
    /// What has come of a list that is not complete.
    list: Option<Vec<K>>,
    /// For each piece of the first list.
    limit: Duration,
    breaks: u32,
}

impl<K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static> Watch<K> {
    pub fn new(api: Api<K>, config: watcher::Config, access: &ClusterAccess) -> Self {
        let wait = u32::try_from(access.wait.as_secs()).unwrap_or(u32::MAX).clamp(1, 290);
        let stream = followed(watcher(api, config.timeout(wait)));
        Self { stream, list: Some(Vec::new()), limit: access.timeout, breaks: 0 }
    }

    /// Waits for a change. Cancel safe: what was listed so far is kept.
    pub async fn next(&mut self) -> Result<Change<K>, Broken> {
        loop {
            let event = match &self.list {
                None => self.stream.next().await,
                Some(_) => timeout(self.limit, self.stream.next())
                    .await
                    .map_err(|_| unreachable(format!("the API server did not answer within {:?}", self.limit)))?,
            };
            if let Some(change) = self.take(event)? {
                return Ok(change);
            }
        }
    }

    /// A change that is there already.
    pub fn ready(&mut self) -> Option<Result<Change<K>, Broken>> {
        loop {
            let event = self.stream.next().now_or_never()?;
            if let Some(result) = self.take(event).transpose() {
                return Some(result);
            }
        }
    }

    fn take(&mut self, event: Option<watcher::Result<Event<K>>>) -> Result<Option<Change<K>>, Broken> {
        let event = match event {
            None => return Err(unreachable("the watch has ended".to_owned())),
            Some(Err(error)) => return self.goes_on(error).map(|()| None),
            Some(Ok(event)) => event,
        };
        self.breaks = 0;
        Ok(match event {
            Event::Init => {
                self.list = Some(Vec::new());
                None
            }
            Event::InitApply(object) => {
                self.list.get_or_insert_default().push(object);
                None
            }
            Event::InitDone => Some(Change::All(self.list.take().unwrap_or_default())),
            Event::Apply(object) => Some(Change::Put(object)),
            Event::Delete(object) => Some(Change::Gone(object)),
        })
    }

    /// Whether the stream mends itself: it lists anew where its version is gone, and goes on from it where a connection broke.
    fn goes_on(&mut self, error: watcher::Error) -> Result<(), Broken> {
        match error {
            watcher::Error::WatchError(status) if status.code == 410 => {
                self.list = Some(Vec::new());
                Ok(())
            }
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => Err(Broken::Missing(status.message)),
            watcher::Error::WatchFailed(kube::Error::SerdeError(e)) => Err(Broken::Failed(Failure::Bad(e.to_string()))),
            watcher::Error::InitialListFailed(kube::Error::SerdeError(e)) => Err(Broken::Failed(Failure::Bad(e.to_string()))),
            watcher::Error::WatchFailed(_) if self.breaks < BREAKS => {
                self.breaks += 1;
                Ok(())
            }
            // The connection of the last watch may end while the next one is asked for by it.
            watcher::Error::WatchStartFailed(e) if self.breaks < BREAKS && broke_off(&e) => {
                self.breaks += 1;
                Ok(())
            }
            other => Err(unreachable(chain(&other))),
        }
    }
}

impl Broken {
    pub fn failure(self) -> Failure {
        match self {
            Self::Missing(what) => Failure::Unreachable(what),
            Self::Failed(failure) => failure,
        }
    }
}

fn followed<K: Send + 'static>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> BoxStream<'static, watcher::Result<Event<K>>> {
    stream.boxed()
}

fn unreachable(why: String) -> Broken {
    Broken::Failed(Failure::Unreachable(why))
}

/// Whether a connection that there was ended before the answer; none at all, and one that is silent, are something else.
fn broke_off(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let of_http = cause.downcast_ref::<hyper::Error>().is_some_and(|e| e.is_incomplete_message() || e.is_canceled());
        let of_stream =
            cause.downcast_ref::<std::io::Error>().is_some_and(|e| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
        if of_http || of_stream {
            return true;
        }
        next = cause.source();
    }
    false
}

/// The error and what caused it; each says only its own part.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

impl<K> fmt::Debug for Watch<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("listing", &self.list.is_some()).field("breaks", &self.breaks).finish_non_exhaustive()
    }
}
