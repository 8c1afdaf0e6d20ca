use std::{collections::VecDeque, convert::Infallible};

use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{App, stopped};
use crate::events::Event;

/// Events after number `since`, one JSON value per line, without an end until one side stops.
pub(super) fn lines(app: App, since: u64) -> Response {
    // Subscribed before the kept ones are fetched: what comes in between comes twice, and is told once.
    let follower = Follower { live: app.handle.follow(), app, last: since, waiting: VecDeque::new(), behind: true };
    let lines = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), follower))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

struct Follower {
    app: App,
    live: broadcast::Receiver<Event>,
    /// Number of the last event that was told.
    last: u64,
    waiting: VecDeque<Event>,
    /// Events were missed, and have to be fetched from those that are kept.
    behind: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        let stopping = self.app.stopping.clone();
        tokio::select! {
            event = self.next_event() => event,
            () = stopped(stopping) => None,
        }
    }

    async fn next_event(&mut self) -> Option<Event> {
        loop {
            if std::mem::take(&mut self.behind) {
                self.waiting = self.app.handle.events(self.last).await.ok()?.into();
            }
            let event = match self.waiting.pop_front() {
                Some(event) => event,
                None => match self.live.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => {
                        self.behind = true;
                        continue;
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            if event.seq > self.last {
                self.last = event.seq;
                return Some(event);
            }
        }
    }
}
